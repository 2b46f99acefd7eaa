import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded, UnsupportedMode
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode

from iris_gym.dream import DreamVectorEnv
from iris_gym.errors import UsageError
from iris_gym.functional import stored_frames, unit_frames

END, STAY = 3, 1


def dream_on(env: DreamVectorEnv, actions: torch.Tensor) -> list[torch.Tensor]:
    """Observations, rewards, ends and cuts of a dream through actions (S, N)."""
    columns = zip(*(env.step(action)[:4] for action in actions), strict=True)
    return [torch.stack(column) for column in columns]


def some_actions(steps: int, rows: int, seed: int = 0) -> torch.Tensor:
    """Without an end."""
    return torch.randint(3, (steps, rows), generator=torch.Generator().manual_seed(seed))


def same(one, other) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


# What is dreamt


def test_a_dream_is_that_of_the_bare_dynamics(make_dream, unscripted, some_frames):
    actions, images = some_actions(9, 3), some_frames(3)
    env = make_dream(dynamics=unscripted, horizon=None, greedy=True, autoreset_mode="Disabled")
    observations, _ = env.reset(options={"initial_frames": images})
    bare = unscripted.with_options(overflow_context=2, temperature=0.0)
    state = bare.start(unit_frames(images.permute(0, 3, 1, 2)))
    assert torch.equal(observations, stored_frames(bare.decode(state)).permute(0, 2, 3, 1))
    for action in actions:
        state, expected = bare.step(state, action)
        observations, rewards, terminated, truncated, _ = env.step(action)
        assert torch.equal(observations, stored_frames(expected.frame).permute(0, 2, 3, 1))
        assert torch.equal(rewards, expected.reward) and torch.equal(terminated, expected.end)
        assert not truncated.any()


def test_a_seed_and_the_actions_make_the_dream_whatever_else_draws_random_numbers(make_dream):
    actions = torch.randint(4, (20, 3), generator=torch.Generator().manual_seed(0))

    def run(disturb: bool) -> list[torch.Tensor]:
        torch.manual_seed(int(disturb)), np.random.seed(int(disturb))
        env = make_dream(horizon=5)
        answer = [env.reset(seed=7)[0]]
        for action in actions:
            if disturb:
                torch.rand(3), np.random.rand(3)
            answer += env.step(action)[:4]
        return answer

    before = torch.get_rng_state()
    assert same(run(False), run(True))
    torch.set_rng_state(before)
    env = make_dream(horizon=5)
    env.reset(seed=7), dream_on(env, actions)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", ["unscripted", "with_outcomes"])
def test_a_greedy_row_dreams_alone_what_it_dreams_among_others(make_dream, some_frames, mode, kind, request):
    """They end, begin anew at the one start frame there is, and outgrow their contexts at different times."""
    actions = torch.randint(4, (30, 6), generator=torch.Generator().manual_seed(1))

    def run(chosen: torch.Tensor) -> list[torch.Tensor]:
        env = make_dream(
            chosen.shape[1],
            dynamics=request.getfixturevalue(kind),
            start_frames=some_frames(1),
            greedy=True,
            horizon=7,
            autoreset_mode=mode,
            obs_type="tokens",
        )
        env.reset()
        return dream_on(env, chosen)

    together = run(actions)
    assert together[2].any() and together[3].any() and not together[2].all()
    for row in range(6):
        assert same([column[:, [row]] for column in together], run(actions[:, [row]]))


def test_a_reset_row_dreams_as_a_new_one_and_leaves_the_others_alone(make_dream, some_frames):
    actions, images = some_actions(14, 3), some_frames(3, seed=5)
    arguments = dict(greedy=True, horizon=None, obs_type="tokens", autoreset_mode="Disabled")
    env, untouched, anew = (make_dream(**arguments) for _ in range(3))
    for other in (env, untouched, anew):
        other.reset(options={"initial_frames": some_frames(3)})
    dream_on(env, actions[:4]), dream_on(untouched, actions[:4])
    mask = np.array([False, True, False])
    env.reset(options={"reset_mask": mask, "initial_frames": images})
    anew.reset(options={"initial_frames": images})
    result, kept, new = (dream_on(other, actions[4:]) for other in (env, untouched, anew))
    assert same([column[:, [0, 2]] for column in result], [column[:, [0, 2]] for column in kept])
    assert same([column[:, [1]] for column in result], [column[:, [1]] for column in new])


def test_same_step_observations_are_of_the_new_dream(make_dream, unscripted, some_frames):
    env = make_dream(start_frames=some_frames(1), greedy=True)
    first, _ = env.reset()
    observations, _, _, _, info = env.step([STAY, END, STAY])
    assert torch.equal(observations[1], first[1]) and not torch.equal(observations[0], first[0])
    assert torch.equal(info["final_obs"][[0, 2]], observations[[0, 2]])


