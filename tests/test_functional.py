import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from iris_gym.functional import (
    before_end,
    codebook_usage,
    count_tokens,
    lambda_returns,
    masked_cross_entropy,
    masked_mean,
    sample_categorical,
    slices,
    stored_frames,
    summed_rewards,
    unit_frames,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_lambda_return(rewards, values, ends, t, discount, lambda_):
    """G_t of one row, by the recursive definition in Python floats."""
    if t == len(values) - 1:
        return values[t]
    following = naive_lambda_return(rewards, values, ends, t + 1, discount, lambda_)
    return rewards[t] + discount * (1 - ends[t]) * ((1 - lambda_) * values[t + 1] + lambda_ * following)


# Frames


def test_every_stored_pixel_survives_the_way_to_unit_frames_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert unit_frames(pixels).min() == 0
    assert unit_frames(pixels).max() == 1
    assert torch.equal(stored_frames(unit_frames(pixels)), pixels)


def test_stored_frames_rounds_to_the_nearest_pixel():
    assert stored_frames(torch.tensor([0.4 / 255, 0.6 / 255, 1.0])).tolist() == [0, 1, 255]


# λ-returns


def test_lambda_returns_of_a_hand_computed_trajectory():
    # G3 = 8; G2 = 1 + 0.5 * (0.5 * 8 + 0.5 * 8) = 5; G1 = 2, cut; G0 = 1 + 0.5 * (0.5 * 4 + 0.5 * 2) = 2.5
    returns = lambda_returns(
        torch.tensor([[1.0, 2.0, 1.0, 0.0]]),
        torch.tensor([[2.0, 4.0, 6.0, 8.0]]),
        torch.tensor([[False, True, False, False]]),
        discount=0.5,
        lambda_=0.5,
    )
    assert returns.tolist() == [[2.5, 2.0, 5.0, 8.0]]


def test_rewards_are_summed_up_to_the_first_end():
    rewards = torch.tensor([[1.0, 2, 4, 8], [1, 2, 4, 8], [1, 2, 4, 8]])
    ends = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]).bool()
    assert summed_rewards(rewards, ends).tolist() == [15, 3, 1]


def test_lambda_one_sums_discounted_rewards_and_lambda_zero_looks_one_step_ahead():
    rewards, values = torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([[5.0, 6.0, 4.0]])
    ends = torch.zeros(1, 3, dtype=torch.bool)
    assert lambda_returns(rewards, values, ends, discount=0.5, lambda_=1.0).tolist() == [[2.5, 3.0, 4.0]]
    assert lambda_returns(rewards, values, ends, discount=0.5, lambda_=0.0).tolist() == [[4.0, 3.0, 4.0]]


def test_an_end_cuts_off_everything_later():
    rewards, values, ends = torch.rand(1, 5), torch.rand(1, 5), torch.tensor([[0, 0, 1, 0, 0]]).bool()
    before = lambda_returns(rewards, values, ends, discount=0.9, lambda_=0.8)
    after = lambda_returns(rewards + torch.tensor([0, 0, 0, 7, 7]), values + ends.cumsum(1).roll(1, 1) * 3, ends,
                           discount=0.9, lambda_=0.8)  # fmt: skip
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_steps_up_to_the_first_end_are_told_from_those_behind_it():
    ends = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    assert before_end(ends).int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]


def test_the_last_reward_and_end_are_not_read():
    rewards, values, ends = torch.rand(2, 4), torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    expected = lambda_returns(rewards, values, ends, discount=0.9, lambda_=0.8)
    rewards[:, -1], ends[:, -1] = math.nan, True
    assert torch.equal(lambda_returns(rewards, values, ends, discount=0.9, lambda_=0.8), expected)


@given(
    steps=st.integers(1, 7).flatmap(
        lambda horizon: st.lists(
            st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32), st.booleans()),
            min_size=horizon,
            max_size=horizon,
        )
    ),
    discount=st.floats(0, 1),
    lambda_=st.floats(0, 1),
)
def test_lambda_returns_follow_the_recursive_definition(steps, discount, lambda_):
    rewards, values, ends = zip(*steps, strict=True)
    returns = lambda_returns(
        torch.tensor([rewards]), torch.tensor([values]), torch.tensor([ends]), discount=discount, lambda_=lambda_
    )
    expected = [naive_lambda_return(rewards, values, ends, t, discount, lambda_) for t in range(len(steps))]
    assert returns[0].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


