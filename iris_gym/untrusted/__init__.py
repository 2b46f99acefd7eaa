"""Reading files that strangers wrote: looked at before they are read, never run and never unpacked.

What a file says of itself (sizes, offsets, shapes) is held against what it really has before memory is set aside for
it. Everything that does not fit ends in a `UsageError`.
"""