def test_no_horizon_goes_on_past_many_contexts(make_dream):
    env = make_dream(2, horizon=None)
    env.reset(seed=0)
    assert not dream_on(env, some_actions(40, 2))[3].any()
    assert env.step([END, STAY])[4]["episode"]["l"].tolist() == [41, 0]


def test_rows_that_are_not_reset_dream_on(make_dream):
    env = make_dream(autoreset_mode="DISABLED", horizon=2)
    env.reset(seed=0)
    answers = [env.step([END, STAY, STAY]) for _ in range(4)]
    assert [answer[3].tolist() for answer in answers] == [[False] * 3] + [[True] * 3] * 3
    assert answers[3][4]["episode"]["l"].tolist() == [4] * 3


# Controls


def test_greedy_and_temperature_zero_are_one(make_dream, unscripted):
    actions = some_actions(12, 3)
    dreams = []
    for seed, arguments in [(0, {"greedy": True}), (0, {"temperature": 0}), (0, {}), (0, {"temperature": 3.0})]:
        env = make_dream(dynamics=unscripted, obs_type="tokens", horizon=None, autoreset_mode="Disabled", **arguments)
        env.reset(seed=seed)
        dreams.append(dream_on(env, actions))
    assert same(dreams[0], dreams[1])
    assert not same(dreams[0], dreams[2]) and not same(dreams[2], dreams[3])


def test_tokens_latents_and_pixels_are_of_the_same_dream(make_dream, dynamics):
    actions, tokenizer = some_actions(5, 3), dynamics.tokenizer
    seen = {}
    for obs_type in ("tokens", "latent", "pixels"):
        env = make_dream(obs_type=obs_type, horizon=3)
        env.reset(seed=1)
        seen[obs_type] = dream_on(env, actions)[0]
    assert seen["tokens"].shape == (5, 3, 4) and seen["tokens"].dtype == torch.int64
    assert seen["latent"].shape == (5, 3, 4, 6) and seen["latent"].dtype == torch.float32
    assert torch.equal(seen["latent"], tokenizer.quantizer.embed(seen["tokens"]))
    with torch.no_grad():
        frames = stored_frames(tokenizer.decode(seen["tokens"])).permute(0, 1, 3, 4, 2)
    assert torch.equal(seen["pixels"], frames)


def test_log_prob_is_that_of_the_frames_tokens(make_dream, unscripted):
    env = make_dream(dynamics=unscripted, log_probs=True, obs_type="tokens", horizon=None, autoreset_mode="Disabled")
    first, _ = env.reset(seed=0)
    actions = some_actions(2, 3)
    second, third = env.step(actions[0]), env.step(actions[1])
    tokens = torch.stack((first, second[0], third[0]), 1)
    with torch.no_grad():
        tails = torch.cat((actions.T, actions.T[:, :1]), 1)[..., None]
        logits = unscripted.world_model(tokens, tails).frame_tokens[:, :-1]
    each = logits.log_softmax(-1).gather(-1, tokens.flatten(1)[:, 1:, None]).squeeze(-1)
    for index, answer in enumerate((second, third)):
        expected = each[:, 3 + 4 * index : 7 + 4 * index].sum(1)
        torch.testing.assert_close(answer[4]["log_prob"], expected, rtol=1e-4, atol=1e-4)
        assert answer[4]["_log_prob"].all()


def test_log_prob_with_resets(make_dream):
    env = make_dream(log_probs=True)
    env.reset(seed=0)
    info = env.step([STAY, END, STAY])[4]
    assert (info["log_prob"] < 0).all()
    assert info["final_info"]["log_prob"].tolist() == [0, info["log_prob"][1].item(), 0]
    env = make_dream(log_probs=True, autoreset_mode="NextStep", output="numpy")
    env.reset(seed=0), env.step([STAY, END, STAY])
    info = env.step([STAY, END, STAY])[4]
    assert info["_log_prob"].tolist() == [True, False, True] and info["log_prob"][1] == 0
    assert "log_prob" not in env.reset()[1]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_branch_repeats_the_dream_or_leaves_it(make_dream, mode):
    actions = torch.randint(4, (18, 3), generator=torch.Generator().manual_seed(3))
    env, elsewhere = make_dream(autoreset_mode=mode, horizon=5), make_dream(autoreset_mode=mode, horizon=5)
    env.reset(seed=0), dream_on(env, actions[:7])
    state = env.get_state()
    expected = dream_on(env, actions[7:])
    env.reset()
    for branch in (env, elsewhere, env):
        branch.set_state(state)
        assert same(dream_on(branch, actions[7:]), expected)
    env.set_state(state, seed=1)
    assert not same(dream_on(env, actions[7:]), expected)
    with pytest.raises(UsageError, match="3 rows; this dream has 2"):
        make_dream(2).set_state(state)
    with pytest.raises(UsageError, match="state is of a dream of obs_type='pixels'; this one has 'tokens'"):
        make_dream(obs_type="tokens").set_state(state)


