import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iris_gym import IRISConfig, build_models
from iris_gym.assembly import build_learners
from iris_gym.data.replay import Replay
from iris_gym.training.frame_cache import CPU_BATCH, FrameCache
from iris_gym.training.novelty import ROWS_AT_ONCE, Novelty, hashed, with_novelty
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import Trajectory


class LevelTokenizer(torch.nn.Module):
    """Frames of one level to two tokens, which a written weight changes; counts the frames it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.encoded = 0

    def encode(self, frames):
        self.encoded += len(frames)
        level = (255 * frames[:, 0, 0, 0] * self.weight).round().long()
        return torch.stack((level, torch.full_like(level, 5)), dim=1)


def tokens_of(*levels: int) -> torch.Tensor:
    return torch.tensor([[level, 5] for level in levels])


def fill(replay: Replay, levels: list[int]) -> None:
    for level in levels:
        replay.append(np.full((3, 64, 64), level, np.uint8), 0, 0.0, terminated=False, truncated=False)


@pytest.fixture
def replay():
    """Level 1 three times, level 2 once."""
    with Replay(None, chunk_rows=64) as replay:
        fill(replay, [1, 2, 1, 1])
        yield replay


def trajectory(tokens: torch.Tensor, ends: list[list[bool]]) -> Trajectory:
    """Of (B, H, K) `tokens`; the frames are not read."""
    batch, horizon = tokens.shape[:2]
    zeros = torch.zeros(batch, horizon)
    return Trajectory(torch.zeros(batch, horizon, 1), zeros.long(), zeros, torch.tensor(ends), tokens, zeros)


def test_frames_are_counted_and_what_was_never_seen_is_not(replay):
    novelty = Novelty(FrameCache(LevelTokenizer()), replay, 1.0)
    assert novelty.counts(tokens_of(2, 1, 3, 1)).tolist() == [1, 3, 0, 3]
    assert novelty.counts(tokens_of(1, 2)[None]).tolist() == [[3, 1]]
    assert novelty.counts(torch.tensor([[5, 1]])).tolist() == [0]  # the same tokens elsewhere in the frame


def test_counts_follow_the_replay_and_the_tokenizer(replay):
    tokenizer = LevelTokenizer()
    novelty = Novelty(FrameCache(tokenizer), replay, 1.0)
    assert novelty.counts(tokens_of(2, 4)).tolist() == [1, 0]
    fill(replay, [2, 2])
    assert novelty.counts(tokens_of(2, 4)).tolist() == [3, 0]
    with torch.no_grad():
        tokenizer.weight.mul_(2)
    assert novelty.counts(tokens_of(2, 4)).tolist() == [3, 3]


def test_all_rows_are_counted_where_they_are_fetched_in_several_pieces():
    with Replay(None, chunk_rows=64) as replay:
        fill(replay, [1] * ROWS_AT_ONCE + [2] * 3)
        assert Novelty(FrameCache(LevelTokenizer()), replay, 1.0).counts(tokens_of(1, 2)).tolist() == [ROWS_AT_ONCE, 3]


def test_a_large_replay_is_estimated_from_rows_all_over_it(monkeypatch):
    """Of 200 rows 40 are drawn. Those of five environments lie in turn, so that each fifth is the same's."""
    monkeypatch.setattr("iris_gym.training.novelty.MOST_ROWS", 40)
    tokenizer = LevelTokenizer()
    with Replay(None, chunk_rows=64) as replay:
        fill(replay, [1, 2, 2, 2, 2] * 40)
        counts = Novelty(FrameCache(tokenizer), replay, 1.0).counts(tokens_of(1, 2, 3))
        again = Novelty(FrameCache(LevelTokenizer()), replay, 1.0).counts(tokens_of(1, 2, 3))
    assert counts.sum() == 200 and 15 <= counts[0] <= 75 and counts[2] == 0
    assert again.tolist() == counts.tolist()
    assert tokenizer.encoded == 48 == 3 * CPU_BATCH  # the last one filled up


def test_nothing_is_encoded_twice(replay, monkeypatch):
    monkeypatch.setattr("iris_gym.training.frame_cache.CPU_BATCH", 1)
    tokenizer = LevelTokenizer()
    cache = FrameCache(tokenizer)
    cache.tokens(replay.single_steps(np.array([1, 2])))
    novelty = Novelty(cache, replay, 1.0)
    for _ in range(2):
        novelty.counts(tokens_of(1))
    assert tokenizer.encoded == len(replay)


