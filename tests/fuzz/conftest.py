"""Inputs that nobody would write, made out of valid ones: how many, and what may come of them.

A short run belongs to the suite. A long one: `python -m pytest tests/fuzz --fuzz-examples 2000`. Whatever the number,
the same examples are drawn each time.
"""

import collections
import gc
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import Game

from iris_gym import IRISAgent, IRISConfig, UsageError

OUTCOMES: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
"""By target: how many inputs were taken, and how many were refused."""

MEMORY = 1_500_000_000
"""Bytes that no input may take beyond what is in use; networks of a tiny agent take one."""


Target = Callable[[Any], object]


@pytest.fixture
def fuzz(request) -> Callable[..., None]:
    """Give a target so many values of a strategy: `fuzz(strategy, target)`. It may return, or raise a `UsageError`
    of one line; anything else fails the test, with the smallest value that does it."""
    name = request.node.name.removeprefix("test_")
    wanted = request.config.getoption("--fuzz-examples", None)

    def run(strategy: st.SearchStrategy, target: Target, *, share: float = 1.0, fewest: int = 20) -> None:
        @settings(
            max_examples=max(round(share * wanted), 1) if wanted else fewest,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def every(value: Any) -> None:
            try:
                with limited_memory():
                    target(value)
            except UsageError as error:
                assert "\n" not in str(error), "more than one line"
                assert len(str(error)) < 2_000, "no line that anybody reads"
                OUTCOMES[name]["refused"] += 1
            else:
                OUTCOMES[name]["taken"] += 1
                gc.collect()  # agents, and the files that they map into memory, hold one another

        gc.freeze()
        try:
            every()
        finally:
            gc.unfreeze()

    return run


@contextmanager
def limited_memory() -> Iterator[None]:
    """What would fill the machine's memory raises a `MemoryError` here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        in_use = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pytest_terminal_summary(terminalreporter) -> None:
    if not OUTCOMES:
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    terminalreporter.section(f"fuzzed, peak resident memory {peak:,.0f} MB")
    for name, counts in sorted(OUTCOMES.items()):
        terminalreporter.write_line(f"{name:40} {counts.total():7,} inputs, {counts['taken']:7,} of them taken")
    total = sum(counts.total() for counts in OUTCOMES.values())
    terminalreporter.write_line(f"{'all':40} {total:7,} inputs")


# ------------------------------------------------------------------ valid files to start from


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A folder with a tiny agent in every form: `run/`, `agent.zip`, `shared/`."""
    folder = tmp_path_factory.mktemp("saved")
    config = IRISConfig.tiny(
        vocab_size=8, token_embedding_dim=4, transformer_layers=1, transformer_embed_dim=8, lstm_dim=4, total_epochs=3
    )
    agent = IRISAgent(Game(), config, seed=0, device="cpu", run_dir=folder / "run")
    agent.learn(60)
    agent.save(folder / "agent.zip")
    agent.save_pretrained(folder / "shared")
    *older, newest = sorted((folder / "run" / "checkpoints").iterdir())
    for checkpoint in older:  # nothing to fall back on
        shutil.rmtree(checkpoint)
    (newest / "complete").write_text("")  # and no checksums
    return folder


@pytest.fixture
def copy_of(saved, tmp_path) -> Callable[[str], Path]:
    """A copy of one of them, which a test may spoil."""

    def copied(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return shutil.copytree(saved / name, tmp_path / name)

    return copied
