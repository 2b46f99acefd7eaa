import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_gym.nn.attention import SPAN_STEP
from iris_gym.nn.transformer import KeyValueCache, Transformer

DIM, CAPACITY = 8, 12


def transformer(**changes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(**({"dim": DIM, "layers": 2, "heads": 2, "max_tokens": CAPACITY} | changes)).eval()


def inputs(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed))


def read_in_chunks(model: Transformer, x: torch.Tensor, chunks: list[int], cache: KeyValueCache) -> torch.Tensor:
    return torch.cat([model.forward_cached(part, cache) for part in x.split(chunks, dim=1)], dim=1)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@given(
    chunks=st.lists(st.integers(1, CAPACITY), min_size=1).filter(lambda chunks: sum(chunks) <= CAPACITY),
    batch=st.integers(1, 3),
)
@settings(deadline=None, max_examples=60)
@torch.no_grad()
def test_reading_in_any_chunks_equals_reading_at_once(chunks, batch):
    model, x = transformer(), inputs(batch, sum(chunks))
    cache = model.empty_cache(batch)
    assert_close(read_in_chunks(model, x, chunks, cache), model(x))
    assert cache.lengths.tolist() == [sum(chunks)] * batch
    assert cache.longest == sum(chunks)


@given(lengths=st.lists(st.integers(0, CAPACITY - 3), min_size=1, max_size=4), new=st.integers(1, 3))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_rows_of_different_lengths_equal_rows_alone(lengths, new):
    model, x = transformer(), inputs(len(lengths), CAPACITY)
    cache = model.empty_cache(len(lengths))
    for row, length in enumerate(lengths):
        if length:
            alone = model.empty_cache(1)
            model.forward_cached(x[row : row + 1, :length], alone)
            cache.put(torch.tensor([row]), alone)
    following = torch.stack([x[row, length : length + new] for row, length in enumerate(lengths)])
    answers = model.forward_cached(following, cache)
    for row, length in enumerate(lengths):
        assert_close(answers[row], model(x[row : row + 1, : length + new])[0, length:])
    assert cache.lengths.tolist() == [length + new for length in lengths]


@torch.no_grad()
def test_put_replaces_the_chosen_rows_and_leaves_the_others():
    model, old, fresh = transformer(), inputs(3, 6, seed=2), inputs(2, 8, seed=3)
    cache, other = model.empty_cache(3), model.empty_cache(2)
    model.forward_cached(old[:, :3], cache)
    model.forward_cached(fresh[:, :6], other)
    cache.put(torch.tensor([2, 0]), other)
    assert cache.lengths.tolist() == [6, 3, 6]
    answers = model.forward_cached(torch.stack((fresh[1, 6:], old[1, 3:5], fresh[0, 6:])), cache)
    assert_close(answers[[2, 0]], model(fresh)[:, 6:])
    assert_close(answers[1], model(old)[1, 3:5])


@torch.no_grad()
def test_rows_are_even_until_some_are_replaced():
    model, x = transformer(), inputs(2, 4)
    cache, other = model.empty_cache(2), model.empty_cache(1)
    model.forward_cached(x, cache)
    model.forward_cached(x[:1, :2], other)
    assert cache.even and cache.clone().even and cache.compact().even
    masked = cache.clone()
    masked.put_where(torch.tensor([True, False]), other, torch.tensor([0, 0]))
    cache.put(torch.tensor([1]), other)
    for uneven in (cache, masked):
        assert not (uneven.even or uneven.clone().even or uneven.compact().even)


@torch.no_grad()
def test_a_shorter_row_forgets_what_stood_in_its_place():
    model, old, fresh = transformer(), inputs(1, 10, seed=2), inputs(1, 4, seed=3)
    cache, other = model.empty_cache(1), model.empty_cache(1)
    model.forward_cached(old, cache)
    model.forward_cached(fresh[:, :1], other)
    cache.put(torch.tensor([0]), other)
    assert_close(model.forward_cached(fresh[:, 1:], cache), model(fresh)[:, 1:])


@torch.no_grad()
def test_a_clone_is_not_touched_by_what_its_original_reads():
    model, x = transformer(), inputs(2, 7)
    cache = model.empty_cache(2)
    model.forward_cached(x[:, :4], cache)
    branch = cache.clone()
    model.forward_cached(inputs(2, 5, seed=9), cache)
    assert branch.lengths.tolist() == [4, 4]
    assert branch.longest == 4
    assert_close(model.forward_cached(x[:, 4:], branch), model(x)[:, 4:])


