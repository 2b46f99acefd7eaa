"""The dream of a trained agent in TorchRL: its `GymWrapper` takes it as it is, with resets by mask.

pip install "iris-gym[torchrl]"
python examples/torchrl_in_dream.py --run runs/minigrid
"""

from pathlib import Path

import tyro
from torchrl.envs import GymWrapper

from iris_gym import IRISAgent


def main(run: Path, num_envs: int = 8, steps: int = 40, horizon: int = 20, seed: int = 0) -> None:
    """Random actions, rows reset as they end. `run` is a run folder or a saved zip."""
    agent = IRISAgent.load(run)
    dream = agent.make_dream_env(num_envs, horizon=horizon, autoreset_mode="Disabled")
    env = GymWrapper(dream, device=agent.device)
    env.set_seed(seed)
    experience = env.rollout(steps, break_when_any_done=False)
    ended = int(experience["next", "done"].sum())
    print(f"{experience.numel()} imagined steps, {ended} episodes ended")
    print(experience)


if __name__ == "__main__":
    tyro.cli(main)
