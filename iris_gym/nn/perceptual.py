"""LPIPS, a distance between images as people see them, through torchmetrics (the extra `iris-gym[lpips]`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from iris_gym.errors import UsageError, one_line

GO_ON_WITHOUT = "to go on without it, set perceptual_weight=0"


class PerceptualDistance:
    """LPIPS over VGG16 (Zhang et al. 2018), fetched by `prepare` or the first call.

    The network is a fixed yardstick. It is therefore no part of the module that measures with it: always in
    evaluation mode, without gradients of its own, and in no checkpoint. `load` gives it: a module that maps two
    batches (N, 3, h, w) in [-1, 1] to (N, 1, 1, 1).
    """

    def __init__(self, load: Callable[[], nn.Module] | None = None) -> None:
        self.load = load or load_lpips
        self.network: nn.Module | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: not the network, which is 60 MB and found again by the first call."""
        return {"load": self.load, "network": None}

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean distance, a scalar, of two batches (N, 3, h, w) in [-1, 1]; values beyond are taken as they are.

        As every loss it is float32, whatever the precision around it.

        Raises:
            UsageError: the package or its weights cannot be had.
        """
        network = self.prepare(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return network(images.float(), targets.float()).mean()

    def prepare(self, device: torch.device) -> nn.Module:
        """The network, fetched if it was not yet: what is missing shows before anything was done that needs it.

        Raises:
            UsageError: the package or its weights cannot be had.
        """
        if self.network is None:
            with torch.random.fork_rng(devices=[]):  # a resumed run loads it again, and must not draw more for that
                self.network = self.load().eval().requires_grad_(False).to(device)
        return self.network


def load_lpips() -> nn.Module:
    """LPIPS with the weights of its authors. The VGG16 below them is downloaded once, by torchvision."""
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # pyright: ignore[reportMissingImports]

        # The metric around the network refuses reconstructions beyond [-1, 1], and waits for the device to find them.
        return LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
    except ImportError as error:
        raise UsageError(
            f'perceptual_weight needs LPIPS ({one_line(error)}): pip install "iris-gym[lpips]"; {GO_ON_WITHOUT}'
        ) from error
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"LPIPS cannot be loaded ({one_line(error)}): the weights of its VGG16 are downloaded at the first use, "
            f"so connect once; {GO_ON_WITHOUT}"
        ) from error


VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the 3×3 convolutions between two poolings (Simonyan and Zisserman 2015, configuration D)."""


class UntrainedLPIPS(nn.Module):
    """LPIPS with random weights: of no use as a distance, but as much work as the real one, to measure time with.

    It needs neither the extra nor a connection. The same calls as of the network that `load_lpips` gives.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *(stage[-1] for stage in VGG16_STAGES))
        self.stages = nn.ModuleList(
            _vgg_stage(before, stage, pool=index > 0)
            for index, (before, stage) in enumerate(zip(inputs, VGG16_STAGES, strict=False))
        )
        self.weightings = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in VGG16_STAGES)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        distance = images.new_zeros(())
        for stage, weighting in zip(self.stages, self.weightings, strict=True):
            images, targets = stage(images), stage(targets)
            difference = nn.functional.normalize(images) - nn.functional.normalize(targets)
            distance = distance + weighting(difference.square()).mean((2, 3), keepdim=True)
        return distance


def _vgg_stage(inputs: int, outputs: tuple[int, ...], *, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    for before, after in zip((inputs, *outputs), outputs, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)
