"""`iris-gym`, and `python -m iris_gym`: prepare the process, then run the command line."""

import signal
import sys

from iris_gym.process import prepare_process


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is temporary is removed then
    try:
        prepare_process()
        from iris_gym.cli import main as run_command_line  # imports torch, which has to come after
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    run_command_line()


if __name__ == "__main__":
    main()
