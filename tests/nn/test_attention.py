import math

import pytest
import torch
import torch.nn.functional as F

from iris_gym.nn.attention import SPAN_STEP, attend

HEAD_DIM = 16


def factors(queries: int, keys: int, dtype: torch.dtype) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, length, HEAD_DIM, generator=source).to(dtype) for length in (queries, keys, keys)]


def nothing_after(queries: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """Hides from each query the keys that follow the place at which it stands, the last ones."""
    beyond = torch.arange(keys) > torch.arange(keys - queries, keys)[:, None]
    return torch.zeros(3, 1, queries, keys, dtype=dtype).masked_fill(beyond, -math.inf)


@pytest.mark.parametrize("queries", [1, 2, 3, 17])
@pytest.mark.parametrize("keys", [17, SPAN_STEP, 100])
@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@torch.no_grad()
def test_equals_attention_in_double_precision(queries, keys, hides, dtype, within):
    given, hidden = factors(queries, keys, dtype), nothing_after(queries, keys, dtype) if hides else None
    exact = F.scaled_dot_product_attention(
        *(each.double() for each in given), attn_mask=hidden if hidden is None else hidden.double()
    )
    found = attend(*given, hidden)
    assert found.dtype == dtype and found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=within)


@torch.no_grad()
def test_what_is_hidden_has_no_influence():
    query, keys, values = factors(1, 40, torch.bfloat16)
    hidden = torch.zeros(3, 1, 1, 40, dtype=torch.bfloat16)
    hidden[..., 25:] = -math.inf
    before = attend(query, keys, values, hidden)
    keys[:, :, 25:], values[:, :, 25:] = 7, -3
    assert torch.equal(attend(query, keys, values, hidden), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_has_a_gradient_where_one_is_asked_for(dtype):
    given = [each.requires_grad_() for each in factors(5, 5, dtype)]
    gradients = torch.autograd.grad(attend(*given).float().square().sum(), given)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
