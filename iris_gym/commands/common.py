"""What several commands share."""

from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from iris_gym.config import IRISConfig
from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import shown

Preset = Annotated[str, tyro.conf.arg(metavar="{auto,default,paper,small,tiny}[+freeway][+low-memory]")]

MOST_THREADS = 1_024

SMALL_WIDTH = 128
"""Of a transformer whose operations are too short to be shared among threads."""


def set_threads(threads: int | None, config: IRISConfig) -> None:
    """Have torch use so many CPU threads. None: one where the networks are small, torch's own choice otherwise.

    On an idle machine of two cores a second thread gains a small network a third at the most. Where another program
    runs beside, it costs a multiple; two runs of one thread each are faster than one run of two.
    """
    if threads is not None and not (type(threads) is int and 1 <= threads <= MOST_THREADS):  # it may be a file's
        raise UsageError(
            f"threads={shown(threads)} must be a whole number greater than 0 and at most {MOST_THREADS}, or left out"
        )
    if threads is None and config.transformer_embed_dim <= SMALL_WIDTH:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def required_run_dir(run_dir: Path | None) -> Path:
    if run_dir is None:
        raise UsageError("run_dir=None cannot be resumed; give the run's folder with --run-dir")
    return run_dir