# Sampling


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_match_the_softmax(temperature):
    draws = 20_000
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    samples = sample_categorical(logits.expand(draws, 4), temperature=temperature, generator=generator())
    expected = draws * F.softmax(logits / temperature, dim=0)
    chi_squared = ((samples.bincount(minlength=4) - expected) ** 2 / expected).sum()
    assert chi_squared < 16.3  # the 99.9th percentile with three degrees of freedom


def test_an_impossible_class_is_never_drawn():
    logits = torch.tensor([0.0, -math.inf, 0.0]).expand(5000, 3)
    assert set(sample_categorical(logits, generator=generator()).tolist()) == {0, 2}


def test_temperature_zero_takes_the_likeliest_and_leaves_the_generator_alone():
    source = generator()
    state = source.get_state()
    logits = torch.tensor([[0.1, 0.3, 0.2], [5.0, 4.9, -1.0]])
    assert sample_categorical(logits, temperature=0, generator=source).tolist() == [1, 0]
    assert torch.equal(source.get_state(), state)


def test_rows_of_any_shape_are_drawn_independently():
    samples = sample_categorical(torch.zeros(50, 40, 2), generator=generator())
    assert samples.shape == (50, 40)
    assert samples.dtype == torch.int64
    assert 800 < samples.sum() < 1200
    assert len({tuple(row) for row in samples.tolist()}) == 50


def test_a_seed_repeats_the_draws_and_the_global_generator_is_untouched():
    logits, state = torch.zeros(100, 10), torch.get_rng_state()
    draws = [sample_categorical(logits, generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


# Masked means


def test_masked_cross_entropy_is_the_mean_over_the_unmasked():
    logits, targets = torch.randn(3, 5, 4, generator=generator()), torch.arange(15).view(3, 5) % 4
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 1]]).bool()
    expected = F.cross_entropy(logits[mask], targets[mask])
    torch.testing.assert_close(masked_cross_entropy(logits, targets, mask), expected)


def test_masked_cross_entropy_of_known_probabilities():
    logits = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]).log()
    loss = masked_cross_entropy(logits, torch.tensor([0, 1, 0]), torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_masked_targets_receive_no_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    masked_cross_entropy(logits, torch.zeros(2, 3, dtype=torch.int64), mask).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, mask)


def test_masked_mean():
    mask = torch.tensor([True, False, True, True])
    assert masked_mean(torch.tensor([1.0, 100.0, 2.0, 6.0]), mask) == 3
    assert masked_mean(torch.tensor([True, True, False, False]), mask) == pytest.approx(1 / 3)


# Codebook usage


def test_tokens_are_counted_where_the_mask_says():
    tokens = torch.tensor([[0, 2, 2], [3, 2, 0]])
    assert count_tokens(tokens, 5).tolist() == [2, 0, 3, 1, 0]
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert count_tokens(tokens, 5, mask).tolist() == [2, 0, 2, 0, 0]


def test_codebook_usage_of_uniform_single_and_uneven_counts():
    assert [float(x) for x in codebook_usage(torch.tensor([5.0, 5.0, 5.0, 5.0]))] == pytest.approx([4.0, 4.0])
    assert [float(x) for x in codebook_usage(torch.tensor([0.0, 9.0, 0.0]))] == pytest.approx([1.0, 1.0])
    # entropy of (1/2, 1/4, 1/4) is 1.5 bits
    assert [float(x) for x in codebook_usage(torch.tensor([2.0, 1.0, 0.0, 1.0]))] == pytest.approx([2**1.5, 3.0])


@pytest.mark.parametrize(
    "batch, parts, expected", [(7, 3, [2, 3, 2]), (4, 2, [2, 2]), (2, 8, [1, 1]), (1, 4, [1]), (5, 1, [5])]
)
def test_slices(batch: int, parts: int, expected: list[int]):
    pieces = slices(batch, parts)
    assert [piece.stop - piece.start for piece in pieces] == expected
    assert pieces[0].start == 0 and pieces[-1].stop == batch
