"""`python -m iris_gym`: the same as `iris-gym`."""

from iris_gym.cli import main

if __name__ == "__main__":
    main()
