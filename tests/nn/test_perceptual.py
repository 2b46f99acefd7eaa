import copy
import importlib.util
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iris_gym.errors import UsageError
from iris_gym.nn.perceptual import PerceptualDistance, UntrainedLPIPS, load_lpips


class StandIn(nn.Module):
    """Has the face of torchmetrics' network: two batches to one distance each, (N, 1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.modes = []

    def forward(self, images, targets):
        self.modes.append(self.training)
        return self.weight * (images - targets).abs().mean((1, 2, 3), keepdim=True)


def counting(network: nn.Module):
    loads = []
    return loads, lambda: loads.append(None) or network


def test_the_network_is_loaded_at_the_first_call_and_once():
    network = StandIn()
    loads, load = counting(network)
    distance = PerceptualDistance(load)
    assert not loads
    for _ in range(3):
        distance(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
    assert len(loads) == 1
    assert network.modes == [False] * 3


def test_the_distance_is_a_mean_with_a_gradient_to_the_images_and_none_of_its_own():
    network, images = StandIn(), torch.zeros(2, 3, 8, 8, requires_grad=True)
    targets = torch.ones(2, 3, 8, 8)
    targets[1] *= 3
    distance = PerceptualDistance(lambda: network)(images, targets)
    assert distance.item() == pytest.approx(2 * (1 + 3) / 2)
    distance.backward()
    assert images.grad.abs().sum() > 0
    assert network.weight.grad is None


def test_a_copy_finds_its_network_again_by_itself():
    loads, load = counting(StandIn())
    distance, images = PerceptualDistance(load), torch.zeros(2, 3, 8, 8)
    distance(images, images)
    copied = copy.deepcopy(distance)
    assert copied.network is None
    copied(images, images)
    assert len(loads) == 2


def test_the_distance_is_float32_amid_lower_precision():
    distance = PerceptualDistance(UntrainedLPIPS)
    images, targets = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    expected = distance(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(images, targets), expected)
        assert distance(images.bfloat16(), targets).dtype == torch.float32


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is not None, reason="the extra is installed")
def test_without_the_package_the_error_names_the_extra_and_how_to_go_on():
    with pytest.raises(UsageError, match=r'pip install "iris-gym\[lpips\]".*perceptual_weight=0') as error:
        PerceptualDistance()(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(error.value)


class Package:
    """torchmetrics.image.lpip, whose metric fails or holds a network."""

    def __init__(self, result) -> None:
        self.result = result

    def LearnedPerceptualImagePatchSimilarity(self, net_type):
        assert net_type == "vgg"
        if isinstance(self.result, Exception):
            raise self.result
        self.net = self.result
        return self


def install(monkeypatch, result) -> None:
    for name in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, Package(None))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", Package(result))


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ModuleNotFoundError("LPIPS metric requires that torchvision is installed."), "pip install"),
        (OSError("<urlopen error [Errno -2] Name or service\nnot known>"), "downloaded at the first use"),
        (RuntimeError("operator torchvision::nms does not exist"), "downloaded at the first use"),
    ],
)
def test_whatever_keeps_the_weights_away_is_told_in_one_line(monkeypatch, failure, said):
    install(monkeypatch, failure)
    with pytest.raises(UsageError, match="perceptual_weight=0") as error:
        load_lpips()
    assert said in str(error.value)
    assert str(failure).split()[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_the_network_is_the_one_inside_the_metric(monkeypatch):
    network = StandIn()
    install(monkeypatch, network)
    assert load_lpips() is network


def test_untrained_lpips_does_the_work_of_the_trained_one():
    """A VGG16's convolutions are 15.3 G multiplications at 224×224 (He et al. 2015), for each of two images."""
    network = PerceptualDistance(UntrainedLPIPS)
    images = torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(images, images).item() == 0
    assert counter.get_total_flops() / 2 == pytest.approx(30.7e9, rel=0.01)
    assert network(torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)).shape == ()
