import pytest
import torch

from iris_gym.nn.dropout import LEVELS, Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_of_zeros_and_the_scale(probability, dtype):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(400, 500, dtype=dtype), probability)
    assert dropped.dtype == dtype
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    kept = dropped[dropped != 0].unique()
    assert len(kept) == 1
    assert kept.item() == pytest.approx(1 / (1 - probability), rel=1e-4 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("probability", [0.1, 1 / 3, 0.5, 3 / LEVELS])
def test_the_mean_is_kept_over_all_numbers_that_could_be_drawn(probability, monkeypatch):
    """Every 16-bit number once, as the generator might give them: kept share times scale is exactly 1."""

    class AllOfThem(torch.Tensor):
        def random_(self, *_):
            return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.int64)

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, **keywords: empty(*sizes, **keywords).as_subclass(AllOfThem))
    dropped = dropout(torch.ones(LEVELS, dtype=torch.float64), probability)
    assert (dropped == 0).sum().item() == round(probability * LEVELS)
    assert dropped.mean().item() == pytest.approx(1, rel=1e-12)


def test_probabilities_zero_and_one():
    x = torch.randn(5)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(5))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1, 7), (0, 4)])
def test_sizes_that_are_no_multiple_of_four(shape):
    torch.manual_seed(0)
    x = torch.full(shape, 2.0)
    dropped = dropout(x, 0.5)
    assert dropped.shape == x.shape
    assert set(dropped.flatten().tolist()) <= {0.0, 4.0}


def test_elements_of_one_number_of_the_generator_are_independent():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(100_000, 4), 0.5) != 0).float()
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.015
    assert kept.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)


def test_the_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.full((101,), 3.0, requires_grad=True)
    dropped = dropout(x, 0.3)
    dropped.sum().backward()
    assert torch.equal(x.grad * 3, dropped)


def test_the_global_seed_decides():
    x, masks = torch.ones(100), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(dropout(x, 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_in_evaluation_nothing_is_dropped_or_drawn():
    module, x = Dropout(0.5), torch.ones(100)
    assert (module(x) == 0).any()
    before = torch.get_rng_state()
    assert module.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)