@pytest.mark.parametrize(
    "changes", [dict(layers=1), dict(heads=1), dict(timesteps=2), dict(vocab=2), dict(outcomes=True)]
)
def test_a_state_of_other_networks_is_refused_and_the_dream_goes_on(make_dream, dynamics_of, changes):
    env, undisturbed = make_dream(dynamics=dynamics_of(**changes)), make_dream(dynamics=dynamics_of(**changes))
    taken = make_dream(horizon=None)
    taken.reset(seed=0), dream_on(taken, some_actions(3, 3))
    actions = some_actions(2, 3)
    for dream in (env, undisturbed):
        dream.reset(seed=1), dream_on(dream, actions)
    for state, words in ((taken.get_state(), "of other networks"), ("a state", "nothing that get_state gave")):
        with pytest.raises(UsageError, match=words):
            env.set_state(state)
    assert same(dream_on(env, actions), dream_on(undisturbed, actions))


def test_inference_mode_may_come_and_go(make_dream):
    """Rollouts in it are usual, and a dream's memory is written to in place."""
    actions = some_actions(8, 3)
    expected, env = make_dream(horizon=2), make_dream(horizon=2)
    expected.reset(seed=0), env.reset(seed=0)
    answers = []
    for index, action in enumerate(actions):
        with torch.inference_mode(index % 2 == 0):
            answers.append(env.step(action)[0])
            env.set_state(env.get_state())
    assert same(answers, [expected.step(action)[0] for action in actions])
    with torch.inference_mode():
        env.reset(seed=0)
    env.step(actions[0])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_branch_of_a_longer_dream_ends_at_once(make_dream, mode, steps):
    """Though its rows have read more than any of the shorter dream's own."""
    longer, short = make_dream(horizon=None, autoreset_mode=mode), make_dream(horizon=1, autoreset_mode=mode)
    staying = torch.ones(3, dtype=torch.int64)
    longer.reset(seed=0)
    for _ in range(steps):
        longer.step(staying)
    short.set_state(longer.get_state())
    truncated = [bool(short.step(staying)[3].all()) for _ in range(4)]
    assert truncated == ([True] * 4 if mode is AutoresetMode.SAME_STEP else [True, False] * 2)
    short.reset()
    short.step(staying)
    assert short._dream.cache.longest <= 3 + 5, "a whole reset makes the bound hold again"


def test_a_branch_holds_no_more_than_was_read(make_dream):
    env = make_dream()
    env.reset()
    cache = env.get_state().dream.cache
    assert cache.capacity == cache.keys_values.shape[4] == 3  # of 20


def test_start_frames_from_a_source_and_in_either_layout(make_dream, unscripted, some_frames):
    images, asked = some_frames(6), []

    def source(count, generator):
        asked.append((count, generator))
        return images.permute(0, 3, 1, 2)[:count]

    env = make_dream(start_frames=source)
    observations, _ = env.reset(seed=0)
    assert asked == [(3, env.np_random)]
    given, _ = make_dream().reset(options={"initial_frames": images[:3]})
    assert torch.equal(observations, given)
    for layout in (images, images.numpy(), images.permute(0, 3, 1, 2), images.numpy().transpose(0, 3, 1, 2)):
        env = make_dream(64, start_frames=layout, obs_type="tokens")
        expected = unscripted.tokenizer.encode(unit_frames(images.permute(0, 3, 1, 2)))
        assert {tuple(row) for row in env.reset(seed=0)[0].tolist()} == {tuple(row) for row in expected.tolist()}


def test_what_a_source_of_start_frames_gives_is_looked_at(make_dream, some_frames):
    images = some_frames(3)
    array, expected = (make_dream(start_frames=lambda *_, given=given: given) for given in (images.numpy(), images))
    assert torch.equal(array.reset()[0], expected.reset()[0])
    with pytest.raises(UsageError, match="start_frames gave 2 frames where 3 were asked for"):
        make_dream(start_frames=lambda *_: images[:2]).reset()
    with pytest.raises(UsageError, match="start_frames cannot be used"):
        make_dream(start_frames=lambda *_: images / 255).reset()
    with pytest.raises(UsageError, match="start_frames cannot be used"):
        make_dream(start_frames=lambda *_: None).reset()


