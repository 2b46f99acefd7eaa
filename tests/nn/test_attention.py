import math

import pytest
import torch
import torch.nn.functional as F

from iris_gym.nn.attention import SPAN_STEP, attend, causal_attention

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_no_scores_for_the_backward_pass(dtype):
    given, kept = [each.requires_grad_() for each in factors(64, 64, dtype)], []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.shape) or saved, lambda saved: saved):
        attend(*given)
    assert kept and not [shape for shape in kept if shape[-2:] == (64, 64)]


# Causal, with dropout


def sequences(dtype: torch.dtype, length: int = 6) -> torch.Tensor:
    """Queries, keys and values (3, B, heads, T, head_dim)."""
    return torch.randn(3, 2, 3, length, 4, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_without_dropout_is_torchs(dtype):
    query, key, value = sequences(dtype)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.equal(causal_attention(query, key, value, 0.0), expected)
    # A probability that rounds to nothing goes the other way and has to arrive at the same.
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(causal_attention(query, key, value, 1e-9), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_weights_look_at_nothing_later_and_keep_the_mean(dtype):
    torch.manual_seed(0)
    query, key, _ = sequences(dtype)
    rows = query.shape[2]
    eye = torch.eye(rows, dtype=dtype).expand(*query.shape[:2], rows, rows)  # of values, so that weights come back
    one = causal_attention(query, key, eye[..., : query.shape[-1]], 0.5)
    assert not one.triu(1).any()
    draws = torch.stack([causal_attention(query, key, eye[..., : query.shape[-1]], 0.5).float() for _ in range(3000)])
    expected = causal_attention(query, key, eye[..., : query.shape[-1]], 0.0).float()
    assert (draws == 0).float().mean() > 0.5
    torch.testing.assert_close(draws.mean(0), expected, rtol=0, atol=0.07)


def test_queries_keys_and_values_learn_through_dropped_weights():
    torch.manual_seed(0)
    parts = sequences(torch.float32).requires_grad_()
    causal_attention(*parts.unbind(0), 0.3).square().sum().backward()
    assert all(part.any() for part in parts.grad)
