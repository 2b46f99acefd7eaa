"""Train on an environment of your own: anything with image observations and Discrete actions will do.

python examples/custom_env.py --total-timesteps 4000
"""

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from iris_gym import IRISAgent, IRISConfig


class Catch(gym.Env):
    """A ball falls down an 8×8 board; moving the paddle under it earns 1, missing it costs 1."""

    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gym.spaces.Discrete(3)  # left, stay, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(8)), 4
        return self._image(), {}

    def step(self, action):
        self.row += 1
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, 7))
        landed = self.row == 7
        reward = (1.0 if abs(self.paddle - self.column) <= 1 else -1.0) if landed else 0.0
        return self._image(), reward, landed, False, {}

    def _image(self):
        board = np.zeros((8, 8, 3), np.uint8)
        board[7, max(self.paddle - 1, 0) : self.paddle + 2] = (80, 160, 255)
        board[self.row, self.column] = (255, 255, 80)
        return board.repeat(4, axis=0).repeat(4, axis=1)


def main(total_timesteps: int = 4000, tiny: bool = False, seed: int = 0) -> None:
    config = IRISConfig.tiny() if tiny else IRISConfig.small()
    agent = IRISAgent(Catch(), config, seed=seed, verbose=1)
    agent.learn(total_timesteps)
    mean, spread = evaluate_policy(agent, Monitor(Catch()), n_eval_episodes=20, deterministic=False)
    print(f"return {float(np.mean(mean)):.2f} ± {float(np.mean(spread)):.2f} over 20 episodes")


if __name__ == "__main__":
    tyro.cli(main)
