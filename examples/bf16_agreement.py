"""Report how often a trained agent's networks choose the same tokens in bf16 as in float32.

python examples/bf16_agreement.py --run runs/ALE-Pong-v5/2026-01-01_12-00-00 --out agreement.json
"""

import json
from pathlib import Path

import numpy as np
import tyro

from iris_gym import IRISAgent
from iris_gym.assembly import build_replay
from iris_gym.benchmark.agreement import bf16_agreement


def main(run: Path, out: Path | None = None, rows: int = 64, seed: int = 0) -> None:
    """`run` is a run folder with its replay, from which `rows` segments are drawn; `out` is a file for the figures."""
    agent = IRISAgent.load(run)
    with build_replay(agent.config, run / "replay", device=agent.device) as replay:
        length, generator = agent.config.transformer_timesteps, np.random.default_rng(seed)
        segment = replay.sample_segments(rows, length, generator=generator, align="start")
    found = bf16_agreement(agent.config, agent.models, segment)
    for name, value in found.items():
        unit = f" of {length}" if name == "dream_steps" else " %"
        print(f"{name:>12} {value if name == 'dream_steps' else 100 * value:6.2f}{unit}")
    if out:
        of = {"config": agent.config.to_dict(), "env_steps": agent.num_timesteps, "rows": rows, "seed": seed}
        out.write_text(json.dumps(of | {"agreement": found}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
