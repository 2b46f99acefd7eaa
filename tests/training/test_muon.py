import pytest
import torch
from torch import nn

from iris_gym.training.checkpoint import load_modules, load_optimizers, module_tensors, optimizer_tensors
from iris_gym.training.muon import Muon, orthogonalised


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def muon(net: nn.Linear, **keywords) -> Muon:
    groups = [{"params": [net.weight], "weight_decay": 0.5}, {"params": [net.bias], "weight_decay": 0.0}]
    return Muon(groups, 0.1, matrices=[net.weight], **keywords)


def with_gradient(net: nn.Linear, seed: int) -> nn.Linear:
    net.weight.grad, net.bias.grad = matrix(4, 3, seed=seed), matrix(4, seed=seed + 100)
    return net


@pytest.mark.parametrize("shape", [(5, 5), (12, 4), (4, 12), (1, 7), (7, 1)])
def test_singular_values_come_close_to_1_and_their_directions_stay(shape):
    before = matrix(*shape)
    after = orthogonalised(before)
    assert after.shape == shape
    values = torch.linalg.svdvals(after)
    assert values.min() > 0.6 and values.max() < 1.25
    left, _, right = torch.linalg.svd(before, full_matrices=False)
    assert (after * (left @ right)).sum() / after.norm() / len(values) ** 0.5 > 0.95


def test_the_size_of_a_matrix_has_no_influence_and_zeros_stay():
    torch.testing.assert_close(orthogonalised(1e-3 * matrix(4, 6)), orthogonalised(1e3 * matrix(4, 6)))
    assert not orthogonalised(torch.zeros(4, 6)).any()


def test_two_steps_by_hand():
    net = network()
    optimizer, weight, momentum = muon(net), net.weight.detach().clone(), torch.zeros(4, 3)
    for seed in range(2):
        with_gradient(net, seed)
        optimizer.step()
        gradient = matrix(4, 3, seed=seed)
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonalised(0.05 * gradient + 0.95 * momentum)
        weight = weight * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 4**0.5 * direction
        torch.testing.assert_close(net.weight.detach(), weight)
        assert torch.equal(net.weight.grad, gradient)


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (32, 32)])
def test_the_root_mean_square_of_a_step_is_a_fifth_of_the_learning_rate(shape):
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = matrix(*shape)
    Muon([weight], 0.1, matrices=[weight], weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.2)


def test_all_else_moves_as_with_adamw():
    nets = [network(), network()]
    groups = [{"params": [nets[1].weight]}, {"params": [nets[1].bias], "weight_decay": 0.0}]
    optimizers = [muon(nets[0]), torch.optim.AdamW(groups, 0.1)]
    for seed in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            with_gradient(net, seed)
            optimizer.step()
    assert torch.equal(nets[0].bias, nets[1].bias)
    assert not torch.equal(nets[0].weight, nets[1].weight)


def test_a_matrix_without_gradient_stays():
    net = with_gradient(network(), 0)
    before, net.weight.grad = net.weight.detach().clone(), None
    optimizer = muon(net)
    optimizer.step()
    assert torch.equal(net.weight, before) and net.weight not in optimizer.state


def test_where_something_is_not_finite_nothing_changes():
    """As with the fused kernels, which a GPU has and a CPU, too."""
    net = with_gradient(network(), 0)
    optimizer = muon(net, fused=True)
    states = []
    for bad in (0.0, 1.0):
        optimizer.found_inf = torch.tensor(bad)
        optimizer.step()
        moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
        states.append([net.weight.detach().clone(), net.bias.detach().clone(), *moments])
        net.weight.grad, net.bias.grad = torch.full((4, 3), torch.nan), torch.full((4,), torch.nan)
    assert len(states[0]) == 2 + 2 + 3
    assert all(map(torch.equal, *states))


def test_it_goes_on_as_if_nothing_had_happened():
    nets = [network(), network()]
    optimizers = [muon(net) for net in nets]
    for seed in range(3):
        with_gradient(nets[0], seed)
        optimizers[0].step()
    load_modules({"net": nets[1]}, module_tensors({"net": nets[0]}), "there")
    load_optimizers({"net": optimizers[1]}, optimizer_tensors({"net": optimizers[0]}))
    for net, optimizer in zip(nets, optimizers, strict=True):
        with_gradient(net, 3)
        optimizer.step()
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=0, atol=0)
