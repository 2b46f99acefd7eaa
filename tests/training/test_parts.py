"""A batch in parts: the update of the whole batch, in less memory."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.assembly import Models, build_learners
from iris_gym.functional import unit_frames
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.hard_examples import CANDIDATES
from iris_gym.training.learner import Learner
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import Segment

CONFIG = IRISConfig.tiny(
    transformer_dropout=0.0,
    foreground_weight=0.5,
    dead_code_threshold=1,
    vocab_size=12,  # few, for codes that start on the same output are as near as each other
    autoencoder_batch_size=7,
    transformer_batch_size=5,
    actor_critic_batch_size=5,
    entropy_weight=0.1,
)
EPOCH = 9
"""Of each update: not a component's first."""
KINDS = {
    "averaged codebook": CONFIG,
    "learned codebook": CONFIG.replace(codebook="gradient", reconstruction_loss="l1"),
    "hard examples": CONFIG.replace(hard_examples=0.5),
    "outcomes in the sequence": CONFIG.replace(sequence_layout="frame_action_reward_end"),
    "without first frames": CONFIG.replace(learn_first_frames=False),
    "several passes": CONFIG.replace(actor_critic_passes=3),
}


def learners(config: IRISConfig, models: Models) -> dict[str, Learner]:
    return {learner.name: learner for learner in build_learners(config, models, RandomStreams(3, torch.device("cpu")))}


def padded(learner: Learner, seed: int) -> Segment:
    """Real-looking experience of unequal lengths, padded where the learner wants it padded."""
    draws = np.random.default_rng(seed)
    batch, length = learner.plan.draws_in(EPOCH), learner.plan.segment_length
    lengths = draws.integers(1, length + 1, batch)
    steps = np.arange(length)
    mask = steps < lengths[:, None] if learner.plan.align == "start" else steps >= length - lengths[:, None]
    patches = draws.integers(0, 256, (batch, length, 3, 4, 4)).repeat(16, axis=-1).repeat(16, axis=-2)
    return Segment(
        frames=torch.from_numpy(patches.astype(np.uint8)) * torch.from_numpy(mask)[:, :, None, None, None],
        actions=torch.from_numpy(draws.integers(0, 3, (batch, length))),
        rewards=torch.from_numpy(draws.normal(size=(batch, length)).astype(np.float32)),
        ends=torch.from_numpy(draws.random((batch, length)) < 0.2),
        mask=torch.from_numpy(mask),
    )


def updated(config: IRISConfig, models: Models, component: str, updates: int) -> tuple[Models, list[dict]]:
    """The networks after some updates of one component, and the metrics; always with the same random numbers.

    By plain gradient descent: Adam makes whole steps of gradients that are nothing but rounding.
    """
    models = copy.deepcopy(models)
    learner = learners(config, models)[component]
    learner.optimizer = torch.optim.SGD(learner.module.parameters())
    learner.learning_rates = [0.3]
    torch.manual_seed(11)
    return models, [learner.update(padded(learner, seed), epoch=EPOCH) for seed in range(updates)]


@pytest.mark.parametrize("parts", [3, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "component"),
    [
        ("averaged codebook", "autoencoder"),
        ("learned codebook", "autoencoder"),
        ("hard examples", "autoencoder"),
        ("averaged codebook", "world_model"),
        ("outcomes in the sequence", "world_model"),
        ("without first frames", "world_model"),
        ("averaged codebook", "actor_critic"),
        ("several passes", "actor_critic"),
    ],
)
def test_parts_learn_what_the_whole_batch_does(kind: str, component: str, parts: int, monkeypatch):
    """Four updates: the codebook starts, moves, and codes that an update does not use are put back to work.

    Pictures are the frames as they are: reconstructions are rounded to 256 levels, where the least difference in
    decoding them can move a pixel by one.
    """
    monkeypatch.setattr(FrameCache, "reconstructions", lambda _, segment: unit_frames(segment.frames))
    torch.manual_seed(0)
    models = build_models(KINDS[kind], 3, "cpu")
    whole, expected = updated(KINDS[kind], models, component, 4)
    split, got = updated(KINDS[kind].replace(accumulate_gradients=parts), models, component, 4)
    if component == "autoencoder":
        assert any((metrics["token_counts"] == 0).any() for metrics in expected), "a code has to die"
    close = dict(rtol=2e-4, atol=1e-5)
    for before, after in zip(expected, got, strict=True):
        assert set(before) == set(after)
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, **close, msg=lambda text, name=name: name + text)
    for name, module in whole.by_name().items():
        torch.testing.assert_close(dict(split.by_name()[name].state_dict()), dict(module.state_dict()), **close)