def test_render_gives_the_frames_whatever_is_observed(make_dream):
    pixels, tokens = (make_dream(obs_type=kind, render_mode="rgb_array") for kind in ("pixels", "tokens"))
    observations, _ = pixels.reset(seed=0)
    tokens.reset(seed=0)
    for _ in range(3):
        frames, others = pixels.render(), tokens.render()
        assert all(isinstance(each, tuple) and len(each) == 3 for each in (frames, others))
        assert np.array_equal(frames, others)
        for frame, seen in zip(frames, observations.numpy(), strict=True):
            np.testing.assert_allclose(frame.astype(int), seen, atol=1)  # it may be decoded among more, in a pool
        observations = pixels.step([END, STAY, STAY])[0]
        tokens.step([END, STAY, STAY])
    with pytest.raises(ResetNeeded):
        make_dream(render_mode="rgb_array").render()
    with pytest.warns(UserWarning, match="render_mode"):
        assert make_dream().render() is None


# What is asked of a device


class Questions(TorchDispatchMode):
    """Notes the operations that wait for a device."""

    WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::item"}

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name() in self.WAITING or (
            func.name() == "aten::index.Tensor" and any(x is not None and x.dtype == torch.bool for x in args[1])
        ):
            self.asked.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("obs_type", ["pixels", "tokens", "latent"])
def test_a_step_on_a_device_asks_it_nothing(make_dream, monkeypatch, obs_type):
    env = make_dream(horizon=3, obs_type=obs_type, log_probs=True)
    monkeypatch.setattr(env, "_may_ask", False)  # as on another device than the CPU
    env.reset(seed=0)
    monkeypatch.setattr("iris_gym.dream.vector_env.as_actions", lambda actions, *_: actions)
    actions = torch.randint(4, (20, 3), generator=torch.Generator().manual_seed(0))
    with Questions() as questions:
        infos = [env.step(action)[4] for action in actions]
    assert questions.asked == []
    ended = torch.stack([info["_final_obs"] for info in infos])
    assert ended.any() and not ended.all(1).all()


def test_a_device_dreams_what_the_cpu_dreams(make_dream, some_frames, monkeypatch):
    """With one start frame; the draws among several happen in other steps."""
    actions = torch.randint(4, (20, 3), generator=torch.Generator().manual_seed(0))
    free, silent = (make_dream(start_frames=some_frames(1), horizon=5, greedy=True) for _ in range(2))
    monkeypatch.setattr(silent, "_may_ask", False)
    free.reset(), silent.reset()
    assert same(dream_on(free, actions), dream_on(silent, actions))


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs=0 must be"),
        ({"horizon": 0}, "horizon=0 must be"),
        ({"horizon": -3}, "horizon=-3 must be"),
        ({"horizon": 2.5}, "horizon=2.5 must be"),
        ({"output": "jax"}, "output='jax' is unknown; give one of torch, numpy"),
        ({"obs_type": "frames"}, "obs_type='frames' is unknown"),
        ({"temperature": -1}, "temperature=-1 must be"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"autoreset_mode": "sometimes"}, "autoreset_mode='sometimes' is unknown; give one of NextStep, SameStep"),
        ({"overflow_context": 4}, "overflow_context=4 must lie between 1 and 3"),
        ({"overflow_context": 0}, "overflow_context=0 must lie between 1 and 3"),
        ({"start_frames": np.zeros((0, 64, 64, 3), np.uint8)}, "start_frames=.* nothing to start from"),
        ({"start_frames": np.zeros((2, 64, 64, 3))}, "start_frames cannot be used"),
        ({"start_frames": torch.zeros(2, 64, 64, 3)}, "start_frames cannot be used"),
    ],
)
def test_arguments_out_of_range(make_dream, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_dream(**arguments)


def test_an_unknown_render_mode(make_dream):
    with pytest.raises(UnsupportedMode, match="render_mode='human'"):
        make_dream(render_mode="human")


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 64, 64, 3), np.uint8), np.zeros((3, 64, 64, 3)), np.zeros((3, 3, 64, 64), np.uint8), 5],
)
def test_initial_frames_of_another_shape_or_dtype(make_dream, frames):
    with pytest.raises(UsageError, match="initial_frames"):
        make_dream().reset(options={"initial_frames": frames})


def test_a_mask_before_the_first_reset(make_dream):
    env = make_dream()
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False, True])})
    env.reset(options={"reset_mask": np.array([True] * 3)})
    env.step([STAY] * 3)
