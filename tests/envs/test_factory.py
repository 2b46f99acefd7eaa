"""Environments by id: what is wrapped how, and what is refused."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from iris_gym.envs import AtariVecEnv, frames_per_second, make_env, make_vec_env
from iris_gym.envs.minatar import PALETTE, paint
from iris_gym.errors import UsageError


class Camera(gym.Env):
    """Counts its steps on a (3, 10, 12) image, and remembers whether it was closed."""

    observation_space = gym.spaces.Box(0, 255, (3, 10, 12), np.uint8)
    action_space: gym.Space = gym.spaces.Discrete(2)
    closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((3, 10, 12), np.uint8), {}

    def step(self, action):
        self.steps += 1
        return np.full((3, 10, 12), self.steps, np.uint8), 2.0, self.steps == 3, False, {}

    def close(self):
        type(self).closed = True


class Steering(Camera):
    action_space = gym.spaces.Box(-1, 1)


@pytest.fixture
def registered(monkeypatch):
    def register(cls: type[gym.Env]) -> str:
        monkeypatch.setitem(gym.registry, "Camera-v0", EnvSpec("Camera-v0", entry_point=cls))
        return "Camera-v0"

    return register


def test_any_image_environment(registered):
    env = make_env(registered(Camera))
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    assert env.observation_space.contains(env.step(0)[0])
    observation, *_ = env.step(1)
    assert (observation == 2).all()
    assert env.step(1)[4]["episode"]["r"] == 6.0
    env.close()


def test_a_refused_environment_is_closed(registered):
    with pytest.raises(UsageError, match="action space"):
        make_env(registered(Steering))
    assert Steering.closed


def test_minigrid():
    env = make_env("MiniGrid-Empty-5x5-v0")
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation.any()
    assert isinstance(env, Monitor)
    turned = env.step(0)[0]
    assert (turned != observation).any()
    env.close()


def test_minatar_is_painted_crisp_and_repeatable():
    env = make_env("MinAtar/Breakout-v1", render_mode="rgb_array")
    runs = []
    for _ in range(2):
        observation, _ = env.reset(seed=5)
        assert env.observation_space.contains(observation)
        runs.append([observation] + [env.step(action)[0] for action in (1, 2, 1, 1)])
    np.testing.assert_array_equal(*runs)
    colours = {tuple(colour) for colour in runs[0][0].reshape(-1, 3)}
    assert 2 < len(colours) <= 5 and colours <= {tuple(colour) for colour in PALETTE}
    np.testing.assert_array_equal(env.render(), runs[1][-1])
    env.close()


def test_a_game_by_a_minatar_name_does_not_hide_those_of_minatar(monkeypatch):
    registry = {name: spec for name, spec in gym.registry.items() if not name.startswith("MinAtar/")}
    monkeypatch.setattr(gym.envs.registration, "registry", registry)
    monkeypatch.setattr(gym, "registry", registry)
    keywords = {"game": "breakout", "sticky_action_prob": 0.0}
    gym.register("MinAtar/Unsticky-v0", entry_point="minatar.gym:BaseEnv", kwargs=keywords)
    unsticky = make_env("MinAtar/Unsticky-v0").unwrapped
    assert unsticky.game.sticky_action_prob == 0.0  # pyright: ignore[reportAttributeAccessIssue]
    make_env("MinAtar/Breakout-v1").close()


def test_paint_gives_each_cell_a_block():
    state = np.zeros((2, 2, 10), bool)
    state[0, 1, 0] = state[1, 1, 2] = state[1, 1, 9] = True
    image = paint(state)
    blocks = [image[:32, :32], image[:32, 32:], image[32:, :32], image[32:, 32:]]
    assert [(block == PALETTE[colour]).all() for block, colour in zip(blocks, (0, 1, 0, 10), strict=True)] == [True] * 4
    assert len({tuple(colour) for colour in PALETTE}) == 11


def test_atari_under_the_protocol_or_as_registered():
    protocol = make_env("ALE/Pong-v5").unwrapped.ale  # pyright: ignore[reportAttributeAccessIssue]
    env = make_env("ALE/Pong-v5", atari_100k=False)
    registered = env.unwrapped.ale  # pyright: ignore[reportAttributeAccessIssue]
    assert protocol.getFloat("repeat_action_probability") == 0.0
    assert registered.getFloat("repeat_action_probability") == 0.25
    assert env.reset()[1]["episode_frame_number"] == 0
    observation, *_, info = env.step(0)
    assert info["episode_frame_number"] == 4 and env.observation_space.contains(observation)


@pytest.mark.parametrize("preprocessing, kind", [("iris", DummyVecEnv), ("ale", AtariVecEnv)])
def test_vec_env_seeds(preprocessing, kind):
    first, second = (make_vec_env("ALE/Pong-v5", 2, preprocessing=preprocessing, seed=3) for _ in range(2))
    assert isinstance(first, kind) and first.observation_space.shape == (64, 64, 3)
    np.testing.assert_array_equal(first.reset(), second.reset())
    assert first.reset_infos == second.reset_infos
    assert first.reset_infos[0]["episode_frame_number"] != first.reset_infos[1]["episode_frame_number"]
    first.close()
    second.close()


@pytest.mark.parametrize(
    "env_id, message",
    [
        ("ALE/Pongg-v5", r"env: 'ALE/Pongg-v5' is not .*did you mean ALE/Pong-v5"),
        ("ale/breakout-v5", "did you mean ALE/Breakout-v5"),
        ("ALE/Pong", "did you mean ALE/Pong-v5"),
        ("MiniGrid-Emty-5x5-v0", "did you mean MiniGrid-Empty-5x5-v0"),
        ("MinAtar/Brakeout-v1", "did you mean MinAtar/Breakout-v1"),
        ("qqqqqqqqqqqq", "is not a registered environment; gymnasium.pprint_registry"),
        ("", "is not a registered environment"),
        ("no_such_module:Id-v0", "No module named 'no_such_module'; install the package"),
        (".relative:Id-v0", "correct the id"),
        ("CartPole-v1", "AddRenderObservation"),
    ],
)
def test_unusable_ids(env_id: str, message: str):
    with pytest.raises(UsageError, match=message) as error:
        make_env(env_id)
    assert "\n" not in str(error.value)


def test_an_id_with_a_module():
    make_env("ale_py:ALE/Pong-v5").close()
    assert make_vec_env("ale_py:ALE/Pong-v5", 1, preprocessing="ale").num_envs == 1


@pytest.mark.parametrize(
    "env_id, module, extra",
    [("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"), ("MinAtar/Breakout-v1", "minatar.gym", "minatar")],
)
def test_a_missing_package_names_its_extra(monkeypatch, env_id: str, module: str, extra: str):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf'pip install "iris-gym\[{extra}\]"'):
        make_env(env_id)


def test_a_missing_dependency_is_one_line(monkeypatch):
    monkeypatch.setitem(gym.registry, "Broken-v0", EnvSpec("Broken-v0", entry_point="no_such_module:Env"))
    with pytest.raises(UsageError, match="env: 'Broken-v0' cannot be made: No module named"):
        make_env("Broken-v0")


def test_an_environment_that_cannot_be_made_is_one_line(monkeypatch):
    """Whatever its own code raises; the dream, which has an id, too, needs to be told of an agent."""
    with pytest.raises(UsageError, match="env: 'IrisGym/Dream-v0' cannot be made: TypeError: .*'checkpoint'"):
        make_env("IrisGym/Dream-v0")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_envs=0), "num_envs: 0 is too few"),
        (dict(preprocessing="ALE"), "preprocessing: 'ALE' is unknown; give one of iris, ale"),
        (dict(preprocessing="ale", atari_100k=False), "preprocessing: 'ale' is for Atari games"),
        (dict(preprocessing="ale", env_id="MiniGrid-Empty-5x5-v0"), "not for 'MiniGrid-Empty-5x5-v0'"),
    ],
)
def test_unusable_arguments(arguments, message: str):
    with pytest.raises(UsageError, match=message):
        make_vec_env(**{"env_id": "ALE/Pong-v5", "num_envs": 1, **arguments})


@pytest.mark.parametrize(
    ("env_id", "fps"),
    [
        ("ALE/Pong-v5", 15),
        ("MiniGrid-Empty-5x5-v0", 10),
        ("CartPole-v1", 50),
        ("nothing:Registered-v0", 15),
        (None, 15),
    ],
)
def test_the_pace_of_a_game(env_id, fps):
    assert frames_per_second(env_id) == fps


@pytest.mark.parametrize(("said", "fps"), [({"render_fps": 4}, 4), ({"render_fps": None}, 15), ({}, 15)])
@pytest.mark.parametrize("entry_point", ["class", "function"])
def test_the_pace_of_a_game_that_is_registered_with_what_makes_it(said, fps, entry_point, monkeypatch):
    def make():
        return Camera()

    make.metadata = said
    monkeypatch.setattr(Camera, "metadata", said)
    gym.register("Pace-v0", Camera if entry_point == "class" else make)
    try:
        assert frames_per_second("Pace-v0") == fps
    finally:
        del gym.registry["Pace-v0"]
