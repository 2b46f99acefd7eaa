"""What a checkpoint of a long run costs, beyond writing the weights, in time and in memory.

    python tests/faults/costs.py --frames 100000

The networks are those of a preset, the optimizers have their moments. The frames are random. Between two checkpoints
as many are added as `checkpoint_interval` epochs collect.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from iris_gym import IRISAgent
from iris_gym.config import preset
from iris_gym.training.checkpoint import module_tensors, optimizer_tensors, write_tensors


def fill(agent: IRISAgent, frames: int) -> None:
    draws = np.random.default_rng(len(agent.replay))
    for row in range(frames):
        frame = draws.integers(256, size=(3, 64, 64), dtype=np.uint8)
        agent.replay.append(frame, 0, 0.0, row % 500 == 499, False)


def give_moments(agent: IRISAgent) -> None:
    for learner in agent.trainer.learners:
        for parameter in learner.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        learner.optimizer.step()


def measured(action) -> tuple[float, int]:
    """Seconds, and bytes by which the process grew at the most meanwhile, looked at a thousand times a second."""
    before, highest, done = anonymous_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest.append(anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    action()
    seconds = time.monotonic() - begun
    done.set()
    watcher.join()
    return seconds, max(highest) - before


def anonymous_memory() -> int:
    """Bytes of memory that is no mapped file: pages of those the system takes back when it likes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="iris_gym_costs_", dir=options.folder))
    try:
        agent = IRISAgent("ALE/Pong-v5", preset(options.preset), seed=0, device="cpu", run_dir=root / "run")
        give_moments(agent)
        fill(agent, options.frames)
        seconds, grown = measured(agent.save_checkpoint)
        print(f"the first, with all frames to flush: {seconds:.2f} s, peak memory +{grown / 1e6:.0f} MB")
        config = agent.config
        modules = agent.models.by_name()
        optimizers = {learner.name: learner.optimizer for learner in agent.trainer.learners}
        tensors = {"weights": module_tensors(modules), "moments": optimizer_tensors(optimizers)}
        for name, group in tensors.items():
            size = sum(tensor.nbytes for tensor in group.values())
            seconds, _ = measured(lambda group=group: write_tensors(group, root / "alone.safetensors"))
            print(f"{name}: {size / 1e6:.0f} MB, written and flushed alone in {seconds:.2f} s")
        for _ in range(3):
            fill(agent, config.env_steps_per_epoch * config.checkpoint_interval)
            agent.trainer.env_steps += 1
            seconds, grown = measured(agent.save_checkpoint)
            print(f"checkpoint at {len(agent.replay):,} frames: {seconds:.2f} s, peak memory +{grown / 1e6:.0f} MB")
        used = sum(path.stat().st_blocks * 512 for path in (root / "run" / "replay").iterdir())
        print(f"replay on disk: {used / 1e9:.2f} GB")
    finally:
        shutil.rmtree(root)
        os.sync()


if __name__ == "__main__":
    run()
