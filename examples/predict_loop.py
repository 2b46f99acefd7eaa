"""Act with a trained agent step by step, carrying the memory of its LSTM along.

python examples/predict_loop.py --run runs/ALE-Pong-v5/2026-01-01_12-00-00
"""

from pathlib import Path

import tyro

from iris_gym import IRISAgent, make_env


def main(run: Path, max_steps: int = 5000, seed: int = 0) -> None:
    """`run` is a run folder or a saved zip."""
    agent = IRISAgent.load(run)
    env = make_env(agent.config.env, evaluation=True)
    observation, _ = env.reset(seed=seed)
    memory, episode_return = None, 0.0
    for length in range(1, max_steps + 1):
        action, memory = agent.predict(observation, memory)
        observation, reward, terminated, truncated, _ = env.step(action)
        episode_return += float(reward)
        if terminated or truncated:
            break
    env.close()
    print(f"{agent.config.env}: return {episode_return:.1f} after {length} steps")


if __name__ == "__main__":
    tyro.cli(main)
