"""Watch a trained agent: its game, what its tokenizer keeps of it, and its dream of the same actions, side by side.

pip install "iris-gym[video]"
python examples/record_dream.py --run runs/minigrid
"""

from pathlib import Path

import gymnasium as gym
import tyro
from gymnasium.wrappers import RecordVideo

import iris_gym


def main(run: Path, out: Path = Path("media"), max_steps: int = 300, seed: int = 0) -> None:
    """`run` is a run folder or a saved zip."""
    for source in ("side-by-side", "dream"):
        (video,) = iris_gym.record(run, source=source, out=out, max_steps=max_steps, seed=seed)
        print(f"{video} and {video.with_suffix('.png')}")

    # Gymnasium's own wrapper records the dream like any other environment; here somebody acts at random in it.
    dream = gym.make("IrisGym/Dream-v0", checkpoint=str(run), horizon=max_steps, render_mode="rgb_array")
    env = RecordVideo(dream, str(out / "random"), episode_trigger=lambda episode: True)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    ended = False
    while not ended:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated or truncated
    env.close()
    print(f"{out / 'random'}")


if __name__ == "__main__":
    tyro.cli(main)
