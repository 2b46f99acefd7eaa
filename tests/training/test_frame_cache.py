import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_gym import IRISAgent, IRISConfig, build_models
from iris_gym.assembly import build_learners
from iris_gym.data.replay import Replay
from iris_gym.functional import stored_frames, unit_frames
from iris_gym.training import frame_cache
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.randomness import RandomStreams


class CountingTokenizer(torch.nn.Module):
    """Frames to 16 tokens and back by their first pixels; counts the frames it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.encoded, self.decoded = 0, 0

    def encode(self, frames):
        self.encoded += frames[..., 0, 0, 0].numel()
        return (255 * frames[..., 0, 0, :16]).round().long()

    def decode(self, tokens):
        self.decoded += tokens[..., 0].numel()
        return (tokens / 256)[..., None, None, :].expand(*tokens.shape[:-1], 3, 64, 16).repeat_interleave(4, -1)


@pytest.fixture
def replay():
    """Three episodes of 3, 5 and 7 random frames."""
    source = np.random.default_rng(0)
    with Replay(None) as replay:
        for length in (3, 5, 7):
            for step in range(length):
                replay.append(source.integers(256, size=(3, 64, 64), dtype=np.uint8), 0, 0.0, step == length - 1, False)
        yield replay


@pytest.fixture
def unfilled(monkeypatch):
    """Batches of one frame, which are never filled up, so that frames can be counted."""
    monkeypatch.setattr(frame_cache, "CPU_BATCH", 1)


def sample(replay, length=4, align="start", seed=0, batch=6):
    return replay.sample_segments(batch, length, generator=np.random.default_rng(seed), align=align)


def test_each_frame_is_encoded_and_decoded_once(replay, unfilled):
    tokenizer = CountingTokenizer()
    cache = FrameCache(tokenizer)
    for seed in range(20):
        cache.tokens(sample(replay, seed=seed))
        cache.reconstructions(sample(replay, seed=seed, align="end"))
    assert tokenizer.encoded == tokenizer.decoded == len(replay)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    requests=st.lists(st.tuples(st.integers(1, 8), st.sampled_from(["start", "end"]), st.booleans()), max_size=6),
)
def test_what_is_cached_is_what_would_be_computed(lengths, requests):
    source = np.random.default_rng(1)
    tokenizer = build_models(IRISConfig.tiny(), 3, "cpu").tokenizer
    cache = FrameCache(tokenizer)
    with Replay(None) as replay, torch.no_grad():
        for length in lengths:
            for step in range(length):
                replay.append(source.integers(256, size=(3, 64, 64), dtype=np.uint8), 0, 0.0, step == length - 1, False)
            for seed, (width, align, pictures) in enumerate(requests):
                segment = sample(replay, width, align, seed, batch=3)
                expected = tokenizer.encode(unit_frames(segment.frames))
                assert torch.equal(cache.tokens(segment)[segment.mask], expected[segment.mask])
                if pictures:
                    drawn = unit_frames(stored_frames(tokenizer.decode(expected)))
                    difference = (cache.reconstructions(segment) - drawn)[segment.mask].abs().max()
                    assert difference <= 1 / 255 + 1e-6, "one level at most, where a batch of another size rounds apart"


def test_it_forgets_when_anything_writes_to_the_tokenizer(replay):
    tokenizer = build_models(IRISConfig.tiny(), 3, "cpu").tokenizer
    cache, segment = FrameCache(tokenizer), sample(replay)
    for change in (
        lambda: torch.optim.Adam(tokenizer.parameters(), 0.1),
        lambda: tokenizer.quantizer.codebook.copy_(tokenizer.quantizer.codebook.flip(0)),
        lambda: tokenizer.load_state_dict({name: value * 1.5 for name, value in tokenizer.state_dict().items()}),
    ):
        cache.tokens(segment)
        optimizer = change()
        if isinstance(optimizer, torch.optim.Optimizer):
            tokenizer.loss(unit_frames(segment.frames[:, 0]))[0].backward()
            optimizer.step()
        with torch.no_grad():
            expected = tokenizer.encode(unit_frames(segment.frames))
        assert torch.equal(cache.tokens(segment)[segment.mask], expected[segment.mask])


def test_where_all_is_padded_there_is_nothing_to_compute(replay, unfilled):
    """As before the first step of an episode, where every episode has one step."""
    tokenizer = CountingTokenizer()
    cache, segment = FrameCache(tokenizer), sample(replay)
    padded = dataclasses.replace(segment, rows=np.full_like(segment.rows, -1))
    assert cache.reconstructions(padded).shape == padded.frames.shape
    assert tokenizer.encoded == tokenizer.decoded == 0
    assert torch.equal(cache.tokens(segment)[segment.mask], tokenizer.encode(unit_frames(segment.frames))[segment.mask])


@pytest.mark.parametrize(("count", "batches"), [(0, [0]), (1, [16]), (256, [256]), (600, [256, 256, 96])])
def test_elsewhere_than_on_a_cpu_few_enough_are_computed_at_once(count, batches):
    """On tensors without values, as a GPU would; in few sizes."""
    asked = []

    def compute(places):
        asked.append(len(places))
        return torch.zeros(len(places), 3, device="meta")

    values = frame_cache._compute_in_batches(compute, np.arange(count), torch.device("meta"))
    assert (asked, values.shape) == (batches, (count, 3))


def test_it_computes_in_the_tokenizers_own_dtype_whoever_asks(replay):
    seen = []

    class Watched(CountingTokenizer):
        def encode(self, frames):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().encode(frames)

        def decode(self, tokens):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().decode(tokens)

    tokenizer = Watched()
    with torch.autocast("cpu", torch.bfloat16):
        FrameCache(tokenizer).reconstructions(sample(replay))
        assert torch.is_autocast_enabled("cpu")
    assert len(seen) >= 2 and not any(seen)


def test_without_a_cache_frames_are_computed_anew(replay, unfilled):
    tokenizer = CountingTokenizer()
    cache, segment = FrameCache(tokenizer, keep=False), sample(replay)
    distinct = len(np.unique(segment.rows[segment.rows >= 0]))
    for times in (1, 2):
        assert torch.equal(
            cache.tokens(segment)[segment.mask], tokenizer.encode(unit_frames(segment.frames))[segment.mask]
        )
        assert tokenizer.encoded == times * (distinct + segment.mask.numel())
    cache.reconstructions(segment)
    cache.reconstructions(segment)
    assert tokenizer.decoded == 2 * distinct


def test_an_agent_that_caches_nothing_becomes_the_same_to_the_last_bit():
    def trained(**changes):
        agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(**changes), seed=3, device="cpu").learn(100)
        modules = agent.models.by_name().items()
        return {f"{name}.{key}": value for name, module in modules for key, value in module.state_dict().items()}

    cached, computed = trained(), trained(cache_frames=False)
    assert all(torch.equal(value, computed[name]) for name, value in cached.items())


def test_segments_from_elsewhere_are_computed_anew(replay, unfilled):
    tokenizer = CountingTokenizer()
    cache, segment = FrameCache(tokenizer), sample(replay)
    elsewhere = type(segment)(segment.frames, segment.actions, segment.rewards, segment.ends, segment.mask)
    for _ in range(2):
        assert torch.equal(cache.tokens(elsewhere)[segment.mask], cache.tokens(segment)[segment.mask])
    assert tokenizer.encoded == 2 * 24 + len(np.unique(segment.rows[segment.rows >= 0]))


@pytest.mark.parametrize("index", [1, 2], ids=["world model", "actor-critic"])
def test_the_loss_with_a_warm_cache_is_the_one_with_a_cold_cache(index, replay):
    config, streams = IRISConfig.tiny(), RandomStreams(0, torch.device("cpu"))
    learner = build_learners(config, build_models(config, 3, "cpu"), streams)[index]
    segment = sample(replay, learner.plan.segment_length, learner.plan.align, batch=4)
    before = streams.imagining.get_state()
    cold = learner.loss(learner.prepare(segment))[0].item()
    streams.imagining.set_state(before)
    assert learner.loss(learner.prepare(segment))[0].item() == cold


@pytest.mark.parametrize(
    "config",
    [
        IRISConfig.tiny(),
        IRISConfig.small(),
        IRISConfig(),
        pytest.param(IRISConfig.tiny(autoencoder="vqgan", encoder_channels=32), marks=pytest.mark.slow),
    ],
    ids=["tiny", "small", "default", "vqgan"],
)
def test_what_is_asked_for_before_does_not_change_a_bit(config):
    """A resumed run begins with nothing cached. What it finds then has to be what the run before it had found."""
    tokenizer = build_models(config, 3, "cpu").tokenizer
    source = np.random.default_rng(0)
    with Replay(None) as replay:
        for row in range(60):
            replay.append(source.integers(256, size=(3, 64, 64), dtype=np.uint8), 0, 0.0, row % 20 == 19, False)
        for seed in range(3):
            cold, warm = FrameCache(tokenizer), FrameCache(tokenizer)
            for length in (1, 5, 13):
                warm.reconstructions(sample(replay, length=length, seed=seed, align="end", batch=1))
            segment = sample(replay, length=13, seed=seed, align="end", batch=4)
            assert torch.equal(cold.tokens(segment)[segment.mask], warm.tokens(segment)[segment.mask])
            assert torch.equal(cold.reconstructions(segment)[segment.mask], warm.reconstructions(segment)[segment.mask])
