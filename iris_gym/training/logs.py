"""Logs of a run folder, through Stable-Baselines3's logger."""

import sys
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, Logger, TensorBoardOutputFormat


def run_logger(folder: Path, verbose: int) -> Logger:
    """TensorBoard and `progress.csv` in `folder`, and a table on the terminal where `verbose` asks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    formats = [_continued_csv(folder / "progress.csv"), TensorBoardOutputFormat(str(folder))]
    if verbose:
        formats.append(HumanOutputFormat(sys.stdout))
    return Logger(str(folder), formats)


def _continued_csv(path: Path) -> CSVOutputFormat:
    """Stable-Baselines3 empties the file when it opens it; what an earlier part of the run wrote is put back."""
    earlier = path.read_text() if path.exists() else ""
    earlier = earlier[: earlier.rfind("\n") + 1]  # a crash may have torn the last line
    output = CSVOutputFormat(str(path))
    if earlier:
        output.file.write(earlier)
        output.file.flush()
        output.keys = earlier.splitlines()[0].split(",")
    return output
