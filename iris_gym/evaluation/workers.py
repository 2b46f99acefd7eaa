"""Episodes played in several processes, each with environments and networks of its own.

The parent deals the seeds, one question of a worker at a time, so that no worker waits while another has work left.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import torch

from iris_gym.errors import UsageError
from iris_gym.evaluation.rows import Deal, EpisodeScore, OpenEnv, Player, Rows


def play_in_processes(
    player: Player,
    open_env: OpenEnv,
    rows: int,
    *,
    workers: int,
    max_steps: int,
    deal: Deal,
    on_episode: Callable[[EpisodeScore], object],
) -> None:
    """Play all that `deal` gives; `on_episode` is called in this process.

    Player and environments are sent to each worker, whose torch has one thread.

    Raises:
        UsageError: a worker met one, or was killed.
        RuntimeError: anything else went wrong in a worker; the message holds its traceback.
    """
    job = pickle.dumps((player, open_env, rows, max_steps))
    crew = _start(workers, job)
    try:
        while crew:
            for connection in wait(list(crew)):
                worker = cast(Connection, connection)  # on Windows a pipe's end of another class
                if not _serve(worker, crew[worker], deal, on_episode):
                    crew.pop(worker).join()
    finally:
        for process in crew.values():
            process.kill()
            process.join()


def _start(workers: int, job: bytes) -> dict[Connection, SpawnProcess]:
    """New processes rather than forks: threads and a GPU's context do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    crew = {}
    with _interrupts_ignored():  # workers inherit it: Ctrl-C reaches all processes, but is the parent's to handle
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, job), daemon=True)
            process.start()
            there.close()  # the worker's end, whose last copy is now the worker's: it closes when the worker dies
            crew[here] = process
    return crew


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(
    connection: Connection, process: SpawnProcess, deal: Deal, on_episode: Callable[[EpisodeScore], object]
) -> bool:
    """Answer one message of a worker; False after its last."""
    kind, content = _receive(connection, process)
    if kind == "free rows":
        _send(connection, process, deal(content))
    elif kind == "score":
        on_episode(content)
    elif kind == "unusable":
        raise UsageError(content)
    elif kind == "failed":
        raise RuntimeError(f"a worker process failed:\n{content}")
    return kind != "done"


def _receive(connection: Connection, process: SpawnProcess) -> tuple[str, Any]:
    try:
        return connection.recv()
    except (EOFError, OSError):
        raise UsageError(_lost(process)) from None


def _send(connection: Connection, process: SpawnProcess, answer: Any) -> None:
    try:
        connection.send(answer)
    except OSError:
        raise UsageError(_lost(process)) from None


def _lost(process: SpawnProcess) -> str:
    process.join()  # its end of the pipe is closed, so there is nothing left of it to wait for
    code = process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
    return (
        f"workers: process {process.pid} {how} before its games were over, so there are no scores; "
        "where memory ran out, fewer workers need less"
    )


def _work(connection: Connection, job: bytes) -> None:
    """What a worker does: ask for seeds, play them, tell the scores."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        _play(connection, job)
        connection.send(("done", None))
    except UsageError as error:
        connection.send(("unusable", str(error)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))


def _play(connection: Connection, job: bytes) -> None:
    player, open_env, count, max_steps = pickle.loads(job)
    rows = Rows(player, open_env, count, max_steps=max_steps)

    def deal(free: Sequence[int]) -> Any:
        connection.send(("free rows", free))
        return connection.recv()

    try:
        rows.play(deal, lambda score: connection.send(("score", score)))
    finally:
        rows.close()


def _leave_with_parent() -> None:
    """Do not play on for a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
