"""Train on an Atari game, keep the agent, and play a few games with it.

python examples/train_atari.py --env-id ALE/Pong-v5 --preset small --total-timesteps 4000
"""

import statistics
from pathlib import Path
from typing import Literal

import tyro
from stable_baselines3.common.callbacks import EvalCallback

from iris_gym import IRISAgent, IRISConfig, make_env

PRESETS = {"default": IRISConfig, "small": IRISConfig.small, "tiny": IRISConfig.tiny}


def main(
    env_id: str = "ALE/Pong-v5",
    preset: Literal["default", "small", "tiny"] = "small",
    total_timesteps: int = 4000,
    games: int = 3,
    out: Path = Path("atari_agent.zip"),
    seed: int = 0,
) -> None:
    """Any callback of Stable-Baselines3 works; here one evaluates in whole games halfway and at the end."""
    agent = IRISAgent(env_id, PRESETS[preset](eval_interval=0), seed=seed, verbose=1)
    game, halfway = make_env(env_id, evaluation=True), max(total_timesteps // 2, 1)
    agent.learn(total_timesteps, callback=EvalCallback(game, eval_freq=halfway, n_eval_episodes=1, deterministic=False))
    agent.save(out)

    scores = IRISAgent.load(out).evaluate(games, seed=seed)
    print(f"{env_id}: {statistics.mean(score.episode_return for score in scores):.1f} over {games} games; kept {out}")


if __name__ == "__main__":
    tyro.cli(main)
