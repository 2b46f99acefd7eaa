import pytest
import torch

from iris_gym.imagination.rollout import rollout
from iris_gym.types import DreamStep


def frame_of(number: int, batch: int = 2) -> torch.Tensor:
    """A frame all of whose pixels are `number` / 100."""
    return torch.full((batch, 3, 64, 64), number / 100)


def tokens_of(number: int) -> torch.Tensor:
    return torch.tensor([[number, 0], [number, 1]])


class CountingDream:
    """State n is followed by n + 1, which frame and tokens show; the reward is the action, every third state ends."""

    def __init__(self) -> None:
        self.actions: list[list[int]] = []

    def step(self, state, action):
        self.actions.append(action.tolist())
        state += 1
        ends = torch.tensor([state % 3 == 0, False])
        return state, DreamStep(frame_of(state), action.float(), ends, tokens_of(state))


class CountingActor:
    """Its recurrent state counts its frames; the action is that count in row 0 and ten times it in row 1.

    Its log-probability is less than nothing by that count."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, frame, state):
        self.seen.append(round(frame.mean().item() * 100))
        count = state[0] + 1
        return torch.tensor([1, 10]) * int(count[0, 0]), -count[:, 0], (count, state[1])


def imagine(dream, actor, horizon: int, seen_before: int = 0):
    state = torch.full((2, 1), float(seen_before)), torch.zeros(2, 1)
    return rollout(dream.step, actor, 7, frame_of(7), tokens_of(7), state, horizon=horizon)


def test_a_rollout_of_a_counting_dream():
    dream, actor = CountingDream(), CountingActor()
    trajectory = imagine(dream, actor, 4)
    assert (trajectory.frames[:, :, 0, 0, 0] * 100).round().tolist() == [[7, 8, 9, 10], [7, 8, 9, 10]]
    assert trajectory.actions.tolist() == [[1, 2, 3, 0], [10, 20, 30, 0]]
    assert trajectory.rewards.tolist() == [[1, 2, 3, 0], [10, 20, 30, 0]]
    assert trajectory.ends.tolist() == [[False, True, False, False], [False] * 4]
    assert trajectory.frames.shape == (2, 4, 3, 64, 64)
    assert trajectory.tokens.tolist() == [[[number, row] for number in (7, 8, 9, 10)] for row in (0, 1)]
    assert trajectory.log_probabilities.tolist() == [[-1, -2, -3, 0]] * 2
    assert trajectory.bonus is None
    assert (trajectory.actions.dtype, trajectory.rewards.dtype, trajectory.ends.dtype) == (
        torch.int64,
        torch.float32,
        torch.bool,
    )


@pytest.mark.parametrize("horizon", [2, 3, 20])
def test_dream_and_actor_are_asked_horizon_minus_one_times(horizon):
    dream, actor = CountingDream(), CountingActor()
    imagine(dream, actor, horizon)
    assert len(dream.actions) == len(actor.seen) == horizon - 1


def test_the_actor_sees_the_frames_of_the_dream_and_the_dream_its_actions():
    dream, actor = CountingDream(), CountingActor()
    imagine(dream, actor, 5)
    assert actor.seen == [7, 8, 9, 10]
    assert dream.actions == [[1, 10], [2, 20], [3, 30], [4, 40]]


def test_the_actor_starts_from_the_state_it_is_given():
    assert imagine(CountingDream(), CountingActor(), 3, seen_before=5).actions.tolist() == [[6, 7, 0], [60, 70, 0]]


def test_a_rollout_has_no_gradient():
    weight = torch.ones(1, requires_grad=True)

    def step(state, action):
        return state, DreamStep(frame_of(1) * weight, action * weight, action > 0, tokens_of(1))

    state = torch.zeros(2, 1), torch.zeros(2, 1)
    trajectory = rollout(step, CountingActor(), 0, frame_of(0), tokens_of(0), state, horizon=3)
    assert not trajectory.frames.requires_grad
