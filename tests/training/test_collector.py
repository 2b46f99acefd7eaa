import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from iris_gym.data.replay import Replay
from iris_gym.errors import RunError
from iris_gym.training.collector import Collector

ENDS = {(1, 0): "terminated", (2, 1): "truncated"}
"""What happens at (step, row) of the environment."""


def image(number: int) -> np.ndarray:
    return np.full((64, 64, 3), number, dtype=np.uint8)


SETTINGS = {"burn_in": 2, "epsilon": 0, "temperature": 1, "return_steps": 2}


class TwoRows:
    """A vector environment whose observation is 100 · row + steps taken; the reward is the action. It never rests."""

    num_envs = 2
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

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


def collector(replay: Replay, burn_in: int = 3, return_steps: int = 2) -> Collector:
    """A collector that has reset its environment."""
    generator = torch.Generator().manual_seed(0)
    env = TwoRows()
    made = Collector(
        env,
        CountingPolicy(),
        replay,
        burn_in=burn_in,
        epsilon=0.25,
        temperature=0.75,
        return_steps=return_steps,
        generator=generator,
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


def test_a_uniform_step_is_a_random_one_in_every_row(replay):
    running = collector(replay)
    running.step(uniform=True)
    assert running.policy.arguments["epsilon"] == 1
    running.step()
    assert running.policy.arguments["epsilon"] == 0.25


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
    fresh = Collector(TwoRows(), CountingPolicy(), replay, generator=generator, **SETTINGS)
    with pytest.raises(AssertionError, match="reset before the first step"):
        fresh.step()


# Faults of the environment


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda observations, rewards: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda observations, rewards: (observations, rewards * np.nan), "rewards .nan, nan., not all of them finite"),
        (lambda observations, rewards: (observations[:, :32], rewards), r"shape \(2, 32, 64, 3\)"),
        (lambda observations, rewards: (observations / 255, rewards), "dtype float64"),
    ],
    ids=["raises", "nan", "shape", "dtype"],
)
def test_an_environment_that_fails_is_named_with_its_step_and_leaves_nothing_in_the_replay(fault, words, replay):
    running = collector(replay)
    running.step()
    step = running.env.step

    def faulty(actions):
        observations, rewards, dones, infos = step(actions)
        return *fault(observations, rewards), dones, infos

    running.env.step = faulty
    with pytest.raises(RunError, match=f"^the environment failed at step 2: .*{words}"):
        running.step()
    assert len(replay) == 2


def test_after_a_step_that_was_cut_short_it_has_to_be_reset(replay, monkeypatch):
    """Else the next row would have the frame of before with the outcome of one step later."""
    running = collector(replay)
    assert not running.lost
    running.step()
    with monkeypatch.context() as patch:
        patch.setattr(replay, "append", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            running.step()
    assert running.lost and running.state_dict()[0]["resets"] is None, "nor can it be played up to there again"
    with pytest.raises(AssertionError, match="has to be reset"):
        running.step()
    running.reset(running.env.reset())
    assert not running.lost and running.step() is not None


@pytest.mark.parametrize("kind", [np.uint8, np.float32, list])
def test_ends_of_another_dtype_are_ends(kind, replay):
    """Whole numbers, inverted bit by bit, would multiply a row's memory by 255."""
    running, expected = collector(replay), collector(RecordingReplay())
    step = running.env.step

    def answer(actions):
        observations, rewards, dones, infos = step(actions)
        return observations, rewards, dones.tolist() if kind is list else dones.astype(kind), infos

    running.env.step = answer
    for _ in range(4):
        running.step(), expected.step()
        assert torch.equal(running._state[0], expected._state[0])


def test_as_many_ends_as_rows(replay):
    running = collector(replay)
    step = running.env.step
    running.env.step = lambda actions: (*step(actions)[:2], np.zeros(3, bool), [{}] * 3)
    with pytest.raises(RunError, match=r"dones of shape \(3,\) for 2 environments"):
        running.step()


# Measures


class Endings(TwoRows):
    """The rewards and ends of two rows over five steps."""

    rewards = np.array([[3, -1], [0.5, -1], [1, -2], [1, 0], [1, 0]], np.float32)
    endings = {(1, 0): "terminated", (1, 1): "truncated"}

    def step(self, actions):
        endings = [self.endings.get((self.steps, row)) for row in range(2)]
        rewards = self.rewards[self.steps]
        self.steps += 1
        infos = [{"TimeLimit.truncated": ending == "truncated"} for ending in endings]
        return self.reset(), rewards, np.array([ending is not None for ending in endings]), infos


def test_real_returns_are_signs_over_some_steps_up_to_an_end_of_what_was_seen_that_far(replay):
    running = collector(replay, return_steps=3)
    running.env = Endings()
    measured = []
    for _ in range(5):
        running.step()
        measured.append({name: value.item() for name, value in running.measures().items()})
    # Row 0: 1 + 1 and an end; 1 and the same end; 1 + 1 + 1. Row 1 is cut twice before it is known, then -1 + 0 + 0.
    assert measured == [{}, {}, {"real_return": 2}, {"real_return": 1}, {"real_return": 1}]


def test_where_every_row_was_cut_no_return_is_known(replay):
    running = collector(replay)
    running.step()
    running.reset(running.env.reset())
    running.step()
    assert running.measures() == {}


# Going on


class Dice(gym.Env):
    """A picture as bright as the dice say, which a seed or, for a `cheat`, something else throws."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(12)

    def __init__(self, cheat: bool = False) -> None:
        self.cheat = np.random.default_rng() if cheat else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._picture(0), {}

    def step(self, action):
        return self._picture(int(action)), float(action), bool(self.np_random.random() < 0.2), False, {}

    def _picture(self, action):
        return np.full((64, 64, 3), (self.cheat or self.np_random).integers(200) + action, np.uint8)


def in_dice(replay: Replay, **options) -> Collector:
    env = DummyVecEnv([lambda: Dice(**options)] * 2)
    env.seed(3)
    generator = torch.Generator()
    return Collector(env, CountingPolicy(), replay, generator=generator, **SETTINGS)


def played(replay: Replay, **options) -> tuple[Collector, np.ndarray]:
    """A collector that has taken 21 steps, with a reset among them, and the observations at which it stands."""
    running = in_dice(replay, **options)
    running.reset(running.env.reset())
    for _ in range(9):
        running.step()
    running.reset(running.env.reset())
    return running, [running.step() for _ in range(12)][-1].observations


def test_an_environment_that_its_seed_governs_is_played_up_to_where_it_stood(replay):
    running, observations = played(replay)
    state, tensors = running.state_dict()
    assert state == {"resets": [0, 9], "games": None}
    other = in_dice(replay)
    assert other.load_state_dict(state, tensors, observations)
    for _ in range(20):
        expected, found = running.step(), other.step()
        assert np.array_equal(found.observations, expected.observations)
        assert np.array_equal(found.actions, expected.actions)
        assert np.array_equal(found.dones, expected.dones)


def test_an_environment_that_nothing_governs_is_noticed(replay):
    running, observations = played(replay, cheat=True)
    state, tensors = running.state_dict()
    other = in_dice(replay, cheat=True)
    assert not other.load_state_dict(state, tensors, observations)
    assert other.state_dict()[0]["resets"] is None
