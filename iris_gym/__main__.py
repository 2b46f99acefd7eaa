"""`iris-gym`, and `python -m iris_gym`: prepare the process, then run the command line."""

from iris_gym.process import prepare_process


def main() -> None:
    prepare_process()
    from iris_gym.cli import main as run_command_line  # imports torch, which has to come after

    run_command_line()


if __name__ == "__main__":
    main()