@pytest.mark.parametrize("chunks", [[1] * 70, [17, 2, 31, 1, 1, 18], [70]])
@torch.no_grad()
def test_reading_in_bf16_stays_close_to_float32(chunks):
    model, x = transformer(max_tokens=80), inputs(2, 70)
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    answers = read_in_chunks(narrow, x.to(torch.bfloat16), chunks, narrow.empty_cache(2))
    torch.testing.assert_close(answers.float(), model(x), rtol=0, atol=0.08)


def test_a_bf16_cache_grows_in_few_steps_and_is_read_as_a_whole():
    cache, spans = transformer(max_tokens=70).to(torch.bfloat16).empty_cache(1), set()
    for longest in range(1, 73):
        cache.reach(longest)
        assert cache.longest == min(longest, 70) <= cache.span == cache.keys_values.shape[4]
        spans.add(cache.span)
    assert spans == {SPAN_STEP, 2 * SPAN_STEP, 70}


def test_elsewhere_than_on_a_cpu_a_cache_is_read_in_few_lengths():
    cache, spans = transformer(max_tokens=70).to("meta").empty_cache(1), set()
    for longest in range(1, 73):
        cache.reach(longest)
        assert cache.longest <= cache.span <= cache.keys_values.shape[4] == 70
        spans.add(cache.span)
    assert spans == {SPAN_STEP, 2 * SPAN_STEP, 70}
    assert cache.compact().span == 70


@pytest.mark.parametrize("everywhere", [False, True], ids=["put", "put_where"])
@torch.no_grad()
def test_a_bf16_cache_takes_longer_rows_than_it_has_room_for(everywhere):
    model, long, short = transformer(max_tokens=80).to(torch.bfloat16), inputs(1, 50), inputs(2, 3, seed=1)
    long, short = long.to(torch.bfloat16), short.to(torch.bfloat16)
    cache, other = model.empty_cache(2), model.empty_cache(1)
    model.forward_cached(short[:, :2], cache)
    model.forward_cached(long[:, :49], other)
    if everywhere:
        cache.put_where(torch.tensor([False, True]), other, torch.tensor([0, 0]))
    else:
        cache.put(torch.tensor([1]), other)
    answers = model.forward_cached(torch.stack((short[0, 2:], long[0, 49:])), cache)
    torch.testing.assert_close(answers[0], model(short)[0, 2:], rtol=0, atol=0.08)
    torch.testing.assert_close(answers[1], model(long)[0, 49:], rtol=0, atol=0.08)


@torch.no_grad()
def test_autocast_reads_into_a_cache_of_another_precision():
    model, x = transformer(), inputs(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        answers = read_in_chunks(model, x, [3, 1, 2], model.empty_cache(2))
    torch.testing.assert_close(answers.float(), model(x), rtol=0, atol=0.08)


def test_an_empty_cache_has_room_for_every_position():
    cache = transformer(layers=3).empty_cache(5)
    assert cache.keys_values.shape == (3, 2, 5, 2, CAPACITY, DIM // 2)
    assert cache.capacity == CAPACITY
    assert cache.lengths.tolist() == [0] * 5
    assert cache.longest == 0


def test_an_output_depends_on_its_own_and_earlier_inputs_only():
    model, x = transformer(), inputs(1, 6).requires_grad_()
    for t in range(6):
        (gradient,) = torch.autograd.grad(model(x)[0, t].square().sum(), x)
        assert (gradient[0].abs().amax(-1) > 0).tolist() == [place <= t for place in range(6)]


def test_the_same_token_at_another_position_reads_differently():
    model = transformer(layers=1)
    with torch.no_grad():
        answers = model(inputs(1, 1).expand(1, 4, DIM))[0]
    assert torch.cdist(answers, answers).fill_diagonal_(1).min() > 1e-3


def test_dropout_acts_in_training_mode_only():
    model, x = transformer(dropout=0.5), inputs(1, 6)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_equal_outputs_and_gradients(dropout):
    x, results = inputs(2, 9), []
    for checkpointing in (False, True):
        model = transformer(dropout=dropout, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(5)
        output = model(x)
        output.square().sum().backward()
        results.append([output.detach(), *(parameter.grad for parameter in model.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain)
