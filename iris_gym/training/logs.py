"""Logs of a run folder, through Stable-Baselines3's logger."""

import csv
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import (
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)

PROGRESS = "progress.csv"
EVENTS = "events.out.tfevents.*"


def run_logger(folder: Path, verbose: int) -> Logger:
    """TensorBoard and `progress.csv` in `folder`, and a table on the terminal where `verbose` asks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    formats: list[Any] = [ProgressFile(folder / PROGRESS), TensorBoardOutputFormat(str(folder))]
    if verbose:
        formats.append(HumanOutputFormat(sys.stdout))
    return Logger(str(folder), formats)


def close_logger(logger: Logger) -> None:
    """Close the files of a run that is over. What a full disk did not take was told when it was logged."""
    for output in logger.output_formats:
        with suppress(OSError):
            output.close()


class ProgressFile(KVWriter):
    """`progress.csv`: a line a dump, and a column for every name that was ever logged.

    It goes on in the file that is there, but for a line that a crash tore. Stable-Baselines3's `CSVOutputFormat` would
    empty it, and would lose lines to a crash while it adds a column.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: Any = None
        lines = _whole_lines(path)
        self.columns: list[str] = next(csv.reader(lines[:1]), [])
        self._open(lines)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        values = {name: value for name, value in values.items() if np.isscalar(value)}  # pictures are for TensorBoard
        new = sorted(values.keys() - set(self.columns))
        if new:
            self.columns += new
            earlier = [line.rstrip("\n") + "," * len(new) + "\n" for line in _whole_lines(self.path)[1:]]
            self._open([_line(self.columns), *(earlier)])
        self.file.write(_line([values.get(name, "") for name in self.columns]))
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _open(self, lines: list[str]) -> None:
        """Go on after `lines`, which take the place of the file at once or not at all."""
        if self.file is not None:
            self.file.close()
        _replace(self.path, lines)
        self.file = self.path.open("a", newline="")


def log_marks(logger: Logger) -> dict[str, Any]:
    """How far the logs of `run_logger` have come: the lines of the CSV file, the bytes of each TensorBoard file."""
    folder = Path(logger.get_dir() or "")
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            output.writer.flush()
    sizes = {path.name: path.stat().st_size for path in folder.glob(EVENTS)}
    return {"lines": len(_whole_lines(folder / PROGRESS)), "events": sizes}


def rewind_logs(folder: Path, marks: dict[str, Any]) -> None:
    """Take away what was logged after `marks` were taken, by a process that was killed."""
    if (folder / PROGRESS).exists():
        _replace(folder / PROGRESS, _whole_lines(folder / PROGRESS)[: marks["lines"]])
    for path in folder.glob(EVENTS):
        if path.name in marks["events"]:
            os.truncate(path, min(marks["events"][path.name], path.stat().st_size))
        else:
            path.unlink()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file but a last one without end; none where there is no file."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines(keepends=True)


def _line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue().rstrip("\n").replace("\n", " ") + "\n"


def _replace(path: Path, lines: list[str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines))
    temporary.replace(path)