def test_hard_examples_are_looked_for_in_parts_too(monkeypatch):
    """Whole batches of candidates would take the memory that parts are to save."""
    encoded = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frames: encoded.append(len(frames)) or encode(self, frames))
    config = KINDS["hard examples"].replace(accumulate_gradients=3)
    updated(config, build_models(config, 3, "cpu"), "autoencoder", 1)
    assert sum(encoded) == 4 * CANDIDATES and max(encoded) == 3


def test_an_update_changes_something_at_all():
    """Or the test before would hold for a learner that does nothing."""
    torch.manual_seed(0)
    models = build_models(CONFIG, 3, "cpu")
    for component, module in (("world_model", "world_model"), ("actor_critic", "actor_critic")):
        learned, _ = updated(CONFIG.replace(accumulate_gradients=3), models, component, 1)
        before, after = models.by_name()[module].state_dict(), learned.by_name()[module].state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)
    learned, metrics = updated(KINDS["hard examples"].replace(accumulate_gradients=3), models, "autoencoder", 4)
    assert metrics[0]["token_counts"].sum() == 7 * 16
    assert not torch.equal(learned.tokenizer.quantizer.codebook, models.tokenizer.quantizer.codebook)


@pytest.mark.parametrize("component", ["autoencoder", "world_model"])
def test_parts_learn_in_bf16_too(component: str):
    """Weights that autocast has cast without gradient must not serve the pass that needs one."""
    torch.manual_seed(0)
    models = build_models(CONFIG, 3, "cpu")
    coarse = CONFIG.replace(precision="bf16", hard_examples=0.5)
    (_, expected), (_, got) = (
        updated(config, models, component, 1) for config in (coarse, coarse.replace(accumulate_gradients=2))
    )
    for name in ("loss", "gradient_norm"):
        assert got[0][name].item() == pytest.approx(expected[0][name].item(), rel=0.03)


def test_parts_with_more_padding_weigh_less():
    """A mean of the parts' means would be another number."""
    torch.manual_seed(0)
    learner = learners(CONFIG.replace(accumulate_gradients=5), build_models(CONFIG, 3, "cpu"))["world_model"]
    segment = padded(learner, 0)
    segment = replace(segment, mask=torch.tensor([[1, 0, 0, 0], *[[1, 1, 1, 1]] * 4], dtype=torch.bool))
    assert learner.loss_parts is not None
    losses = [loss.item() for loss, _ in learner.loss_parts(segment)]
    assert sum(losses) == pytest.approx(learner.loss(segment)[0].item(), rel=1e-5)
    assert losses[0] < 0.5 * min(losses[1:])


@pytest.mark.parametrize("component", ["autoencoder", "world_model", "actor_critic"])
def test_parts_keep_less_for_the_backward_pass(component: str):
    config = CONFIG.replace(autoencoder_batch_size=8, transformer_batch_size=8, actor_critic_batch_size=8)
    assert _kept(config.replace(accumulate_gradients=4), component) < 0.35 * _kept(config, component)


def _kept(config: IRISConfig, component: str) -> int:
    """Bytes of activations that the largest backward pass of an update finds."""
    models = build_models(config, 3, "cpu")
    learner = learners(config, models)[component]
    parameters = {parameter.data_ptr() for parameter in learner.module.parameters()}
    kept: dict[int, int] = {}
    most = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(kept.values()))
        kept.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        learner.update(padded(learner, 0), epoch=EPOCH)
    return most
