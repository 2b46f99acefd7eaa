"""The commands of the command line, a file each: a dataclass whose fields are its flags, and `run`."""
