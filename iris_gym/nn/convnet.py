"""The strided encoder and decoder of the discrete autoencoder, the lighter of its two networks."""

from torch import Tensor, nn

SMALL_MAP = 512
"""Positions below which torch normalises channels-last maps several times slower than contiguous ones, on a CPU."""


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, with small maps brought into the layout in which a CPU is fast."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu" and input.shape[2:].numel() < SMALL_MAP:
            input = input.contiguous()
        return super().forward(input)


class ResidualBlock(nn.Module):
    """Twice GroupNorm, SiLU, 3×3 convolution; plus the input. Keeps the shape (N, channels, h, w)."""

    def __init__(self, channels: int, *, groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            GroupNorm(groups, channels, eps),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            GroupNorm(groups, channels, eps),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def strided_encoder(channels: int, downsamplings: int, out_channels: int) -> nn.Sequential:
    """(N, 3, s, s) → (N, out_channels, s / 2^downsamplings, …): 4×4 convolutions of stride 2, residual blocks between.

    Padding 1 makes every convolution halve the side exactly: 64 → 32 → 16 → 8 → 4 and so 16 tokens.
    """
    layers: list[nn.Module] = []
    for level in range(downsamplings):
        layers.append(nn.Conv2d(channels if level else 3, channels, 4, stride=2, padding=1))
        if level < downsamplings - 1:
            layers.append(ResidualBlock(channels))
    layers.append(nn.Conv2d(channels, out_channels, 1))
    return nn.Sequential(*layers)


def strided_decoder(channels: int, upsamplings: int, in_channels: int) -> nn.Sequential:
    """The mirror of `strided_encoder`: (N, in_channels, s, s) → (N, 3, s · 2^upsamplings, …)."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 1)]
    for level in range(upsamplings):
        last = level == upsamplings - 1
        layers.append(nn.ConvTranspose2d(channels, 3 if last else channels, 4, stride=2, padding=1))
        if not last:
            layers.append(ResidualBlock(channels))
    return nn.Sequential(*layers)
