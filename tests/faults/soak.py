"""Train `tiny` for thousands of epochs, and report what grows: memory, open files, threads, disk, time per epoch.

    python tests/faults/soak.py --epochs 2000

Disk is counted outside of replay, logs and media, which hold a line, a frame or a picture for each that there was.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import torch

from iris_gym import IRISAgent, IRISConfig
from iris_gym.process import prepare_process
from iris_gym.training.trainer import EpochEnded

GROWING = ("replay", "logs", "media")


def figures(run: Path) -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    memory = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("RssAnon", "RssFile"))}
    files = [path for path in run.rglob("*") if path.is_file() and path.relative_to(run).parts[0] not in GROWING]
    return {
        "resident memory, MB": memory["RssAnon:"],
        "mapped files in memory, MB": memory["RssFile:"],
        "open files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "Python's threads": threading.active_count(),
        "disk, MB": sum(path.stat().st_size for path in files) / 1e6,
        "files": len(files),
    }


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--env", default="ALE/Breakout-v5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="iris_gym_soak_"))
    config = IRISConfig.tiny(total_epochs=options.epochs + 1)
    agent = IRISAgent(options.env, config, seed=0, device="cpu", run_dir=root / "run")
    seconds, early, begun = [], {}, time.process_time()
    for event in agent.learn_events(options.epochs * config.env_steps_per_epoch):
        if isinstance(event, EpochEnded):
            seconds.append(time.process_time() - begun)
            begun = time.process_time()
            if event.epoch in (100, options.epochs) or event.epoch % 200 == 0:
                now = figures(root / "run")
                early = early or now
                print(event.epoch, {name: round(value, 1) for name, value in now.items()}, flush=True)
    last = figures(root / "run")
    for name, value in last.items():
        print(f"{name}: {early[name]:.1f} after 100 epochs, {value:.1f} after {options.epochs}")
    for start in range(100, options.epochs, 300):
        print(f"epochs {start} to {start + 99}: {median(seconds[start : start + 100]) * 1000:.0f} ms of CPU (median)")
    shutil.rmtree(root)


if __name__ == "__main__":
    prepare_process()
    sys.exit(run())
