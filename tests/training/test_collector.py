import numpy as np
import pytest
import torch

from iris_gym.data.replay import Replay
from iris_gym.training.collector import Collector

ENDS = {(1, 0): "terminated", (2, 1): "truncated"}
"""What happens at (step, row) of the environment."""


def image(number: int) -> np.ndarray:
    return np.full((64, 64, 3), number, dtype=np.uint8)


class TwoRows:
    """A vector environment whose observation is 100 · row + steps taken; the reward is the action. It never rests."""

    num_envs = 2

    def __init__(self) -> None:
        self.steps = 0

    def reset(self) -> np.ndarray:
        return np.stack([image(self.steps), image(100 + self.steps)])

    def step(self, actions):
        endings = [ENDS.get((self.steps, row)) for row in range(2)]
        self.steps += 1
        infos = [{"TimeLimit.truncated": ending == "truncated"} for ending in endings]
        return self.reset(), actions.astype(np.float32), np.array([ending is not None for ending in endings]), infos


class CountingPolicy:
    """The action of row i is 10 · i + frames in its memory; the state counts frames, burnt in or acted on."""

    def __init__(self) -> None:
        self.arguments: dict = {}
        self.seen: list[list[int]] = []
        self.refreshed = 0

    def initial_state(self, batch):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def refresh(self):
        self.refreshed += 1

    def burn_in(self, frames, mask):
        self.burnt_in = frames[:, :, 0, 0, 0].tolist(), mask.tolist()
        count = mask.sum(1, keepdim=True).float()
        return count, count.clone()

    def act(self, frames, state, **arguments):
        self.arguments = arguments
        self.seen.append(frames[:, 0, 0, 0].tolist())
        memory = state[0] + 1
        return (memory[:, 0] + torch.tensor([0, 10])).long(), (memory, state[1] + 1)


class RecordingReplay(Replay):
    """A replay that remembers what was appended to it: (environment, pixel, action, reward, terminated, truncated)."""

    def __init__(self) -> None:
        super().__init__(None, chunk_rows=32)
        self.appended: list[tuple] = []

    def append(self, frame, action, reward, terminated, truncated, environment=0):
        self.appended.append((environment, int(frame[0, 0, 0]), action, reward, terminated, truncated))
        super().append(frame, action, reward, terminated, truncated, environment)


@pytest.fixture
def replay():
    with RecordingReplay() as replay:
        yield replay


def collector(replay: Replay, burn_in: int = 3) -> Collector:
    """A collector that has reset its environment."""
    generator = torch.Generator().manual_seed(0)
    env = TwoRows()
    made = Collector(
        env, CountingPolicy(), replay, burn_in=burn_in, epsilon=0.25, temperature=0.75, generator=generator
    )
    made.reset(env.reset())
    return made


def test_transitions_land_in_the_rows_they_came_from(replay):
    running = collector(replay)
    for _ in range(4):
        running.step()
    row_0 = [entry[1:] for entry in replay.appended if entry[0] == 0]
    row_1 = [entry[1:] for entry in replay.appended if entry[0] == 1]
    # (frame before the action, action, reward, terminated, truncated); memory is cleared where an episode ended
    assert row_0 == [
        (0, 1, 1.0, False, False),
        (1, 2, 2.0, True, False),
        (2, 1, 1.0, False, False),
        (3, 2, 2.0, False, False),
    ]
    assert row_1 == [
        (100, 11, 11.0, False, False),
        (101, 12, 12.0, False, False),
        (102, 13, 13.0, False, True),
        (103, 11, 11.0, False, False),
    ]
    assert [(len(episode), episode.terminated, episode.truncated) for episode in replay.episodes] == [
        (2, True, False),
        (3, False, True),
        (2, False, False),
        (1, False, False),
    ]


def test_a_step_tells_what_callbacks_need(replay):
    running = collector(replay)
    running.step()
    step = running.step()
    assert step.actions.tolist() == [2, 12]
    assert step.observations.shape == (2, 64, 64, 3)
    assert step.observations[:, 0, 0, 0].tolist() == [2, 102]
    assert step.rewards.tolist() == [2.0, 12.0]
    assert step.dones.tolist() == [True, False]
    assert [info["TimeLimit.truncated"] for info in step.infos] == [False, False]


def test_the_policy_gets_the_frames_and_the_collectors_settings(replay):
    running = collector(replay)
    for _ in range(3):
        running.step()
    assert running.policy.seen == [[0, 100], [1, 101], [2, 102]]
    assert running.policy.arguments == {"temperature": 0.75, "epsilon": 0.25, "generator": running.generator}


def test_memory_is_cleared_in_the_row_whose_episode_ended_and_kept_in_the_other(replay):
    running = collector(replay)
    actions = [running.step().actions.tolist() for _ in range(5)]
    assert actions == [[1, 11], [2, 12], [1, 13], [2, 11], [3, 12]]


def test_begin_burns_in_on_the_tails_of_the_open_episodes_padded_left(replay):
    running = collector(replay, burn_in=3)
    for _ in range(5):
        running.step()
    running.begin()
    frames, mask = running.policy.burnt_in
    # row 0 has been open since frame 2, row 1 since frame 103
    assert frames == [[2, 3, 4], [0, 103, 104]]
    assert mask == [[True, True, True], [False, True, True]]
    assert running.step().actions.tolist() == [4, 13]


def test_a_tail_is_no_longer_than_the_burn_in(replay):
    running = collector(replay, burn_in=2)
    for _ in range(6):
        running.step()
    running.begin()
    assert running.policy.burnt_in[0] == [[4, 5], [104, 105]]


def test_begin_without_open_episodes_or_burn_in_forgets_everything(replay):
    running = collector(replay, burn_in=0)
    running.begin()
    assert running.step().actions.tolist() == [1, 11]
    running.begin()
    assert running.step().actions.tolist() == [1, 11]
    assert not hasattr(running.policy, "burnt_in")


def test_reset_closes_the_open_episodes_as_truncated(replay):
    running = collector(replay)
    running.step()
    running.reset(running.env.reset())
    running.begin()
    running.step()
    episodes = replay.episodes
    assert [(len(episode), episode.terminated, episode.truncated, episode.open) for episode in episodes] == [
        (1, False, True, False),
        (1, False, True, False),
        (1, True, False, False),
        (1, False, False, True),
    ]


def test_stepping_before_a_reset_is_a_mistake(replay):
    generator = torch.Generator()
    fresh = Collector(TwoRows(), CountingPolicy(), replay, burn_in=0, epsilon=0, temperature=1, generator=generator)
    with pytest.raises(AssertionError, match="reset before the first step"):
        fresh.step()
