"""How alike two pictures are."""

import torch
from torch import Tensor

SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window, 11 by 11 pixels (Wang et al. 2004, section III.C)."""

LUMINANCE, CONTRAST = 0.01**2, 0.03**2
"""Keep the quotients finite where both pictures are flat; for pixels in [0, 1]."""


def squared_error(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared error of frames (..., C, H, W) in [0, 1]: (...)."""
    return (first - second).square().mean((-3, -2, -1))


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of frames (..., C, H, W) in [0, 1], sides of at least 11: (...), 1 where they are equal.

    The mean over the channels and over every place where the window fits (Wang et al. 2004, equation 13).
    """
    mean_x, mean_y = _blurred(first), _blurred(second)
    variance_x = _blurred(first * first) - mean_x.square()
    variance_y = _blurred(second * second) - mean_y.square()
    covariance = _blurred(first * second) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE) / (mean_x.square() + mean_y.square() + LUMINANCE)
    structure = (2 * covariance + CONTRAST) / (variance_x + variance_y + CONTRAST)
    return (luminance * structure).mean((-3, -2, -1))


def _blurred(images: Tensor) -> Tensor:
    """The Gaussian-weighted mean around each place of images (..., H, W) where the window fits: (..., H-10, W-10).

    As two products of matrices: with a window this small, ten times as fast on a CPU as a convolution.
    """
    rows, columns = (_window_weights(side, images.device) for side in images.shape[-2:])
    return rows @ images @ columns.T


def _window_weights(side: int, device: torch.device) -> Tensor:
    """The weights of `side` pixels in each place of the window (side - 10, side)."""
    places = torch.arange(RADIUS, side - RADIUS, device=device)[:, None]
    offsets = torch.arange(side, device=device) - places
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2) * (offsets.abs() <= RADIUS)
    return weights / weights.sum(1, keepdim=True)
