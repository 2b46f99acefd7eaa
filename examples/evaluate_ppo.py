"""Evaluate an agent of Stable-Baselines3 under the protocol of this package, as an IRIS agent is evaluated.

Train one, on the same frames (64×64 RGB, an action repeated 4 times, a lost life ends an episode):

    python examples/evaluate_ppo.py --total-timesteps 100000

Then, from the folder that holds this file and ppo_pong.zip:

    iris-gym evaluate --agent evaluate_ppo:act --env ALE/Pong-v5 --out ppo.scores.json
    iris-gym scores --runs ppo.scores.json runs/pong
"""

from functools import cache

import numpy as np
import tyro
from stable_baselines3 import PPO

from iris_gym import make_env

FILE = "ppo_pong.zip"


@cache
def model() -> PPO:
    """Loaded once in each process that plays."""
    return PPO.load(FILE, device="cpu")


def act(observations: np.ndarray, state=None, episode_start=None, deterministic: bool = False):
    """Observations (N, 64, 64, 3) uint8 to actions (N,), and a memory, of which this agent has none.

    These are the arguments of Stable-Baselines3's `predict`. A function may take fewer of the last three, by their
    names, and return actions alone.
    """
    return model().predict(observations, state, episode_start, deterministic)


def main(total_timesteps: int = 100_000, env: str = "ALE/Pong-v5", seed: int = 0) -> None:
    PPO("CnnPolicy", make_env(env), n_steps=128, batch_size=64, seed=seed, verbose=1).learn(total_timesteps).save(FILE)


if __name__ == "__main__":
    tyro.cli(main)
