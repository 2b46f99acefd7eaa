"""The command line: reads it, and runs the command. The commands themselves lie in `commands/`."""

import argparse
import contextlib
import io
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import ale_py
import tyro
from rich.console import Console

from iris_gym.assembly import choose_device
from iris_gym.commands.bench import Bench
from iris_gym.commands.common import required_run_dir
from iris_gym.commands.evaluate import Evaluate
from iris_gym.commands.import_published import Import
from iris_gym.commands.plot import Plot
from iris_gym.commands.record import Record
from iris_gym.commands.report import Report
from iris_gym.commands.scores import Scores
from iris_gym.commands.train import Train
from iris_gym.config import IRISConfig, preset, read_mapping
from iris_gym.errors import RunError, UsageError, one_line
from iris_gym.training.run_folder import RunFolder

LONGEST_COMPLAINT = 600
"""Characters; an argument that is wrong may be of any length."""

DESCRIPTION = "IRIS: train an agent inside a learned world model, and look at what it has learned."


def parse(arguments: Sequence[str]) -> Train | Evaluate | Scores | Plot | Record | Report | Bench | Import:
    """Read the command line. Flags of hyperparameters default to the preset's, the file's or the resumed run's."""
    base = _base_config(arguments)
    commands = Annotated[
        Annotated[Train, tyro.conf.subcommand("train", default=Train(base))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Scores, tyro.conf.subcommand("scores")]
        | Annotated[Plot, tyro.conf.subcommand("plot")]
        | Annotated[Record, tyro.conf.subcommand("record")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Bench, tyro.conf.subcommand("bench", default=Bench(base))]
        | Annotated[Import, tyro.conf.subcommand("import")],
        None,
    ]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(commands, args=list(arguments), prog="iris-gym", description=DESCRIPTION)  # type: ignore[arg-type]
    except SystemExit as error:
        if error.code:
            raise UsageError(_said_in(complaint.getvalue())) from error
        _flush_output()  # after --help
        raise
    except BrokenPipeError:  # nobody reads the help to its end
        _silence_output()
        sys.exit(0)


class PatientConsole(Console):
    """A console that falls silent where nobody reads it any more, as after `| head`. Rich would end the process, and a
    run with it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _silence_output()


def _flush_output() -> None:
    """Here and not as the process ends, whose status would be 120 where nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_output()


def _silence_output() -> None:
    """Else what is left to write fails once more as the process ends."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.close(silence)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 after a line about bad input, with 1 after one about what made it fail (a full
    disk, a broken environment), or with 128 + the signal that stopped a run."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold what no encoding knows
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: print(f"iris-gym: warning: {message}", file=sys.stderr)
    threading.excepthook = _except_for_full_disks
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        status = command.run(PatientConsole())
    except UsageError as error:
        print(f"iris-gym: error: {error}", file=sys.stderr)
        status = 2
    except (RunError, OSError) as error:
        print(f"iris-gym: error: {one_line(error)}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


def _except_for_full_disks(arguments: threading.ExceptHookArgs) -> None:
    """What TensorBoard's thread cannot write, the training hears of at its next line, and `main` says it once."""
    if not issubclass(arguments.exc_type, OSError):
        threading.__excepthook__(arguments)


def _base_config(arguments: Sequence[str]) -> IRISConfig:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", "--run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        known = parser.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])[0]
    except argparse.ArgumentError:  # a value is missing, and tyro will say so
        return IRISConfig()
    resumed = known.resume and RunFolder(required_run_dir(known.run_dir)).exists
    run_config = IRISConfig.load(RunFolder(known.run_dir).config_file) if resumed else None
    if run_config is not None and known.preset is None:
        base = run_config
    else:
        base = preset(known.preset or "auto", choose_device(known.device).type)
        if run_config is not None:  # the command judges whether the preset is the run's; no preset tells the game
            base = base.replace(env=run_config.env)
    return base if known.config is None else base.replace(**read_mapping(known.config))


def _is_rule(line: str) -> bool:
    return len(line) > 3 and not line.strip("─-")


def _said_in(box: str) -> str:
    """What tyro says in a box of several lines, up to the rule that parts it from the hints below.

    Where the terminal knows ASCII only, there is a rule above, too.
    """
    lines = [line.strip("│╭╮╰╯|+ ") for line in box.splitlines()][1:]
    below = itertools.dropwhile(_is_rule, lines)
    said = itertools.takewhile(lambda line: not _is_rule(line), below)
    text = " ".join(line for line in said if line)
    return (text if len(text) <= LONGEST_COMPLAINT else text[:LONGEST_COMPLAINT] + "…") + "; see iris-gym --help"