@pytest.mark.parametrize("unseen_is_novel", [False, True])
def test_a_rare_frame_has_a_bonus_and_a_common_one_costs(unseen_is_novel, replay):
    """Row 0 goes to 1, to 2 and to 3, which is not in the replay; row 1 to 2, to an end and beyond."""
    novelty = Novelty(FrameCache(LevelTokenizer()), replay, 0.5, unseen_is_novel=unseen_is_novel)
    tokens = torch.stack((tokens_of(9, 1, 2, 3), tokens_of(9, 2, 1, 1)))
    dream = trajectory(tokens, [[False] * 4, [False, True, False, False]])
    common, rare = 3**-0.5, 1.0
    mean = (common + 3 * rare) / 4 if unseen_is_novel else (common + 2 * rare) / 3
    unseen = rare - mean if unseen_is_novel else 0.0
    expected = [[common - mean, rare - mean, unseen, 0.0], [rare - mean, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(novelty.bonus(dream), 0.5 * torch.tensor(expected))


def test_where_every_dream_ends_at_once_there_is_no_bonus(replay):
    novelty = Novelty(FrameCache(LevelTokenizer()), replay, 0.5)
    dream = trajectory(tokens_of(1, 2, 3)[None], [[True, False, False]])
    assert novelty.bonus(dream).tolist() == [[0.0, 0.0, 0.0]]


def test_an_imagination_with_novelty_differs_by_the_bonus(replay):
    novelty = Novelty(FrameCache(LevelTokenizer()), replay, 0.5)
    dream = trajectory(tokens_of(9, 1, 2)[None], [[False] * 3])
    given = (torch.zeros(1),) * 4
    found = with_novelty(lambda *start: dream if start == given else None, novelty)(*given)
    assert found.bonus is not None and torch.equal(found.bonus, novelty.bonus(dream)) and found.bonus.any()
    assert found.tokens is dream.tokens and found.rewards is dream.rewards
    rows = found.take(slice(0, 0))
    assert rows.bonus is not None and rows.bonus.shape == (0, 3) and rows.tokens.shape == (0, 3, 2)


@given(st.lists(st.lists(st.integers(0, 2**16), min_size=16, max_size=16), min_size=2, max_size=20))
def test_different_frames_have_different_hashes(frames):
    distinct = {tuple(frame) for frame in frames}
    assert len(set(hashed(torch.tensor(frames)).tolist())) == len(distinct)
    assert torch.equal(hashed(torch.tensor(frames)), hashed(torch.tensor(frames)))


def test_hashes_are_the_same_in_every_run():
    assert hashed(torch.tensor([[1, 2, 3]])).tolist() == [-7840517603874408122]


def updated(replay: Replay, **changes) -> torch.Tensor:
    """The policy's weights after one update in dreams of noise; where there is a bonus, it has a metric."""
    torch.manual_seed(0)
    config = IRISConfig.tiny(**changes)
    models = build_models(config, 3, "cpu")
    learner = build_learners(config, models, RandomStreams(0, torch.device("cpu")), replay)[-1]
    metrics = learner.update(learner.plan.draw(replay, np.random.default_rng(0), epoch=1), epoch=1)
    assert bool(metrics.get("exploration_bonus", False)) == (config.novelty_weight > 0)
    return models.actor_critic.actor.weight.detach()


def test_the_actor_critic_learns_from_the_bonus_whole_or_in_parts(replay, monkeypatch):
    # What is dreamed of noise was never met, and so has no bonus.
    monkeypatch.setattr(Novelty, "counts", lambda self, tokens: tokens.sum(-1).float())
    plain, novel = updated(replay), updated(replay, novelty_weight=1.0)
    assert not torch.equal(plain, novel)
    parts = updated(replay, novelty_weight=1.0, accumulate_gradients=2)
    torch.testing.assert_close(parts, novel, rtol=1e-4, atol=1e-6)


def test_the_config_says_whether_what_was_never_met_is_novel(replay, monkeypatch):
    monkeypatch.setattr(Novelty, "counts", lambda self, tokens: tokens.sum(-1).remainder(3).float())
    without, with_it = (updated(replay, novelty_weight=1.0, unseen_is_novel=novel) for novel in (False, True))
    assert not torch.equal(without, with_it)


def test_without_a_replay_there_is_nothing_to_count_and_no_learner():
    models, streams = build_models(IRISConfig.tiny(), 3, "cpu"), RandomStreams(0, torch.device("cpu"))
    with pytest.raises(AssertionError, match="counted in a replay"):
        build_learners(IRISConfig.tiny(novelty_weight=1.0), models, streams)
