"""Beside dreams the actor-critic may learn from the best of what it has lived (Oh et al. 2018)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F

from iris_gym.data.replay import Replay
from iris_gym.functional import slices
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
    rows: int  # of a batch
    best: float  # share of the episodes
    random_rows: Callable[[], int]  # so many of the replay's first rows have no actions of the actor's own
    burn_in: int
    horizon: int
    generator: np.random.Generator
    parts: int = 1  # that the stretches are gone through in, for the memory that this takes

    def stretches(self) -> Dream | None:
        """`rows` of them, with pictures as the tokenizer gives them and signs of rewards. None where nothing is better.

        `log_probabilities` are the present actor's, so that its first step on them is not clipped. What an episode that
        was cut would have brought is unknown, and counts as nothing; it has no negative rewards.
        """
        segment = self.draw()
        if segment is None:
            return None
        return _concatenated([self._told(segment.take(piece)) for piece in slices(self.rows, self.parts)])

    def draw(self) -> Segment | None:
        """What `stretches` tells: `burn_in` steps of each, and `horizon`."""
        return self.replay.sample_best(
            self.rows, self.burn_in, self.horizon, share=self.best, since=self.random_rows(), generator=self.generator
        )

    def _told(self, segment: Segment) -> Dream:
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
            real=torch.ones_like(last[:, 0]),
        )
        return trajectory, state


def with_imitation(dream: Callable[[Segment], Dream], imitation: Imitation) -> Callable[[Segment], Dream]:
    """The same, but for the last rows of the batch, which are lived instead of dreamt.

    Of segments those drawn before rewards come first, so they are dreamt of before all others.
    """

    def mixed(segment: Segment) -> Dream:
        lived = imitation.stretches()
        return dream(segment) if lived is None else _joined(dream(segment.take(slice(-imitation.rows))), lived)

    return mixed


def _joined(dreamt: Dream, lived: Dream) -> Dream:
    """The rows of both. What is lived has no bonus."""
    (dream, state), (told, other_state) = dreamt, lived
    dream = replace(dream, real=torch.zeros_like(dream.ends[:, 0]))
    if dream.bonus is not None:
        told = replace(told, bonus=torch.zeros_like(told.rewards))
    return _concatenated([(dream, state), (told, other_state)])


def _concatenated(dreams: Sequence[Dream]) -> Dream:
    """The rows of all, which have the same columns."""
    trajectories, states = zip(*dreams, strict=True)
    columns = {field.name: [getattr(dream, field.name) for dream in trajectories] for field in fields(Trajectory)}
    hidden, cell = (torch.cat(parts) for parts in zip(*states, strict=True))
    joined = {name: torch.cat(parts) for name, parts in columns.items() if parts[0] is not None}
    return Trajectory(**joined), (hidden, cell)
