"""The encoder and decoder of the published agent's autoencoder (Esser et al. 2021; Micheli et al. 2023, appendix A).

Level i works on frames whose side was halved i times; all levels have the same number of channels.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from iris_gym.nn.attention import attend
from iris_gym.nn.convnet import GroupNorm, ResidualBlock

GROUPS, EPS = 32, 1e-6
"""Of every normalisation."""

ENCODER_BLOCKS, DECODER_BLOCKS = 2, 3
"""Residual blocks a level."""

ATTENTION_SIDES = (16, 8)
"""Sides of feature maps that attend to themselves after every residual block."""


class SpatialAttention(nn.Module):
    """x + single-head self-attention over the positions of a feature map (N, channels, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(GROUPS, channels, EPS)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.projection = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        by_position = self.query_key_value(self.norm(x)).permute(0, 2, 3, 1)
        # One head as an axis of its own: without it torch attends by its slow path.
        query, key, value = by_position.flatten(1, 2)[:, None].chunk(3, dim=-1)
        attended = attend(query, key, value)
        return x + self.projection(attended.view(*by_position.shape[:3], -1).permute(0, 3, 1, 2))


class Upsample(nn.Module):
    """Double the sides: repeat every position, then convolve 3×3. Maps (N, channels, h, w) to twice h and w.

    A CPU does both at once, by a transposed convolution: of the nine positions that meet a weight only four differ,
    so its 4×4 kernel holds sums of the weights, and takes 4 products where repeated positions take 9.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.convolution(F.interpolate(x, scale_factor=2.0))
        weight = self.convolution.weight.flip(2, 3)
        kernel = F.avg_pool2d(weight, 2, stride=1, padding=1, divisor_override=1)  # sums of 2×2
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.convolution.bias, stride=2, padding=1)


def vqgan_encoder(side: int, channels: int, downsamplings: int, output_channels: int, code_dim: int) -> nn.Sequential:
    """Frames (N, 3, side, side) to encoder outputs (N, code_dim, side / 2^downsamplings, …).

    Two residual blocks a level, attention at sides 16 and 8, a middle, and a convolution to `output_channels`, which
    a 1×1 convolution maps to the width of a code.
    """
    layers: dict[str, nn.Module] = {"first": nn.Conv2d(3, channels, 3, padding=1)}
    for level in range(downsamplings + 1):
        layers[f"level{level}"] = _level(channels, ENCODER_BLOCKS, side // 2**level)
        if level < downsamplings:
            layers[f"downsample{level}"] = _downsample(channels)
    layers |= {"middle": _middle(channels), **_last_convolution(channels, output_channels)}
    return _in_order(**layers, to_codes=nn.Conv2d(output_channels, code_dim, 1))


def vqgan_decoder(side: int, channels: int, upsamplings: int, input_channels: int, code_dim: int) -> nn.Sequential:
    """Codes (N, code_dim, side / 2^upsamplings, …) to frames (N, 3, side, side), not squashed into any range.

    The encoder's levels in reverse with three residual blocks each; upsampling repeats every position and convolves.
    """
    layers: dict[str, nn.Module] = {
        "from_codes": nn.Conv2d(code_dim, input_channels, 1),
        "first": nn.Conv2d(input_channels, channels, 3, padding=1),
        "middle": _middle(channels),
    }
    for level in reversed(range(upsamplings + 1)):
        layers[f"level{level}"] = _level(channels, DECODER_BLOCKS, side // 2**level)
        if level:
            layers[f"upsample{level}"] = Upsample(channels)
    return _in_order(**layers, **_last_convolution(channels, 3))


def _level(channels: int, count: int, side: int) -> nn.Sequential:
    """Residual blocks, each with attention behind it where the feature map's side asks for it."""
    blocks: dict[str, nn.Module] = {}
    for index in range(count):
        blocks[f"residual{index}"] = _residual(channels)
        if side in ATTENTION_SIDES:
            blocks[f"attention{index}"] = SpatialAttention(channels)
    return _in_order(**blocks)


def _middle(channels: int) -> nn.Sequential:
    return _in_order(
        residual1=_residual(channels), attention1=SpatialAttention(channels), residual2=_residual(channels)
    )


def _downsample(channels: int) -> nn.Sequential:
    """Halve the sides. One zero row below and one column on the right are padded, and nothing on the other sides."""
    return _in_order(pad=nn.ZeroPad2d((0, 1, 0, 1)), convolution=nn.Conv2d(channels, channels, 3, stride=2))


def _residual(channels: int) -> ResidualBlock:
    return ResidualBlock(channels, groups=GROUPS, eps=EPS)


def _last_convolution(channels: int, out_channels: int) -> dict[str, nn.Module]:
    return {
        "norm": GroupNorm(GROUPS, channels, EPS),
        "activation": nn.SiLU(),
        "last": nn.Conv2d(channels, out_channels, 3, padding=1),
    }


def _in_order(**layers: nn.Module) -> nn.Sequential:
    """Layers one after another, under their names instead of numbers."""
    return nn.Sequential(OrderedDict(layers))
