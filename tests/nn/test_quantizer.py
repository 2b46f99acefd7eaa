import pytest
import torch

from iris_gym.accelerate import products
from iris_gym.nn.quantizer import EMAQuantizer, GradientQuantizer


def quantizer_at(codebook: list[list[float]], **arguments) -> EMAQuantizer:
    """A quantizer that has started, with these codes at count 1."""
    codes = torch.tensor(codebook)
    quantizer = EMAQuantizer(*codes.shape, **arguments)
    quantizer.codebook.copy_(codes)
    quantizer.sums.copy_(codes)
    quantizer.initialised.fill_(True)
    return quantizer


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_tokens_are_the_nearest_codes_and_embed_looks_them_up():
    quantizer = quantizer_at([[0.0, 0.0], [1.0, 1.0], [5.0, 0.0]]).eval()
    outputs = torch.tensor([[0.1, -0.2], [3.2, 0.0], [0.9, 0.7], [2.0, -1.0]])
    quantization = quantizer(outputs)
    assert quantization.tokens.tolist() == [0, 2, 1, 0]
    assert torch.equal(quantizer.nearest(outputs), quantization.tokens)
    assert quantizer.embed(torch.tensor([[2, 0]])).tolist() == [[[5.0, 0.0], [0.0, 0.0]]]
    torch.testing.assert_close(quantization.codes, quantizer.embed(quantization.tokens))


