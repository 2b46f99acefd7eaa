"""Kill trainings at random moments, resume them, and compare what they end with to runs that were never stopped.

    python tests/faults/kills.py --kills 50

Each kind of run is trained once without a stop. Then it is started again and again, each time in a process of its own
that gets SIGKILL, or now and then SIGTERM or SIGINT, at a random moment, until one ends by itself. Its weights,
optimizers, random states, replay, metrics and pictures have to be those of the first run, to the last bit. The
processes are forked from one that has imported everything, so that signals hit the training and not the imports.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer of each process would ask for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iris_gym.cli import main

TINY = ["--preset", "tiny", "--device", "cpu", "--seed", "5", "--total-timesteps", "130", "--final-episodes", "0"]
GRID = ["--env", "MiniGrid-LavaGapS5-v0"]
BREAKOUT = ["--env", "ALE/Breakout-v5"]
KINDS = {
    "atari": [*TINY, *BREAKOUT],
    "atari, ale's preprocessing": [*TINY, *BREAKOUT, "--preprocessing", "ale"],
    "atari, sticky actions": [*TINY, *BREAKOUT, "--no-atari-100k"],
    "minigrid, evaluated": [*TINY, *GRID, "--eval-interval", "2", "--eval-episodes", "2"],
    "minigrid, autoencoder stops": [*TINY, *GRID, "--stop-autoencoder-after", "4", "--slow-autoencoder-after", "2"],
}
COUNTERS = ("time/epoch", "time/total_timesteps")
STOPS = [signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT]
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def train(arguments: list[str], folder: Path, log: Path) -> int:
    """Fork a process that trains; returns its id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STATUS)  # a signal is not to find the child before it trains
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STATUS)
        return process
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 99
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STATUS)
        main(["train", "--run-dir", str(folder), "--resume", *arguments])
    except SystemExit as error:
        status = int(error.code or 0)
    except KeyboardInterrupt:
        status = 130
    finally:
        sys.stdout.flush()
        os._exit(status)


def straight(arguments: list[str], folder: Path, log: Path) -> float:
    """Train without a stop; returns the seconds it took."""
    begun = time.monotonic()
    status = os.waitstatus_to_exitcode(os.waitpid(train(arguments, folder, log), 0)[1])
    assert status == 0, f"a run without a stop ended with status {status}: {log.read_text()}"
    return time.monotonic() - begun


def stopped(arguments: list[str], folder: Path, log: Path, seconds: float, number: signal.Signals) -> bool:
    """Train, and send a signal after some seconds. Whether that stopped it, rather than that it had ended by then."""
    process, begun = train(arguments, folder, log), time.monotonic()
    ended, wait_status = 0, 0
    while not ended and time.monotonic() - begun < seconds:
        time.sleep(0.001)
        ended, wait_status = os.waitpid(process, os.WNOHANG)
    if not ended:
        os.kill(process, number)
        _, wait_status = os.waitpid(process, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    expected = {0, -number, STATUS.get(number, -number)}
    assert status in expected, f"{number.name} ended a run with status {status}: {log.read_text()}"
    return status != 0


def content(folder: Path) -> dict[str, Any]:
    """All that a run ends with, but for times."""
    newest = max((folder / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    rows = state["replay_rows"]
    del state["logs"]
    for episode in state["agent"]["episodes"]:
        del episode["t"]
    return {
        "checkpoint": newest.name,
        "state": state,
        "weights": digest((newest / "weights.safetensors").read_bytes()),
        "training": digest((newest / "training.safetensors").read_bytes()),
        "frames": digest((folder / "replay" / "frames.bin").read_bytes()[: rows * 3 * 64 * 64]),
        "steps": digest((folder / "replay" / "steps.bin").read_bytes()[: rows * 18]),
        "csv": progress(folder / "logs" / "progress.csv"),
        "tensorboard": scalars(folder / "logs"),
        "pictures": {path.name: digest(path.read_bytes()) for path in (folder / "media").iterdir()},
    }


def is_time(name: str) -> bool:
    """Whether a metric tells of this machine at this time: a rate, a duration, its memory."""
    return name.startswith("time/") and name not in COUNTERS


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def progress(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if value and not is_time(name)} for row in rows]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not is_time(tag)]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs. A run that was stopped by a signal may have more pictures."""
    extra = found["pictures"].keys() - expected["pictures"].keys()
    found["pictures"] = {name: value for name, value in found["pictures"].items() if name not in extra}
    return [f"{name}: {expected[name]} became {found[name]}" for name in expected if expected[name] != found[name]]


def kill(kind: str, root: Path, wanted: int, draws: random.Random) -> tuple[int, int, int]:
    """Kill runs of a kind `wanted` times at least; returns the signals of all kinds, the SIGKILLs and the runs."""
    arguments, log = KINDS[kind], root / "log"
    seconds = straight(arguments, root / "straight", log)
    expected = content(root / "straight")
    signals = kills = runs = 0
    while kills < wanted:
        folder, runs = root / f"killed-{runs}", runs + 1
        while True:
            # Kill early at times, when there is nothing to resume yet; but let it come to its end in the end.
            moment = draws.uniform(0, seconds) if kills < wanted else 600
            number = draws.choice(STOPS)
            if not stopped(arguments, folder, log, moment, number):
                seconds *= 0.8  # the machine is less busy than it was
                break
            signals += 1
            kills += number == signal.SIGKILL
        if found := differences(expected, content(folder)):
            raise SystemExit(f"{kind}: a run stopped in between ends differently, see {folder}\n" + "\n".join(found))
        shutil.rmtree(folder)
    return signals, kills, runs


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs in all, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draws = random.Random(options.seed)
    totals = [0, 0, 0]
    for kind in options.kinds:
        root = Path(tempfile.mkdtemp(prefix="iris_gym_kills_"))
        counts = kill(kind, root, -(-options.kills // len(options.kinds)), draws)
        shutil.rmtree(root)
        print(f"{kind}: {counts[0]} signals ({counts[1]} SIGKILL), {counts[2]} runs ended as without", flush=True)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
    print(f"survived {totals[0]} of {totals[0]} signals ({totals[1]} SIGKILL) in {totals[2]} runs; 0 bytes lost")


if __name__ == "__main__":
    run()
