"""What the published implementation answered, with its weights in our modules.

The arrays were computed in float32 on a CPU, by other kernels in another order. Logits, states and gradients therefore
agree to 1e-5 of their size; where values cross zero an absolute 2e-6, a few units in the last place of the numbers of
order 1 they were summed from, takes over. The autoencoder's sixty layers add up more: in double precision its golden
outputs are off by 1.6e-6 and its golden pictures by 4.4e-6, as ours are, and so these two are granted 1e-5.
"""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_gym.assembly import Models, build_models
from iris_gym.config import IRISConfig
from iris_gym.data.replay import Replay
from iris_gym.functional import lambda_returns
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models import world_model as world_model_module
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.published import published_names, read_published
from iris_gym.training.checkpoint import Snapshot, load_modules
from iris_gym.types import Trajectory

DATA = Path(__file__).parent / "data"
GOLDEN = dict(np.load(DATA / "golden_tiny.npz"))
DESCRIPTION = json.loads((DATA / "golden_tiny.json").read_text())
TOKENS_PER_FRAME = 16

ARRAYS = (
    "actor_critic/burn_in_lowres",
    "actor_critic/burn_in_mask",
    "actor_critic/cx_after_burn_in",
    "actor_critic/hx_after_burn_in",
    "actor_critic/hx_last",
    "actor_critic/logits_actions",
    "actor_critic/loss/loss_actions",
    "actor_critic/loss/loss_entropy",
    "actor_critic/loss/loss_values",
    "actor_critic/loss/total",
    "actor_critic/loss_given/actions",
    "actor_critic/loss_given/ends",
    "actor_critic/loss_given/rewards",
    "actor_critic/obs_lowres",
    "actor_critic/values",
    "imagination_greedy/actions",
    "imagination_greedy/cache_size_after",
    "imagination_greedy/decoded_channel_means",
    "imagination_greedy/dones",
    "imagination_greedy/first_lowres",
    "imagination_greedy/obs_tokens",
    "imagination_greedy/rewards",
    "lambda/ends",
    "lambda/returns_gamma0.995_lambda0.95",
    "lambda/rewards",
    "lambda/values",
    "segments/0/actions_ends_mask",
    "segments/1/actions_ends_mask",
    "segments/2/actions_ends_mask",
    "segments/3/actions_ends_mask",
    "segments/4/actions_ends_mask",
    "segments/5/actions_ends_mask",
    "segments/start_stop",
    "tokenizer/decoded_raw",
    "tokenizer/encode_decode_0to1_unclamped_means",
    "tokenizer/loss/commitment_loss",
    "tokenizer/loss/perceptual_loss",
    "tokenizer/loss/reconstruction_loss",
    "tokenizer/loss/total",
    "tokenizer/obs_lowres",
    "tokenizer/tokens",
    "tokenizer/z",
    "tokenizer/z_quantized",
    "world_model/labels_ends",
    "world_model/labels_observations",
    "world_model/labels_rewards",
    "world_model/logits_ends",
    "world_model/logits_observations",
    "world_model/logits_rewards",
    "world_model/loss/loss_ends",
    "world_model/loss/loss_obs",
    "world_model/loss/loss_rewards",
    "world_model/loss/total",
    "world_model/loss_batch/actions",
    "world_model/loss_batch/ends",
    "world_model/loss_batch/mask_padding",
    "world_model/loss_batch/obs_lowres",
    "world_model/loss_batch/obs_tokens",
    "world_model/loss_batch/rewards",
    "world_model/output_sequence_last_block",
    "world_model/tokens",
)
"""All that the description lists, each asserted in a test below or, where it is an input, read by one."""


def golden(key: str) -> Tensor:
    return torch.from_numpy(GOLDEN[key])


def assert_close(actual: Tensor, key: str, atol: float = 2e-6) -> None:
    expected = golden(key)
    torch.testing.assert_close(actual.detach().to(expected.dtype), expected, rtol=1e-5, atol=atol)


def frames(key: str) -> Tensor:
    """Frames [0, 1] (..., 3, 64, 64), stored as every eighth pixel of flat 8×8 squares."""
    return (golden(key).float() / 255).repeat_interleave(8, -2).repeat_interleave(8, -1)


