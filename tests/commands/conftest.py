"""Commands in this process."""

import pytest

from iris_gym.cli import main


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Run a command in an empty working folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        return (exited.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """A command that has to end with one line on stderr and status 2; returns the line."""

    def run(*arguments: object) -> str:
        status, out, err = cli(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), (status, out, err)
        assert err.startswith("iris-gym: error: ")
        return err

    return run
