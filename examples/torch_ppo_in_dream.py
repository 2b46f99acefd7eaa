"""PPO in plain torch in the dream of a trained agent: nothing leaves the device but a line of numbers an iteration.

python examples/torch_ppo_in_dream.py --checkpoint runs/minigrid
"""

from pathlib import Path

import gymnasium as gym
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

LAMBDA, CLIP, ENTROPY = 0.95, 0.2, 0.01


class ActorCritic(nn.Module):
    """Images (N, 64, 64, 3) uint8 to a distribution over actions and values (N,)."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()]
        self.body = nn.Sequential(*layers, nn.Linear(32 * 6 * 6, 256), nn.ReLU())
        self.head = nn.Linear(256, actions + 1)

    def forward(self, images: Tensor) -> tuple[Categorical, Tensor]:
        out = self.head(self.body(images.permute(0, 3, 1, 2).float() / 255))
        return Categorical(logits=out[:, :-1], validate_args=False), out[:, -1]


@torch.no_grad()
def collect(env: gym.vector.VectorEnv, model: ActorCritic, images: Tensor, steps: int, discount: float):
    """Images (S·N, …), actions, log-probabilities, returns, advantages, the next images, and the mean reward."""
    rows, advantage = [], torch.zeros(env.num_envs, device=images.device)
    for _ in range(steps):
        policy, value = model(images)
        action = policy.sample()
        following, reward, terminated, truncated, info = env.step(action)
        next_value = model(following)[1]
        if "final_obs" in info:  # a row that ended shows its next dream already
            next_value = torch.where(info["_final_obs"], model(info["final_obs"])[1], next_value)
        delta = reward + discount * next_value * ~terminated - value
        rows.append((images, action, policy.log_prob(action), value, delta, ~(terminated | truncated), reward))
        images = following
    seen, actions, log_probs, values, deltas, going_on, rewards = map(torch.stack, zip(*rows, strict=True))
    advantages = torch.empty_like(deltas)
    for t in reversed(range(steps)):
        advantage = deltas[t] + discount * LAMBDA * going_on[t] * advantage
        advantages[t] = advantage
    batch = (seen, actions, log_probs, advantages + values, advantages)
    return [part.flatten(0, 1) for part in batch], images, rewards.mean()


def main(checkpoint: Path, iterations: int = 50, num_envs: int = 64, steps: int = 32, horizon: int = 9, seed: int = 0):
    """`checkpoint` is a run folder or a saved zip. A `horizon` below the timesteps that its world model reads, 20 of
    the default and 5 of small, asks nothing of the device."""
    torch.manual_seed(seed)
    env = gym.make_vec("iris_gym:IrisGym/Dream-v0", num_envs=num_envs, checkpoint=str(checkpoint), horizon=horizon)
    images, _ = env.reset(seed=seed)
    model = ActorCritic(int(env.single_action_space.n)).to(images.device)  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    for iteration in range(iterations):
        batch, images, mean_reward = collect(env, model, images, steps, discount=0.99)
        for chosen in torch.randperm(num_envs * steps, device=images.device).repeat(4).chunk(16):
            seen, actions, old, returns, advantages = (part[chosen] for part in batch)
            policy, values = model(seen)
            ratio = (policy.log_prob(actions) - old).exp()
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            gain = torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
            loss = (values - returns).square().mean() / 2 - gain - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        print(f"iteration {iteration + 1}: mean imagined reward {mean_reward:.4f}")


if __name__ == "__main__":
    tyro.cli(main)