# Weights


@cache
def published_snapshot() -> Snapshot:
    """The golden weights, written as a published checkpoint is and read by the importer."""
    weights = {key.removeprefix("weight/"): golden(key) for key in GOLDEN if key.startswith("weight/")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.pt"
        torch.save(weights, file)
        return read_published(file, DESCRIPTION["config"]["heads"])


def published_models() -> Models:
    snapshot = published_snapshot()
    config = IRISConfig.from_dict(snapshot.state["config"]).replace(perceptual_weight=0.0)
    models = build_models(config, snapshot.state["num_actions"], "cpu")
    load_modules(models.by_name(), snapshot.weights, "the golden weights")
    return models


def published_tokenizer() -> Tokenizer:
    return published_models().tokenizer


def published_world_model() -> WorldModel:
    return published_models().world_model


def published_actor_critic() -> ActorCritic:
    return published_models().actor_critic


def assert_gradient_norms(module: nn.Module, component: str) -> None:
    seen = set()
    for ours, parameter in module.named_parameters():
        names = published_names(f"{component}.{ours}")
        for name, part in zip(names, parameter.grad.chunk(len(names)), strict=True):
            # In double: a float32 norm of two million elements is itself off by 1e-4. The gradient of a key bias, which
            # shifts all scores of a query alike, is zero but for rounding.
            key = name.replace(component, f"{component}/grad_norm", 1).replace("grad_norm.", "grad_norm/")
            assert part.double().norm().item() == pytest.approx(golden(key).item(), rel=1e-5, abs=2e-6), name
            seen.add(key)
    assert seen == {key for key in GOLDEN if key.startswith(f"{component}/grad_norm/")}


def test_every_golden_array_has_its_test():
    described = set(DESCRIPTION["arrays"])
    assert set(ARRAYS) == described
    assert described == {key for key in GOLDEN if not key.startswith("weight/") and "/grad_norm/" not in key}
    source = Path(__file__).read_text().partition("# Weights")[2]
    templates = ("segments/", "world_model/labels_", "actor_critic/loss_given/", "world_model/loss_batch/", "lambda/")
    for key in ARRAYS:
        assert f'"{key}"' in source or key.startswith(templates), key


# Tokenizer


def test_tokenizer_outputs_tokens_and_codes():
    tokenizer = published_tokenizer()
    pictures = frames("tokenizer/obs_lowres")
    outputs = tokenizer.encoder(2 * pictures - 1)
    assert_close(outputs, "tokenizer/z", atol=1e-5)
    tokens = tokenizer.encode(pictures)
    assert torch.equal(tokens, golden("tokenizer/tokens"))
    codes = tokenizer.quantizer.embed(tokens).transpose(1, 2).unflatten(2, (4, 4))
    assert_close(codes, "tokenizer/z_quantized")


@torch.no_grad()
def test_tokenizer_reconstructions():
    tokenizer = published_tokenizer()
    codes = golden("tokenizer/z_quantized")
    raw = tokenizer.decoder(codes[:2])
    assert_close(raw, "tokenizer/decoded_raw", atol=1e-5)
    means = (tokenizer.decoder(codes).mean((2, 3)) + 1) / 2
    assert_close(means, "tokenizer/encode_decode_0to1_unclamped_means")
    torch.testing.assert_close(tokenizer.reconstruct(frames("tokenizer/obs_lowres"))[:2], ((raw + 1) / 2).clamp(0, 1))


def test_tokenizer_losses_and_gradients():
    tokenizer = published_tokenizer()
    loss, metrics = tokenizer.loss(frames("tokenizer/obs_lowres"))
    # The published loss gives one name to the two pulls between codes and encoder outputs, which have equal values.
    assert_close(metrics["commitment_loss"] + metrics["codebook_loss"], "tokenizer/loss/commitment_loss")
    assert_close(metrics["pixel_loss"], "tokenizer/loss/reconstruction_loss")
    assert golden("tokenizer/loss/perceptual_loss") == 0  # replaced by zero there, not asked for here
    assert_close(loss, "tokenizer/loss/total")
    loss.backward()
    assert_gradient_norms(tokenizer, "tokenizer")


# World model


def sequences() -> tuple[Tensor, Tensor]:
    """Frame tokens (2, 20, 16) and actions (2, 20, 1) of the golden sequences of 340 tokens."""
    timesteps = golden("world_model/tokens").view(2, -1, TOKENS_PER_FRAME + 1)
    return timesteps[:, :, :-1], timesteps[:, :, -1:]


def test_world_model_logits():
    predictions = published_world_model()(*sequences())
    assert_close(predictions.frame_tokens, "world_model/logits_observations")
    assert_close(predictions.rewards, "world_model/logits_rewards")
    assert_close(predictions.ends, "world_model/logits_ends")


def test_world_model_output_sequence():
    model = published_world_model()
    frame_tokens, actions = sequences()
    embeddings = torch.cat(
        (model.frame_embedding(frame_tokens), model.action_embedding(actions[:, :, 0])[:, :, None]), 2
    )
    hidden = model.transformer(embeddings.flatten(1, 2))
    assert_close(hidden[:, -TOKENS_PER_FRAME - 1 :], "world_model/output_sequence_last_block")


@torch.no_grad()
def test_world_model_logits_step_by_step_with_the_cache():
    model = published_world_model()
    frame_tokens, actions = sequences()
    cache = model.transformer.empty_cache(2)
    model.read_frames(frame_tokens[:, :1], actions[:, :0], cache)
    token_logits, outcome_logits = [], []

    def greedy(logits):
        outcome_logits.append(logits)
        return logits.argmax(-1)

    for t in range(20):
        token_logits.append(model.step(frame_tokens[:, t, -1], actions[:, t, 0], cache, greedy).first_token)
        if t < 19:
            token_logits += [model.next_token(frame_tokens[:, t + 1, k], cache) for k in range(TOKENS_PER_FRAME - 1)]
    rewards, ends = outcome_logits[::2], outcome_logits[1::2]
    assert cache.lengths.tolist() == [340, 340]
    # the cache was not asked about the first frame, whose tokens but the last predict 15 entries
    expected = golden("world_model/logits_observations")[:, TOKENS_PER_FRAME - 1 :]
    torch.testing.assert_close(torch.stack(token_logits, 1), expected, rtol=1e-5, atol=4e-6)
    torch.testing.assert_close(torch.stack(rewards, 1), golden("world_model/logits_rewards"), rtol=1e-5, atol=4e-6)
    torch.testing.assert_close(torch.stack(ends, 1), golden("world_model/logits_ends"), rtol=1e-5, atol=4e-6)


def loss_batch() -> dict[str, Tensor]:
    batch = {key: golden(f"world_model/loss_batch/{key}") for key in ("actions", "rewards", "ends")}
    tokens, mask = golden("world_model/loss_batch/obs_tokens"), golden("world_model/loss_batch/mask_padding")
    return batch | {"frame_tokens": tokens, "mask": mask, "ends": batch["ends"].bool()}


def test_the_tokens_of_the_loss_batch():
    """Of all frames, the padded ones too."""
    tokens = published_tokenizer().encode(frames("world_model/loss_batch/obs_lowres"))
    assert torch.equal(tokens, golden("world_model/loss_batch/obs_tokens"))


def test_world_model_losses_and_gradients():
    model = published_world_model()
    loss, metrics = model.loss(**loss_batch())
    assert_close(metrics["frame_loss"], "world_model/loss/loss_obs")
    assert_close(metrics["reward_loss"], "world_model/loss/loss_rewards")
    assert_close(metrics["end_loss"], "world_model/loss/loss_ends")
    assert_close(loss, "world_model/loss/total")
    loss.backward()
    assert_gradient_norms(model, "world_model")


def test_world_model_labels(monkeypatch):
    labels = []

    def record(logits, targets, mask):
        labels.append(targets.masked_fill(~mask, -100).flatten())
        return F.cross_entropy(logits.flatten(0, -2), labels[-1])

    monkeypatch.setattr(world_model_module, "masked_cross_entropy", record)
    published_world_model().loss(**loss_batch())
    for name, actual in zip(("observations", "rewards", "ends"), labels, strict=True):
        assert torch.equal(actual, golden(f"world_model/labels_{name}")), name


# Imagination


def test_a_greedy_dream_across_the_context_limit():
    models = published_models()
    dynamics = Dynamics(models.tokenizer, models.world_model, temperature=0, overflow_context=1)
    tokens = golden("imagination_greedy/obs_tokens")
    cache_sizes = golden("imagination_greedy/cache_size_after").tolist()
    state = dynamics.start(frames("imagination_greedy/first_lowres"))
    assert torch.equal(state.frame_tokens[:, -1], tokens[0])
    pictures = [dynamics.decode(state)]
    for t, action in enumerate(golden("imagination_greedy/actions")):
        assert (state.cache.lengths + 1).tolist() == [cache_sizes[t]] * 2  # ours leaves the last token to the next step
        state, step = dynamics.step(state, action)
        pictures.append(step.frame)
        assert torch.equal(state.frame_tokens[:, -1], tokens[t + 1]), t
        assert torch.equal(step.reward, golden("imagination_greedy/rewards")[t]), t
        assert torch.equal(step.end, golden("imagination_greedy/dones")[t]), t
    assert (state.cache.lengths + 1).tolist() == [cache_sizes[-1]] * 2
    assert_close(torch.stack(pictures).mean((3, 4)), "imagination_greedy/decoded_channel_means")


# Actor-critic


def burnt_in(model: ActorCritic):
    return model.burn_in(frames("actor_critic/burn_in_lowres"), golden("actor_critic/burn_in_mask"))


def test_actor_critic_burn_in_with_masks():
    hidden, cell = burnt_in(published_actor_critic())
    assert_close(hidden, "actor_critic/hx_after_burn_in")
    assert_close(cell, "actor_critic/cx_after_burn_in")


def test_actor_critic_outputs():
    model = published_actor_critic()
    logits, values, (hidden, _) = model(frames("actor_critic/obs_lowres"), burnt_in(model))
    assert_close(logits, "actor_critic/logits_actions")
    assert_close(values, "actor_critic/values")
    assert_close(hidden, "actor_critic/hx_last")


def test_actor_critic_losses_and_gradients():
    model = published_actor_critic()
    given = {name: golden(f"actor_critic/loss_given/{name}") for name in ("actions", "rewards", "ends")}
    trajectory = Trajectory(
        frames("actor_critic/obs_lowres"), **given, tokens=torch.empty(0), log_probabilities=torch.empty(0)
    )
    loss, metrics = model.loss(trajectory, burnt_in(model), discount=0.995, lambda_=0.95, entropy_weight=0.001)
    assert_close(metrics["policy_loss"], "actor_critic/loss/loss_actions")
    assert_close(metrics["value_loss"], "actor_critic/loss/loss_values")
    assert_close(-0.001 * metrics["entropy"], "actor_critic/loss/loss_entropy")
    assert_close(loss, "actor_critic/loss/total")
    loss.backward()
    assert_gradient_norms(model, "actor_critic")


def test_lambda_returns():
    rewards, values, ends = (golden(f"lambda/{name}") for name in ("rewards", "values", "ends"))
    returns = lambda_returns(rewards, values, ends, discount=0.995, lambda_=0.95)
    assert_close(returns, "lambda/returns_gamma0.995_lambda0.95")


# Segments


class Scripted:
    """A generator that answers with these numbers, one a call."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def integers(self, *_, **__):
        return np.array([self.numbers.pop(0)])


@pytest.mark.parametrize("case", range(6))
def test_segments_of_an_episode_of_seven_steps(case):
    start, stop = GOLDEN["segments/start_stop"][case].tolist()
    align, drawn = ("start", start) if start >= 0 else ("end", stop - 1)
    with Replay(None, chunk_rows=8) as replay:
        for step in range(7):
            replay.append(np.zeros((3, 64, 64), np.uint8), step + 1, 0.0, step == 6, False)
        segment = replay.sample_segments(1, stop - start, generator=Scripted(0, drawn), align=align)
    actual = torch.stack((segment.actions[0], segment.ends[0].long(), segment.mask[0].long()))
    assert torch.equal(actual, golden(f"segments/{case}/actions_ends_mask"))
