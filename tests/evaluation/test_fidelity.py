"""Measures of dreams whose worth is known: of a game that can be known perfectly, by models that know it or do not.

The state is a number below `STATES`; an action is added to it, modulo `STATES`. To pass the largest number brings 1,
action 0 brings -1, and the number `LAST` is the end. A frame is grey in the number's shade, and each of its 16 tokens
is the number.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_gym import IRISConfig, UsageError, build_models
from iris_gym.evaluation.fidelity import Fidelity, lifetime, measure
from iris_gym.evaluation.findings import summarise
from iris_gym.evaluation.prediction import dream_of_actions, forecast
from iris_gym.evaluation.real_episodes import RealEpisode
from iris_gym.evaluation.stretches import Start, choose_starts, cut_stretches
from iris_gym.imagination.dynamics import Dynamics, Outcome
from iris_gym.models.world_model import Predictions

STATES, LAST, ACTIONS = 11, 7, 3
SURE = 40.0


def following(states: Tensor, actions: Tensor) -> Tensor:
    return (states + actions) % STATES


def reward(states: Tensor, actions: Tensor) -> Tensor:
    return (states + actions >= STATES).long() - (actions == 0).long()


def ends(states: Tensor, actions: Tensor) -> Tensor:
    return following(states, actions) == LAST


def draw(states: Tensor) -> Tensor:
    """States (...) to frames (..., 3, 64, 64) uint8."""
    return (states * 25).byte()[..., None, None, None].expand(*states.shape, 3, 64, 64)


def choose(states: Tensor) -> Tensor:
    return states % 2 + 1


def play(start: int, steps: int, game: int = 0) -> RealEpisode:
    """An episode from `start`, up to the end or for so many steps, by `choose`."""
    states, taken = [torch.tensor(start)], []
    while len(taken) < steps and not (taken and ends(states[-1], taken[-1])):
        if taken:
            states.append(following(states[-1], taken[-1]))
        taken.append(choose(states[-1]))
    seen, actions = torch.stack(states), torch.stack(taken)
    over = bool(ends(seen[-1], actions[-1]))
    return RealEpisode(draw(seen), actions, reward(seen, actions).float(), over, game, 0, seed=game)


class CountingTokenizer:
    quantizer = SimpleNamespace(vocab_size=STATES)

    def encode(self, frames: Tensor) -> Tensor:
        states = (frames[..., 0, 0, 0] * 255 / 25).round().long()
        return states[..., None].expand(*states.shape, 16)

    def decode(self, tokens: Tensor) -> Tensor:
        patches = (tokens.float() * 25 / 255).view(*tokens.shape[:-1], 1, 4, 4).expand(*tokens.shape[:-1], 3, 4, 4)
        return patches.repeat_interleave(16, -1).repeat_interleave(16, -2)


@dataclass
class CountingWorldModel:
    """Adds the action and `error`; rewards and ends are right without an error, and the opposite with one."""

    error: int = 0
    timesteps: int = 5
    tokens_per_step: int = 17
    frame_embedding = SimpleNamespace(weight=torch.zeros(1))

    def tails(self, actions: Tensor, reward_classes: Tensor, ends: Tensor) -> Tensor:
        return actions[..., None]

    def __call__(self, tokens: Tensor, tails: Tensor) -> Predictions:
        states, actions = tokens[..., 0], tails[..., 0]
        after = (following(states, actions) + self.error) % STATES
        within = tokens[..., 1:]  # a frame's tokens are all the same
        frame_tokens = torch.cat((within, after[..., None]), dim=-1).flatten(1, 2)
        return Predictions(
            _sure(frame_tokens, STATES), _sure(self.reward(states, actions) + 1, 3), _sure(self.end(states, actions), 2)
        )

    def reward(self, states: Tensor, actions: Tensor) -> Tensor:
        right = reward(states, actions)
        return torch.where(right == 0, 1, -right) if self.error else right

    def end(self, states: Tensor, actions: Tensor) -> Tensor:
        return (ends(states, actions) ^ bool(self.error)).long()


class CountingDynamics:
    overflow_context, device = 2, torch.device("cpu")

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.tokenizer, self.world_model = CountingTokenizer(), CountingWorldModel(error)

    def start_from_history(self, frame_tokens: Tensor, between: Tensor) -> SimpleNamespace:
        assert frame_tokens.shape[1] == between.shape[1] + 1
        return SimpleNamespace(frame_tokens=frame_tokens)

    def advance(self, state, action, *, generator, log_probs):
        states = state.frame_tokens[:, -1, 0]
        after = (following(states, action) + self.error) % STATES
        outcome = Outcome(
            self.world_model.reward(states, action).float(),
            self.world_model.end(states, action).bool(),
            torch.zeros(len(action)),
        )
        return SimpleNamespace(frame_tokens=after[:, None, None].expand(-1, 1, 16)), outcome

    def decode(self, state) -> Tensor:
        return self.tokenizer.decode(state.frame_tokens[:, -1])


class CountingPolicy:
    """Plays as `choose` does; it remembers nothing."""

    def __init__(self) -> None:
        self.actor_critic = SimpleNamespace(act=self._act)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def burn_in(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.initial_state(len(frames))

    def _act(self, frames: Tensor, memory):
        return _sure(choose(CountingTokenizer().encode(frames)[:, 0]), ACTIONS), memory


def _sure(classes: Tensor, count: int) -> Tensor:
    return SURE * torch.nn.functional.one_hot(classes, count).float()


EPISODES = [play(start, 20, game) for game, start in enumerate([0, 8, 2, 8, 0, 8, 9, 8])]


def measured(error: int = 0, **options: Any) -> Fidelity:
    dynamics: Any = CountingDynamics(error)
    policy: Any = CountingPolicy()
    return measure(dynamics, policy, EPISODES, **{"starts": 100, "horizon": 6} | options)


@pytest.mark.parametrize("context", [1, 2])
def test_a_perfect_dream(context):
    fidelity = measured(context=context)
    found = fidelity.by_horizon
    known = fidelity.starts.frame_known
    assert known[:, 0].sum() > 10 and known[:, 5 - context].sum() >= 4  # beyond what the world model reads
    for name in ("token_accuracy_told", "token_accuracy_dream", "reward_right", "end_right"):
        assert set(found[name][~np.isnan(found[name])]) == {1.0}
    assert np.nanmax(found["nats_real"]) < 1e-6
    for name in ("dream", "reconstruction"):
        assert np.nanmax(found[f"pixel_error_{name}"]) < 1e-12
        assert np.nanmin(found[f"ssim_{name}"]) > 0.9999
    assert np.isnan(found["token_accuracy_dream"][~known]).all()
    summary = summarise(fidelity)
    assert summary["reward"]["confusion"] == [[0, 0, 0], [0, 35, 0], [0, 0, 5]]
    assert summary["end"]["confusion"] == [[32, 0], [0, 8]]
    for curve in (summary["reward"]["calibration"]["positive"], summary["end"]["calibration"]):
        assert curve["calibration_error"] < 1e-6
        assert (curve["happened"][0], curve["happened"][-1]) == (0.0, 1.0)
    assert summary["return"]["real"]["mean"] == summary["return"]["dream"]["mean"]
    assert set(summary["return"]["difference"]["mean"]) == {0.0}
    assert summary["return"]["dream_promises"] == "same"
    assert summary["survival"]["real"]["mean"] == summary["survival"]["dream"]["mean"]
    assert summary["survival"]["real"]["mean"][-1] == 0.0  # every episode ends within six steps


def test_a_dream_that_is_always_wrong():
    fidelity = measured(error=1)
    found = fidelity.by_horizon
    # Told the truth, 15 of 16 tokens follow from those before them in the frame; dreamt, none is right at first.
    assert set(found["token_accuracy_told"][fidelity.starts.frame_known]) == {15 / 16}
    assert set(found["token_accuracy_dream"][fidelity.starts.frame_known[:, 0], 0]) == {0.0}
    assert np.nanmean(found["nats_real"]) == pytest.approx(SURE / 16)
    # One shade too bright, 25 of 255.
    errors = found["pixel_error_dream"][fidelity.starts.frame_known[:, 0], 0]
    assert errors == pytest.approx((25 / 255) ** 2)
    assert np.nanmax(found["pixel_error_reconstruction"]) < 1e-12
    assert set(found["reward_right"][:, 0]) == {0.0} and set(found["end_right"][:, 0]) == {0.0}
    summary = summarise(fidelity)
    assert summary["reward"]["accuracy"]["mean"] == 0.0
    assert summary["end"]["confusion"] == [[0, 32], [8, 0]]
    assert summary["end"]["calibration"]["calibration_error"] == pytest.approx(1.0)
    assert summary["survival"]["dream"]["mean"][1] < summary["survival"]["real"]["mean"][1]


def test_a_dream_that_promises_too_much():
    fidelity = measured()
    fidelity.dream_rewards[:] = fidelity.real_rewards
    fidelity.dream_rewards[:, 0] += 1
    found = summarise(fidelity)["return"]
    assert found["difference"]["mean"] == [1.0] * 6
    assert found["dream_promises"] == "more"


def test_what_is_kept_and_the_commonest_token_by_hand():
    episode = play(0, 20)  # 0, 1, 3, 5, and then the end
    policy: Any = CountingPolicy()
    dynamics: Any = CountingDynamics()
    fidelity = measure(dynamics, policy, [episode], starts=10, horizon=2)
    assert fidelity.starts.starts == [Start(0, step) for step in range(4)]
    assert fidelity.starts.frame_known.tolist() == [[True, True], [True, True], [True, False], [False, False]]
    assert fidelity.starts.step_known.tolist() == [[True, True]] * 3 + [[True, False]]
    kept = fidelity.by_horizon["pixel_error_start_kept"]
    assert kept[0] == pytest.approx([(25 / 255) ** 2, (75 / 255) ** 2])
    assert fidelity.real_lifetime[0].tolist() == [2, 2, 2, 1]
    assert fidelity.real_lifetime[1].tolist() == [False, False, True, True]
    summary = summarise(fidelity)
    assert summary["tokens"]["commonest_share"] == 0.25
    assert summary["codebook"]["used"] == 4 and summary["codebook"]["perplexity"] == pytest.approx(4.0)
    assert summary["surprise"]["all"]["count"] == 3
    assert summary["return"]["dream_promises"] == "unknown"  # of one game


def test_codes_are_drawn_as_they_are():
    codebook = measured().codebook
    assert codebook.drawn[0] in (1, 3, 5)
    for code, patch, decoded in zip(codebook.drawn, codebook.patches, codebook.decoded, strict=True):
        assert patch.shape == (16, 16, 3)
        assert set(patch.flatten()) == set(decoded.flatten()) == {25 * code}


def test_strips_are_ordered_by_error():
    strips = measured(error=1).strips
    assert strips["best"].error <= strips["median"].error <= strips["worst"].error
    for strip in strips.values():
        assert len(strip.real) == len(strip.reconstruction) == len(strip.dream)
        assert torch.equal(strip.real, strip.reconstruction)
        assert torch.equal(strip.real[0], strip.dream[0]) and not torch.equal(strip.real[1], strip.dream[1])


def test_small_samples_are_warned_of():
    warnings = {warning["message"] for warning in summarise(measured(starts=5), ["it never learned"])["warnings"]}
    assert "it never learned" in warnings
    assert "only 5 starts (of 50 wanted): the curves by horizon are rough" in warnings
    assert "no negative rewards came: nothing is known about them" in warnings
    assert "only 8 ends of episodes (of 20 wanted): the calibration of ends is chance" in warnings
    assert not any("games" in message for message in warnings)


def test_a_seed_repeats_the_measurement():
    first, second = (summarise(measured(starts=7, seed=4)) for _ in range(2))
    assert first == second
    assert first != summarise(measured(starts=7, seed=5))


def test_starts_are_not_taken_where_nobody_knows_what_came():
    cut = play(8, 4)
    assert not cut.terminated
    draws = np.random.default_rng(0)
    assert choose_starts([cut], 10, horizon=2, context=1, generator=draws) == [Start(0, 0), Start(0, 1), Start(0, 2)]
    assert choose_starts([cut], 10, horizon=2, context=3, generator=draws) == [Start(0, 2)]
    with pytest.raises(UsageError, match="horizon=9 and context=1 leave no start"):
        choose_starts([cut], 10, horizon=9, context=1, generator=draws)


def test_lifetime():
    steps, ended = lifetime(np.array([[False, True, True], [False, False, False], [True, False, False]]))
    assert steps.tolist() == [2, 3, 1] and ended.tolist() == [True, False, True]


@pytest.mark.parametrize("layout", ["frame_action", "frame_action_reward_end"])
@pytest.mark.parametrize("context", [1, 3])
def test_told_its_own_dream_a_world_model_says_what_it_dreamt(layout, context):
    """The forecast reads exactly what the dream had read, within the world model's timesteps and beyond them."""
    torch.manual_seed(0)
    config = IRISConfig.tiny(sequence_layout=layout, transformer_timesteps=5)
    models = build_models(config, 3, "cpu")
    for parameter in models.world_model.parameters():
        parameter.data.mul_(4)  # so that what was read makes a difference
    dynamics = Dynamics(models.tokenizer, models.world_model, overflow_context=2)
    episode = RealEpisode(
        torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8),
        torch.randint(3, (20,)),
        torch.zeros(20),
        False,
        0,
        0,
        0,
    )
    tokens = torch.randint(config.vocab_size, (20, 16))
    starts = [Start(0, 2), Start(0, 5)]
    stretches = cut_stretches([episode], [tokens], starts, horizon=12, context=context)
    dream = dream_of_actions(dynamics, stretches, generator=torch.Generator().manual_seed(1))
    stretches.tokens[:, context:] = dream.tokens
    stretches.after_start(stretches.rewards)[:] = torch.from_numpy(dream.rewards)
    stretches.after_start(stretches.ends)[:] = torch.from_numpy(dream.ends)
    told = forecast(
        models.world_model, stretches.tokens, stretches.actions, stretches.rewards, stretches.ends, overflow_context=2
    )
    assert told.nats[:, context - 1 :] == pytest.approx(dream.nats, abs=1e-4)
    assert told.nats.std() > 0.01
