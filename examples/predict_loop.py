"""Act with a trained agent step by step, carrying the memory of its LSTM along.

python examples/predict_loop.py --run runs/ALE-Pong-v5/2026-01-01_12-00-00
"""

from pathlib import Path

import tyro

from iris_gym import IRISAgent, make_env


def main(run: Path, max_steps: int = 5000, seed: int = 0) -> None:
    """`run` is a run folder or a saved zip."""
    agent = IRISAgent.load(run)
    env = make_env(agent.config.env, evaluation=True, atari_100k=agent.config.atari_100k)
    observation, _ = env.reset(seed=seed)
    memory, rewards, done = None, [], False
    while not done and len(rewards) < max_steps:
        action, memory = agent.predict(observation, memory)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(float(reward))
        done = terminated or truncated
    env.close()
    print(f"{agent.config.env}: return {sum(rewards):.1f} after {len(rewards)} steps")


if __name__ == "__main__":
    tyro.cli(main)
