"""Train Stable-Baselines3's PPO in the dream of a trained agent, and let it play the real game.

python examples/sb3_ppo_in_dream.py --run runs/minigrid --total-timesteps 20000
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from iris_gym import IRISAgent, make_env
from iris_gym.dream import DreamSB3VecEnv


class Reconstructed(gym.ObservationWrapper):
    """The real game as it looks in the dream: what the agent's tokenizer keeps of a frame."""

    def __init__(self, env: gym.Env, agent: IRISAgent) -> None:
        super().__init__(env)
        self.tokenizer, self.device = agent.models.tokenizer, agent.device

    @torch.no_grad()
    def observation(self, observation: np.ndarray) -> np.ndarray:
        frame = torch.from_numpy(observation).to(self.device).permute(2, 0, 1)[None] / 255
        return (self.tokenizer.reconstruct(frame)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def main(
    run: Path, total_timesteps: int = 20_000, num_envs: int = 16, horizon: int = 50, games: int = 3, seed: int = 0
) -> None:
    """`run` is a run folder or a saved zip; all of the learning happens in its dream."""
    agent = IRISAgent.load(run)
    dream = DreamSB3VecEnv(agent.make_dream_env(num_envs, horizon=horizon))
    steps = max(min(total_timesteps // num_envs, 128), 2)
    policy = PPO("CnnPolicy", dream, n_steps=steps, batch_size=steps * num_envs // 2, seed=seed, verbose=1)
    policy.learn(total_timesteps)
    policy.save("ppo_from_dream.zip")

    game = make_env(agent.config.env, evaluation=True, atari_100k=agent.config.atari_100k)
    real = Monitor(Reconstructed(game, agent))
    mean, spread = evaluate_policy(policy, real, n_eval_episodes=games, deterministic=False)
    print(f"real {agent.config.env}: return {float(np.mean(mean)):.2f} ± {float(np.mean(spread)):.2f}, {games} games")


if __name__ == "__main__":
    tyro.cli(main)
