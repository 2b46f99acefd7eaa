"""The actor-critic: a convolutional network and an LSTM on reconstructed frames (Micheli et al. 2023, section 2.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_gym.functional import before_end, lambda_returns, summed_rewards
from iris_gym.types import FRAME_SHAPE, FRAME_SIZE, RecurrentState, Trajectory


class ActorCritic(nn.Module):
    """Action logits and a value from what has been seen so far."""

    def __init__(
        self,
        num_actions: int,
        *,
        channels: int = 32,
        lstm_dim: int = 512,
        zero_heads: bool = False,
        feature_norm: bool = False,
        orthogonal_init: bool = False,
    ) -> None:
        """The first two convolutions have so many `channels`, the last two twice as many.

        With `zero_heads` policy and value start at zero, with `feature_norm` the LSTM reads layer-normalised features.
        With `orthogonal_init` the convolutions begin orthogonal, with gain √2 and no bias (Saxe et al. 2014).
        """
        super().__init__()
        widths = (channels, channels, 2 * channels, 2 * channels)
        layers: list[nn.Module] = []
        for in_channels, out_channels in zip((FRAME_SHAPE[0], *widths), widths, strict=False):
            convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
            if orthogonal_init:
                assert convolution.bias is not None  # as the type says it might be
                nn.init.orthogonal_(convolution.weight, nn.init.calculate_gain("relu"))
                nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.MaxPool2d(2), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        features = widths[-1] * (FRAME_SIZE // 2 ** len(widths)) ** 2
        self.norm = nn.LayerNorm(features) if feature_norm else nn.Identity()
        self.lstm = nn.LSTM(features, lstm_dim, batch_first=True)
        self.actor = nn.Linear(lstm_dim, num_actions)
        self.critic = nn.Linear(lstm_dim, 1)
        if zero_heads:
            for parameter in (*self.actor.parameters(), *self.critic.parameters()):
                nn.init.zeros_(parameter)

    def initial_state(self, batch: int) -> RecurrentState:
        """Hidden and cell state of `batch` rows that have seen nothing."""
        zeros = self.actor.weight.new_zeros(batch, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def forward(self, frames: Tensor, state: RecurrentState) -> tuple[Tensor, Tensor, RecurrentState]:
        """See frames (B, L, 3, 64, 64) in [0, 1] one after another.

        Returns action logits (B, L, A), values (B, L) and the state after the last frame. The convolutions run over
        all frames at once.
        """
        hidden, state = self._remember(self._features(frames), state)
        return self.actor(hidden), self.critic(hidden).squeeze(-1), state

    def act(self, frame: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """One frame (B, 3, 64, 64): action logits (B, A) and the next state."""
        logits, _, state = self(frame[:, None], state)
        return logits[:, 0], state

    @torch.no_grad()
    def burn_in(self, frames: Tensor, mask: Tensor) -> RecurrentState:
        """The state after frames (B, L, 3, 64, 64) in [0, 1]; those with a False `mask` (B, L) leave it unchanged."""
        features = self._features(frames)
        state = self.initial_state(frames.shape[0])
        for t in range(frames.shape[1]):
            _, seen = self._remember(features[:, t : t + 1], state)
            keep = mask[:, t, None]
            state = torch.where(keep, seen[0], state[0]), torch.where(keep, seen[1], state[1])
        return state

    def loss(
        self,
        trajectory: Trajectory,
        state: RecurrentState,
        *,
        discount: float,
        lambda_: float,
        entropy_weight: float,
        learn_after_end: bool = True,
        clip_range: float | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """REINFORCE with the value as baseline, squared error to the λ-returns, entropy bonus (equations 6 to 8).

        With a `clip_range` the clipped surrogate takes the place of REINFORCE (PPO; Schulman et al. 2017, equation 7):
        a trajectory may then be learned from more than once, by an actor that is no longer the one that acted in it.

        Of `real` rows, whose actions an earlier actor took, policy and value learn only what went better than the value
        says (self-imitation; Oh et al. 2018, equations 1 to 3, there with whole episodes' returns and a value loss of
        less weight). The entropy bonus holds for all steps, the trajectory's bonus for dreams alone.

        `state` is the one before the trajectory's first frame. The last step only bootstraps. Returns are made of
        rewards and the trajectory's bonus, whose mean absolute value is `exploration_bonus`; `imagined_return` and
        `imagined_reward` leave it out, `value` does not, and real rows count in all three. Gradients flow through the
        LSTM over time and into nothing but this network. Without `learn_after_end` the steps behind an end weigh
        nothing; means are still over all steps, so that the losses of a batch's parts add up to its own.
        """
        logits, values, _ = self(trajectory.frames, state)
        rewards = trajectory.rewards if trajectory.bonus is None else trajectory.rewards + trajectory.bonus
        returns = lambda_returns(rewards, values.detach(), trajectory.ends, discount=discount, lambda_=lambda_)
        log_policy, values, returns = F.log_softmax(logits[:, :-1], -1), values[:, :-1], returns[:, :-1]
        log_probability = log_policy.gather(-1, trajectory.actions[:, :-1, None]).squeeze(-1)
        weights = before_end(trajectory.ends[:, :-1]).float()
        if learn_after_end:  # of a dream, which goes on there as what was lived does not
            ones = torch.ones_like(weights)
            weights = ones if trajectory.real is None else torch.where(trajectory.real[:, None], weights, ones)
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        advantage, error = returns - values.detach(), returns - values
        if trajectory.real is not None:
            better = ~trajectory.real[:, None] | (advantage > 0)
            advantage, error = better * advantage, better * error
        if clip_range is None:
            surrogate = log_probability * advantage
        else:
            ratio = (log_probability - trajectory.log_probabilities[:, :-1]).exp()
            surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)
        policy_loss = -(weights * surrogate).mean()
        value_loss = (weights * error.square()).mean()
        loss = policy_loss + value_loss - entropy_weight * (weights * entropy).mean()
        metrics = {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy.mean(),
            "imagined_return": summed_rewards(trajectory.rewards[:, :-1], trajectory.ends[:, :-1]).mean(),
            "imagined_reward": trajectory.rewards[:, :-1].mean(),
            "value": values.mean(),
        }
        if trajectory.bonus is not None:
            metrics["exploration_bonus"] = trajectory.bonus.abs().mean()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _features(self, frames: Tensor) -> Tensor:
        """Frames (B, L, 3, 64, 64) in [0, 1] to features (B, L, F)."""
        return self.norm(self.convolutions(2 * frames.flatten(0, 1) - 1)).unflatten(0, frames.shape[:2])

    def _remember(self, features: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Run the LSTM, whose own convention is a leading axis of layers for the state.

        One step is a cell's: the layer prepares its weights anew at each call, which is most of a step's time.
        """
        if features.shape[1] == 1:
            h, c = torch.lstm_cell(features[:, 0], state, *self.lstm.all_weights[0])
            return h[:, None], (h, c)
        hidden, (h, c) = self.lstm(features, (state[0][None].contiguous(), state[1][None].contiguous()))
        return hidden, (h[0], c[0])
