from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import numpy as np
import pytest
import torch

from iris_gym import IRISConfig
from iris_gym.benchmark.noise import EPISODE_STEPS, fill_with_noise
from iris_gym.benchmark.phases import Bench, bench_env, with_batch
from iris_gym.data.replay import Replay
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.nn.perceptual import UntrainedLPIPS
from iris_gym.training.frame_cache import CPU_BATCH, FrameCache
from iris_gym.training.hard_examples import CANDIDATES

CPU, PRECISIONS = torch.device("cpu"), ("float32", "bf16")


@pytest.fixture
def bench() -> Iterator[Callable[[IRISConfig], Bench]]:
    with ExitStack() as stack:
        yield lambda config: Bench(
            config, stack.enter_context(closing(bench_env(config))), stack.enter_context(Replay(None)), CPU
        )


def test_only_a_changed_tokenizer_is_encoded_again(monkeypatch, bench):
    """The second update on the same segment is warm; the third, after forgetting, computes all of its frames."""
    encoded = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frames: encoded.append(len(frames)) or encode(self, frames))
    config = IRISConfig.tiny()
    phase = bench(config).phase("world_model")
    assert phase.cache is not None
    for forget in (False, False, True):
        if forget:
            phase.cache.forget()
        phase.run()
    assert encoded == [CPU_BATCH] * 2  # which the few frames are filled up to
    assert 4 < phase.cache.cold_frames <= 8  # two segments of four frames


def test_a_picture_costs_no_tokens_and_each_frame_is_computed_once(monkeypatch, bench):
    """What a frame costs is measured by really computing about so many that are not known."""
    encoded, decoded = [], []
    encode, decode = Tokenizer.encode, Tokenizer.decode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frames: encoded.append(len(frames)) or encode(self, frames))
    monkeypatch.setattr(Tokenizer, "decode", lambda self, tokens: decoded.append(len(tokens)) or decode(self, tokens))
    cache = bench(IRISConfig.tiny()).phase("actor_critic").cache
    assert cache is not None and cache.amortised.keys() == {"encode", "reconstruct"}
    for kind in ("encode", "reconstruct"):
        assert cache.frame_seconds(kind, 6) > 0
    assert (encoded, decoded) == ([CPU_BATCH] * 2, [CPU_BATCH])


def test_amortised_is_what_the_epoch_computes_in_which_collection_ends(bench):
    """40 steps an epoch to 100: the third is the last that collects, of five, all of which encode the lot."""
    config = IRISConfig.tiny(
        atari_100k=False,
        max_env_steps=100,
        env_steps_per_epoch=40,
        total_epochs=5,
        transformer_updates_per_epoch=1000,
        actor_critic_updates_per_epoch=100,
    )
    made = bench(config)
    world_model, actor_critic = (made.phase(name).cache for name in ("world_model", "actor_critic"))
    assert world_model is not None and actor_critic is not None
    assert world_model.amortised == {"encode": pytest.approx(100 / 1000)}
    assert actor_critic.amortised == pytest.approx({"encode": 0.0, "reconstruct": 1.0}, abs=0.01)
    assert made.computed_in_all()["world_model"].encoded == pytest.approx(80 + 3 * 100)  # it starts in the second


def test_without_a_cache_an_update_is_timed_with_all_its_frames_and_no_more_is_added(bench):
    made = bench(IRISConfig.tiny(cache_frames=False))
    assert made.phase("world_model").cache is None and made.phase("actor_critic").cache is None
    assert made.computed_in_all() == {}


def test_a_pass_is_counted_in_the_precision_of_a_rollout(bench):
    counts = {name: bench(IRISConfig.tiny(precision=name)).operations_per_transformer_pass() for name in PRECISIONS}
    assert counts["bf16"] > counts["float32"]  # plain products instead of fused attention


def test_counting_what_is_novel_is_an_epochs_work_and_no_updates(bench):
    """An update is timed without it, and the frames that it has encoded are in the projection."""
    config = IRISConfig.tiny(novelty_weight=1.0, autoencoder_updates_per_epoch=1)
    timed, plain = bench(config), bench(config.replace(novelty_weight=0.0))
    timed.phase("actor_critic").run()
    last = [made.computed[-1] for made in (timed, plain)]
    assert last[0]["world_model"] == last[1]["world_model"]
    assert last[0]["actor_critic"].encoded > last[1]["actor_critic"].encoded


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_update_is_timed_with_what_it_imitates(share, monkeypatch, bench):
    """Always the same, and it is counted among the frames of a cold update."""
    read: list[np.ndarray] = []
    tokens = FrameCache.tokens
    monkeypatch.setattr(
        FrameCache, "tokens", lambda cache, segment: read.append(segment.rows) or tokens(cache, segment)
    )
    config = IRISConfig.tiny(imitation_share=share, actor_critic_batch_size=4, random_steps=10**6)
    phase = bench(config).phase("actor_critic")
    frames = []
    for _ in range(2):
        read.clear()
        phase.run()
        frames.append(np.unique(np.concatenate([rows[rows >= 0] for rows in read])).tolist())
    assert frames[0] == frames[1] and phase.cache is not None
    assert phase.cache.cold_frames == len(frames[0])
    assert {len(rows) for rows in read} == {2 if share else 4}
    assert max(rows.shape[1] for rows in read) == (3 + 4 if share else 3 + 1)  # with the horizon, or one frame to start


@pytest.mark.parametrize(("batch", "lived"), [(1, 0), (2, 1), (16, 6)])
def test_where_a_batch_is_too_small_for_both_all_is_dreamt(batch, lived):
    config = with_batch(IRISConfig.tiny(imitation_share=0.375, actor_critic_batch_size=16), batch)
    config.validate()
    assert config.lived_rows == lived and config.actor_critic_batch_size == batch


def test_an_autoencoder_update_is_timed_with_its_search_for_hard_examples(monkeypatch, bench):
    """Which its first epoch does without."""
    encoded = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frames: encoded.append(len(frames)) or encode(self, frames))
    bench(IRISConfig.tiny(hard_examples=1.0, autoencoder_batch_size=2)).phase("autoencoder").run()
    assert encoded == [2] * CANDIDATES


def test_lpips_is_timed_without_its_weights(bench):
    made = bench(IRISConfig.tiny(perceptual_weight=1.0))
    made.phase("autoencoder").run()
    distance = made.models.tokenizer.perceptual_distance
    assert isinstance(distance.network, UntrainedLPIPS)


def test_noise_comes_in_episodes():
    with Replay(None) as replay:
        fill_with_noise(replay, EPISODE_STEPS + 7, num_actions=3)
        assert [len(episode) for episode in replay.episodes] == [EPISODE_STEPS, 7]
        segment = replay.sample_segments(50, 1, generator=np.random.default_rng(0), align="start")
    assert set(segment.actions.flatten().tolist()) == {0, 1, 2}