def test_nearest_is_exact_within_an_update(monkeypatch):
    """Of a GPU, whose products are TF32 otherwise."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seen = []
    monkeypatch.setattr(torch.Tensor, "argmin", lambda *_: seen.append(torch.get_float32_matmul_precision()))
    quantizer = EMAQuantizer(3, 2)
    with products(tf32=True):
        quantizer.nearest(torch.zeros(1, 2))
        assert torch.get_float32_matmul_precision() == "high"
    assert seen == ["highest"]


def test_nearest_agrees_with_all_pairwise_distances():
    torch.manual_seed(0)
    quantizer, outputs = EMAQuantizer(50, 7), torch.randn(200, 7)
    assert torch.equal(quantizer.nearest(outputs), torch.cdist(outputs, quantizer.codebook).argmin(1))


def test_the_gradient_of_the_codes_goes_straight_through():
    quantizer = quantizer_at([[0.0], [4.0]]).eval()
    outputs = column(1.0, 3.0, 7.0).requires_grad_()
    (quantizer(outputs).codes * column(1.0, 10.0, 100.0)).sum().backward()
    assert outputs.grad.flatten().tolist() == [1, 10, 100]


def test_commitment_is_the_mean_squared_distance_and_pulls_outputs_to_their_codes():
    quantizer = quantizer_at([[0.0], [4.0]]).eval()
    outputs = column(1.0, 6.0).requires_grad_()
    commitment = quantizer(outputs).commitment
    assert commitment.item() == 2.5  # (1² + 2²) / 2
    commitment.backward()
    assert outputs.grad.flatten().tolist() == [1.0, 2.0]  # 2 (output - code) / 2


def test_the_first_training_batch_places_every_code_on_an_output():
    quantizer = EMAQuantizer(5, 2, decay=1.0)  # with decay 1 nothing moves afterwards
    outputs = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    quantizer(outputs)
    assert {tuple(code) for code in quantizer.codebook.round(decimals=3).tolist()} <= set(map(tuple, outputs.tolist()))
    started = quantizer.codebook.clone()
    quantizer(outputs + 1000)
    torch.testing.assert_close(quantizer.codebook, started)


def test_codes_follow_the_running_means_of_their_outputs():
    quantizer = quantizer_at([[0.0], [10.0]], decay=0.5)
    tokens = quantizer(column(2.0, 4.0, 9.0)).tokens
    assert tokens.tolist() == [0, 0, 1]
    # counts (1 + 2) / 2 and (1 + 1) / 2; sums (0 + 6) / 2 and (10 + 9) / 2
    assert quantizer.counts.tolist() == [1.5, 1.0]
    assert quantizer.sums.flatten().tolist() == [3.0, 9.5]
    smoothed = [(1.5 + 1e-5) / (2.5 + 2e-5) * 2.5, (1.0 + 1e-5) / (2.5 + 2e-5) * 2.5]
    expected = [3.0 / smoothed[0], 9.5 / smoothed[1]]
    assert quantizer.codebook.flatten().tolist() == pytest.approx(expected, rel=1e-7)


def test_the_answer_comes_from_the_codebook_before_its_update():
    quantizer = quantizer_at([[0.0], [10.0]], decay=0.5)
    assert quantizer(column(2.0, 9.0)).codes.flatten().tolist() == [0.0, 10.0]


def test_no_gradient_reaches_the_codebook():
    quantizer = quantizer_at([[0.0], [10.0]])
    quantization = quantizer(column(2.0, 9.0).requires_grad_())
    (quantization.codes.sum() + quantization.commitment).backward()
    assert list(quantizer.parameters()) == []
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


def test_a_dead_code_is_revived_at_exactly_the_threshold():
    quantizer = quantizer_at([[0.0], [50.0]], dead_code_threshold=3)
    for update in (1, 2):
        quantizer(column(0.1, 0.1))
        assert quantizer.idle_updates.tolist() == [0, update]
        assert quantizer.codebook[1].item() == pytest.approx(50, abs=0.1)
    quantizer(column(0.1, 0.1))
    assert quantizer.codebook[1].item() == pytest.approx(0.1, rel=1e-3)
    assert quantizer.counts[1] == 1
    assert quantizer.idle_updates.tolist() == [0, 0]


def test_a_code_used_in_time_stays():
    quantizer = quantizer_at([[0.0], [50.0]], dead_code_threshold=3)
    for outputs in (column(0.1), column(0.1), column(0.1, 50.0), column(0.1), column(0.1)):
        quantizer(outputs)
    assert quantizer.idle_updates.tolist() == [0, 2]
    assert quantizer.codebook[1].item() == pytest.approx(50, abs=0.1)


def test_threshold_zero_leaves_dead_codes_alone():
    quantizer = quantizer_at([[0.0], [50.0]], dead_code_threshold=0)
    for _ in range(150):
        quantizer(column(0.1, 0.1))
    assert quantizer.idle_updates[1] == 150
    assert quantizer.codebook[1].item() == pytest.approx(50, rel=0.01)


def test_evaluation_mode_changes_nothing():
    quantizer = EMAQuantizer(4, 3, dead_code_threshold=2)
    quantizer(torch.randn(6, 3))
    quantizer.eval()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    for _ in range(5):
        quantizer(torch.randn(6, 3))
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


def test_evaluation_before_training_does_not_start_the_codebook():
    quantizer = EMAQuantizer(4, 3).eval()
    quantizer(torch.randn(6, 3))
    assert not quantizer.initialised


def test_a_restored_quantizer_goes_on_alike():
    original, restored = EMAQuantizer(4, 3, dead_code_threshold=2), EMAQuantizer(4, 3, dead_code_threshold=2)
    for _ in range(3):
        original(torch.randn(6, 3))
    restored.load_state_dict(original.state_dict())
    batch = torch.randn(6, 3)
    for quantizer in (original, restored):
        torch.manual_seed(1)
        quantizer(batch)
    for name, value in original.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


# The codebook that the optimizer moves


def gradient_quantizer_at(codebook: list[list[float]]) -> GradientQuantizer:
    codes = torch.tensor(codebook)
    quantizer = GradientQuantizer(*codes.shape)
    quantizer.codebook.data.copy_(codes)
    return quantizer


def test_a_gradient_codebook_starts_small_and_is_the_only_parameter():
    quantizer = GradientQuantizer(64, 5)
    assert [name for name, _ in quantizer.named_parameters()] == ["codebook"]
    assert quantizer.vocab_size == 64
    assert 0.9 / 64 < quantizer.codebook.abs().max() <= 1 / 64


def test_each_loss_pulls_one_side():
    quantizer = gradient_quantizer_at([[0.0], [4.0]])
    outputs = column(1.0, 6.0).requires_grad_()
    quantization = quantizer(outputs)
    assert quantization.tokens.tolist() == [0, 1]
    assert quantization.commitment.item() == quantization.codebook_loss.item() == 2.5  # (1² + 2²) / 2
    quantization.commitment.backward(retain_graph=True)
    assert outputs.grad.flatten().tolist() == [1.0, 2.0]  # 2 (output - code) / 2
    assert quantizer.codebook.grad is None
    outputs.grad = None
    quantization.codebook_loss.backward()
    assert quantizer.codebook.grad.flatten().tolist() == [-1.0, -2.0]
    assert outputs.grad is None


def test_the_codes_gradient_goes_past_a_gradient_codebook_too():
    quantizer = gradient_quantizer_at([[0.0], [4.0]])
    outputs = column(1.0, 3.0, 7.0).requires_grad_()
    (quantizer(outputs).codes * column(1.0, 10.0, 100.0)).sum().backward()
    assert outputs.grad.flatten().tolist() == [1, 10, 100]
    assert quantizer.codebook.grad is None


def test_training_or_not_a_gradient_codebook_answers_alike_and_stays():
    quantizer, outputs = GradientQuantizer(7, 3), torch.randn(20, 3)
    before = quantizer.codebook.clone()
    answers = [quantizer.train(mode)(outputs).tokens for mode in (True, False)]
    assert torch.equal(*answers)
    assert torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("kind", [EMAQuantizer, GradientQuantizer])
def test_the_search_is_in_single_precision_whatever_runs_around_it(kind):
    quantizer = kind(2, 4)
    quantizer.codebook.data.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.001]]))
    outputs = torch.tensor([[1.0, 1.0, 1.0, 1.0003], [1.0, 1.0, 1.0, 1.0008]])
    with torch.autocast("cpu", torch.bfloat16):  # which resolves steps of 0.008 here
        assert quantizer.nearest(outputs).tolist() == [0, 1]


def test_an_ema_codebook_has_no_loss_of_its_own():
    assert EMAQuantizer(4, 2).eval()(torch.randn(3, 2)).codebook_loss.item() == 0
