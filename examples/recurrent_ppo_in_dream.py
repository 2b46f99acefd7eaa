"""Train sb3-contrib's RecurrentPPO, which remembers, in the dream of a trained agent.

pip install "iris-gym[contrib]"
python examples/recurrent_ppo_in_dream.py --run runs/minigrid --total-timesteps 20000
"""

from pathlib import Path

import tyro
from sb3_contrib import RecurrentPPO

from iris_gym import IRISAgent
from iris_gym.dream import DreamSB3VecEnv


def main(run: Path, total_timesteps: int = 20_000, num_envs: int = 16, horizon: int = 50, seed: int = 0) -> None:
    """`run` is a run folder or a saved zip."""
    dream = IRISAgent.load(run).make_dream_env(num_envs, horizon=horizon)
    steps = max(min(total_timesteps // num_envs, 128), 2)
    policy = RecurrentPPO(
        "CnnLstmPolicy",
        DreamSB3VecEnv(dream),
        n_steps=steps,
        batch_size=steps * num_envs // 2,
        n_epochs=4,
        policy_kwargs={"lstm_hidden_size": 128},
        seed=seed,
        verbose=1,
    )
    policy.learn(total_timesteps)
    policy.save("recurrent_ppo_from_dream.zip")
    print(f"learned from {policy.num_timesteps} imagined steps")


if __name__ == "__main__":
    tyro.cli(main)
