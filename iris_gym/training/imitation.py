"""Beside dreams the actor-critic may learn from the best of what it has lived (Oh et al. 2018)."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F

from iris_gym.data.replay import Replay
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.losses import Dream
from iris_gym.types import Segment, Trajectory


@dataclass(frozen=True, slots=True)
class Imitation:
    """Stretches of the replay's best episodes, told as dreams are.

    A dream cannot lead on from where everything that was met ends badly; one episode that went on by chance can.
    """

    cache: FrameCache
    replay: Replay
    actor_critic: ActorCritic
    share: float  # of a batch
    best: float  # share of the episodes
    since: int  # the first row whose actions were the actor's own
    burn_in: int
    horizon: int
    generator: np.random.Generator

    def stretches(self, count: int) -> Dream | None:
        """So many, with pictures as the tokenizer gives them and signs of rewards. None where nothing is better.

        `log_probabilities` are the present actor's, so that its first step on them is not clipped. What an episode cut
        by a time limit would have brought is unknown, and counts as nothing.
        """
        segment = self.replay.sample_best(
            count, self.burn_in, self.horizon, share=self.best, since=self.since, generator=self.generator
        )
        if segment is None:
            return None
        after = segment.steps(slice(self.burn_in, None))
        # Black behind an episode's last step, where the cache gives whatever picture it has.
        pictures = self.cache.reconstructions(segment) * segment.mask[..., None, None, None]
        before, pictures = pictures.split((self.burn_in, self.horizon), dim=1)
        state = self.actor_critic.burn_in(before, segment.mask[:, : self.burn_in])
        with torch.no_grad():
            log_policy = F.log_softmax(self.actor_critic(pictures, state)[0], -1)
        last = after.mask & ~F.pad(after.mask[:, 1:], (0, 1), value=True)
        trajectory = Trajectory(
            frames=pictures,
            actions=after.actions,
            rewards=after.rewards.sign(),
            ends=after.ends | last,
            tokens=self.cache.tokens(after),
            log_probabilities=log_policy.gather(-1, after.actions[..., None]).squeeze(-1),
            real=torch.ones(count, dtype=torch.bool, device=pictures.device),
        )
        return trajectory, state


def lived_rows(share: float, batch: int) -> int:
    """Of so many rows those that are lived instead of dreamt."""
    return round(share * batch)


def with_imitation(dream: Callable[[Segment], Dream], imitation: Imitation) -> Callable[[Segment], Dream]:
    """The same, but for the share of the batch that is lived instead of dreamt."""

    def mixed(segment: Segment) -> Dream:
        batch = len(segment.mask)
        count = lived_rows(imitation.share, batch)
        lived = imitation.stretches(count) if count else None
        return dream(segment) if lived is None else _joined(dream(segment.take(slice(batch - count))), lived)

    return mixed


def _joined(dreamt: Dream, lived: Dream) -> Dream:
    """The rows of both. What is lived has no bonus."""
    (first, (hidden, cell)), (second, (other_hidden, other_cell)) = dreamt, lived
    first = replace(first, real=torch.zeros_like(first.ends[:, 0]))
    if first.bonus is not None:
        second = replace(second, bonus=torch.zeros_like(second.rewards))
    columns = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(Trajectory)}
    joined = {name: torch.cat(pair) for name, pair in columns.items() if pair[0] is not None}
    return Trajectory(**joined), (torch.cat((hidden, other_hidden)), torch.cat((cell, other_cell)))
