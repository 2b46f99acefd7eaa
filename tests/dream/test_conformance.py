"""What a vector environment of Gymnasium 1.x owes its users. Gymnasium has no checker for it; this is one.

`check_*` take any vector environment whose action 3 ends an episode and earns 1, whose action 0 costs 1 and whose
other actions do nothing. They are modelled on what Gymnasium's tests of its own vector environments assert.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from iris_gym.dream import DreamEnv

END, LOSE, STAY = 3, 0, 1


def to_numpy(value):
    return value.numpy() if isinstance(value, torch.Tensor) else value


def array_types(output: str) -> type:
    return torch.Tensor if output == "torch" else np.ndarray


def dtype_of(values) -> str:
    return str(values.dtype).removeprefix("torch.")


def step(env: VectorEnv, *actions: int):
    """A step, its answer in NumPy."""
    observations, rewards, terminated, truncated, info = env.step(np.array(actions))
    return to_numpy(observations), to_numpy(rewards), to_numpy(terminated), to_numpy(truncated), info


def check_spaces(env: VectorEnv) -> None:
    assert env.observation_space == batch_space(env.single_observation_space, env.num_envs)
    assert env.action_space == batch_space(env.single_action_space, env.num_envs)
    assert isinstance(env.metadata["autoreset_mode"], AutoresetMode)
    assert env.metadata is not type(env).metadata
    assert env.unwrapped is env
    assert str(env.num_envs) in repr(env)


def check_returned_values(env: VectorEnv, output: str) -> None:
    observations, info = env.reset(seed=1)
    assert isinstance(observations, array_types(output))
    assert to_numpy(observations) in env.observation_space
    assert isinstance(info, dict)
    for _ in range(4):
        observations, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        assert isinstance(observations, array_types(output))
        assert to_numpy(observations) in env.observation_space
        for values, dtype in ((rewards, "float32"), (terminated, "bool"), (truncated, "bool")):
            assert isinstance(values, array_types(output))
            assert values.shape == (env.num_envs,)
            assert dtype_of(values) == dtype
        assert isinstance(info, dict)


def check_info_masks(info: dict, num_envs: int, output: str) -> None:
    """Every key has a mask and every mask a key."""
    for name, value in info.items():
        if name.startswith("_"):
            assert isinstance(value, array_types(output))
            assert dtype_of(value) == "bool" and value.shape == (num_envs,)
            assert name[1:] in info
        else:
            assert f"_{name}" in info
            if isinstance(value, dict) and name == "final_info":
                check_info_masks(value, num_envs, output)


def check_seeding(env: VectorEnv) -> None:
    def run(seed: int | None) -> list[np.ndarray]:
        seen = [to_numpy(env.reset(seed=seed)[0]).copy()]
        return seen + [step(env, *[action] * env.num_envs)[0] for action in (STAY, END, STAY, LOSE, STAY, END, STAY)]

    first, again, on, other = run(5), run(5), run(None), run(6)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, on, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    assert env.np_random_seed == 6


def check_nothing_returned_is_used_again(env: VectorEnv) -> None:
    def tensors(value):
        if isinstance(value, dict):
            return [part for item in value.values() for part in tensors(item)]
        if isinstance(value, np.ndarray) and value.dtype == object:
            return [item for item in value if item is not None]
        return [value]

    kept, copies = [], []
    for answer in (env.reset(seed=0), *(env.step(np.full(env.num_envs, action)) for action in (STAY, END, STAY, END))):
        parts = [part for value in answer for part in tensors(value)]
        kept += parts
        copies += [to_numpy(part).copy() for part in parts]
    env.reset()
    assert all(np.array_equal(to_numpy(part), copy) for part, copy in zip(kept, copies, strict=True))
    addresses = [to_numpy(part).__array_interface__["data"][0] for part in kept]
    assert len(set(addresses)) == len(addresses)


def check_order_of_calls(env: VectorEnv) -> None:
    actions = np.full(env.num_envs, STAY)
    with pytest.raises(ResetNeeded):
        env.step(actions)
    env.reset()
    env.close()
    env.close()
    assert env.closed
    for call in (env.reset, lambda: env.step(actions)):
        with pytest.raises(ClosedEnvironmentError):
            call()


def check_bad_actions(env: VectorEnv) -> None:
    env.reset()
    count = env.num_envs
    bad = [
        np.full(count, 4),
        np.full(count, -1),
        np.full(count, 0.0),
        np.zeros(count, bool),
        np.zeros(count + 1, int),
        np.zeros((count, 1), int),
        0,
        "left",
    ]
    for actions in [*bad, *(torch.as_tensor(values) for values in bad[:6])]:
        with pytest.raises(InvalidAction):
            env.step(actions)
    env.step([STAY] * count)
    env.step(torch.full((count,), STAY, dtype=torch.int32))


def check_bad_masks(env: VectorEnv) -> None:
    env.reset()
    rows = env.num_envs
    for mask, error in [
        ([True] * rows, TypeError),
        (np.ones(rows, int), TypeError),
        (torch.ones(rows), TypeError),
        (np.ones(rows + 1, bool), ValueError),
        (np.ones((rows, 1), bool), ValueError),
        (np.zeros(rows, bool), ValueError),
        (torch.zeros(rows, dtype=torch.bool), ValueError),
    ]:
        with pytest.raises(error, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def check_masked_reset(env: VectorEnv, mask) -> None:
    """Rows 0 and 2 of three begin anew, row 1 stands where it stood."""
    env.reset(seed=3)
    before = step(env, STAY, STAY, STAY)[0]
    options = {"reset_mask": mask}
    after = to_numpy(env.reset(options=options)[0])
    assert "reset_mask" in options  # it is the caller's
    assert [np.array_equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, False]


def check_next_step(env: VectorEnv, output: str) -> None:
    env.reset(seed=0)
    observations, rewards, terminated, truncated, info = step(env, STAY, END, LOSE)
    assert rewards.tolist() == [0, 1, -1] and terminated.tolist() == [False, True, False] and not truncated.any()
    assert set(info) == {"episode", "_episode"}
    _, rewards, terminated, truncated, info = step(env, LOSE, END, LOSE)  # row 1 is reset, whatever its action
    assert rewards.tolist() == [-1, 0, -1] and not terminated.any() and not truncated.any() and not info
    _, rewards, terminated, _, info = step(env, STAY, END, STAY)
    assert rewards.tolist() == [0, 1, 0] and terminated.tolist() == [False, True, False]
    assert to_numpy(info["episode"]["l"]).tolist() == [0, 1, 0] and to_numpy(info["episode"]["r"]).tolist() == [0, 1, 0]
    check_info_masks(info, 3, output)


def check_same_step(env: VectorEnv, output: str) -> None:
    env.reset(seed=0)
    assert not step(env, STAY, STAY, STAY)[4]
    observations, rewards, terminated, truncated, info = step(env, STAY, END, LOSE)
    assert rewards.tolist() == [0, 1, -1] and terminated.tolist() == [False, True, False] and not truncated.any()
    check_info_masks(info, 3, output)
    assert set(info) == {f"{under}{key}" for under in ("", "_") for key in ("episode", "final_obs", "final_info")}
    for mask in ("_episode", "_final_obs", "_final_info"):
        assert to_numpy(info[mask]).tolist() == [False, True, False]
    final = to_numpy(info["final_obs"][1])
    assert final in env.single_observation_space and not np.array_equal(final, observations[1])
    if output == "numpy":
        assert info["final_obs"].dtype == object and info["final_obs"][0] is None and info["final_obs"][2] is None
    _, rewards, terminated, _, info = step(env, END, END, STAY)  # row 1 is a new episode already
    assert rewards.tolist() == [1, 1, 0] and terminated.tolist() == [True, True, False]
    assert to_numpy(info["episode"]["l"]).tolist() == [3, 1, 0]


def check_disabled(env: VectorEnv, output: str) -> None:
    env.reset(seed=0)
    last, _, terminated, _, info = step(env, STAY, END, LOSE)
    assert terminated.tolist() == [False, True, False]
    assert set(info) == {"episode", "_episode"}
    observations = to_numpy(env.reset(options={"reset_mask": terminated})[0])
    assert [np.array_equal(*pair) for pair in zip(last, observations, strict=True)] == [True, False, True]
    _, _, terminated, truncated, info = step(env, END, END, END)
    assert terminated.all() and not truncated.any()
    check_info_masks(info, 3, output)


CHECKS = {
    AutoresetMode.NEXT_STEP: check_next_step,
    AutoresetMode.SAME_STEP: check_same_step,
    AutoresetMode.DISABLED: check_disabled,
}
every_kind = pytest.mark.parametrize(
    ("mode", "output"), [(mode, output) for mode in AutoresetMode for output in ("torch", "numpy")]
)


@every_kind
@pytest.mark.parametrize("obs_type", ["pixels", "tokens", "latent"])
def test_spaces_and_values(make_dream, mode, output, obs_type):
    env = make_dream(autoreset_mode=mode, output=output, obs_type=obs_type)
    check_spaces(env)
    check_returned_values(env, output)


@every_kind
def test_seeding(make_dream, mode, output):
    check_seeding(make_dream(autoreset_mode=mode, output=output))


@every_kind
def test_nothing_returned_is_used_again(make_dream, mode, output):
    check_nothing_returned_is_used_again(make_dream(autoreset_mode=mode, output=output, log_probs=True))


@every_kind
def test_order_of_calls(make_dream, mode, output):
    check_order_of_calls(make_dream(autoreset_mode=mode, output=output))


@every_kind
def test_bad_input(make_dream, mode, output):
    env = make_dream(autoreset_mode=mode, output=output, horizon=None)
    check_bad_actions(env)
    check_bad_masks(env)


@every_kind
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_masked_reset(make_dream, mode, output, kind):
    check_masked_reset(make_dream(autoreset_mode=mode, output=output), kind([True, False, True]))


@every_kind
def test_autoreset(make_dream, mode, output):
    CHECKS[mode](make_dream(autoreset_mode=mode, output=output), output)


@every_kind
def test_truncation(make_dream, mode, output):
    env = make_dream(autoreset_mode=mode, output=output, horizon=3)
    env.reset(seed=0)
    ends = [step(env, STAY, STAY, END)[2:4] for _ in range(3)]
    assert [truncated.tolist() for _, truncated in ends[:2]] == [[False] * 3] * 2
    expected = {AutoresetMode.DISABLED: [True] * 3}.get(mode, [True, True, False])
    assert ends[2][1].tolist() == expected
    assert not ends[2][0][:2].any()


def test_statistics_after_a_masked_reset(make_dream):
    """Gymnasium's wrapper forgets the rows that were not reset, whose mask its own environment takes away."""
    env = make_dream(autoreset_mode="Disabled")
    env.reset()
    terminated = env.step([STAY, END, LOSE])[2]
    env.reset(options={"reset_mask": terminated})
    statistics = env.step([END] * 3)[4]["episode"]
    assert statistics["l"].tolist() == [2, 1, 2] and statistics["r"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_statistics_are_those_of_gymnasiums_own_wrapper(make_dream, mode):
    env = make_dream(autoreset_mode=mode, output="numpy", horizon=4)
    wrapped = RecordEpisodeStatistics(make_dream(autoreset_mode=mode, output="numpy", horizon=4), stats_key="theirs")
    draws = np.random.default_rng(0)
    env.reset(seed=0), wrapped.reset(seed=0)
    for _ in range(30):
        actions = draws.integers(4, size=3)
        info, theirs = env.step(actions)[4], wrapped.step(actions)[4]
        assert ("episode" in info) == ("theirs" in theirs)
        if "episode" in info:
            for key in "rl":
                assert info["episode"][key].tolist() == theirs["theirs"][key].tolist()
            assert info["_episode"].tolist() == theirs["_theirs"].tolist()
            assert ((info["episode"]["t"] > 0) == info["_episode"]).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("output", ["torch", "numpy"])
def test_without_its_own_statistics_gymnasiums_wrapper_has_room(make_dream, mode, output):
    dream = make_dream(autoreset_mode=mode, output=output, horizon=2, episode_statistics=False)
    env = RecordEpisodeStatistics(dream) if output == "numpy" else dream
    env.reset(seed=0)
    infos = [env.step([STAY, LOSE, STAY])[4] for _ in range(2)]
    assert "episode" not in infos[0] and ("episode" in infos[1]) == (output == "numpy")
    if output == "numpy":
        assert infos[1]["episode"]["r"].tolist() == [0, -2, 0] and infos[1]["episode"]["l"].tolist() == [2, 2, 2]
    assert ("final_obs" in infos[1]) == (mode is AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_check_itself_accepts_gymnasiums_own_vector_environment(dynamics, some_frames, mode):
    rows = [lambda: DreamEnv(dynamics, start_frames=some_frames(32))] * 3
    check_spaces(gym.vector.SyncVectorEnv(rows, autoreset_mode=mode))
    CHECKS[mode](RecordEpisodeStatistics(gym.vector.SyncVectorEnv(rows, autoreset_mode=mode)), "numpy")
