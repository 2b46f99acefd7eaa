import pytest
import torch

from iris_gym.evaluation.similarity import squared_error, structural_similarity


def ramps() -> torch.Tensor:
    """Three channels: a ramp to the right, one downwards, and diagonal stripes."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.stack([x / 63, y / 63, ((x + y) % 16) / 15])


# What scikit-image 0.26 gives with gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: image * 0.5, 0.7010235),
        (lambda image: 1 - image, -0.30761865),
        (lambda image: image.roll(2, -1), 0.77534944),
        (lambda image: image, 1.0),
    ],
)
def test_ssim_is_that_of_scikit_image(change, expected):
    image = ramps()
    assert structural_similarity(change(image), image).item() == pytest.approx(expected, abs=1e-5)
    batch = torch.stack([image, change(image)])
    assert structural_similarity(batch, image.expand_as(batch)).tolist() == pytest.approx([1.0, expected], abs=1e-5)


def test_squared_error():
    frames = torch.zeros(2, 3, 64, 64)
    frames[1, 0] = 0.5
    assert squared_error(frames, torch.zeros(2, 3, 64, 64)).tolist() == pytest.approx([0.0, 0.25 / 3])
