"""Images in, frames out: layouts, sizes, and what is refused."""

import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from iris_gym.envs.preprocessing import batched, check_spaces, resize, to_frames, to_image
from iris_gym.errors import UsageError

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def test_resize_is_antialiased_bilinear():
    checkerboard = np.zeros((128, 128, 3), np.uint8)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = 255
    inside = resize(checkerboard)[1:-1, 1:-1]
    assert abs(inside.astype(int) - 127).max() <= 1  # without antialiasing: 0 or 255 in places


def test_resize_keeps_what_has_the_size():
    frame = noise(64, 64, 3)
    assert resize(frame) is frame


@pytest.mark.parametrize("height, width", [(64, 64), (210, 160), (8, 200), (40, 40)])
def test_layouts_agree(height: int, width: int):
    hwc = noise(2, height, width, 3)
    frames = to_frames(hwc)
    expected = [Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR) for image in hwc]
    np.testing.assert_array_equal(frames.transpose(0, 2, 3, 1), np.stack(list(map(np.asarray, expected))))
    np.testing.assert_array_equal(to_frames(hwc.transpose(0, 3, 1, 2)), frames)
    np.testing.assert_array_equal(to_image(hwc[0]), frames[0].transpose(1, 2, 0))
    assert frames.shape == (2, 3, 64, 64) and frames.dtype == np.uint8 and frames.flags.c_contiguous


@pytest.mark.parametrize("size", [64, 84])
def test_grey_is_repeated(size: int):
    grey = noise(2, size, size)
    frames = to_frames(grey)
    assert (frames[:, :1] == frames).all()
    np.testing.assert_array_equal(to_frames(grey[..., None]), frames)
    np.testing.assert_array_equal(to_frames(grey[:, None]), frames)


def test_an_empty_batch():
    assert to_frames(noise(0, 210, 160, 3)).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("bad", [noise(2, 64, 64, 4), noise(2, 7, 7, 3), noise(64, 64), np.zeros((2, 64, 64, 3))])
def test_frames_of_no_image_are_refused(bad: np.ndarray):
    with pytest.raises(UsageError, match="observation: "):
        to_frames(bad)


@pytest.mark.parametrize(
    "shape, space_shape, single",
    [
        ((64, 64, 3), (3, 64, 64), True),
        ((3, 64, 64), (64, 64, 3), True),
        ((210, 160, 3), (3, 64, 64), True),
        ((84, 84), (3, 64, 64), True),
        ((5, 64, 64, 3), (3, 64, 64), False),
        ((1, 3, 64, 64), (64, 64, 3), False),
        ((64, 64), (64, 64), True),
        ((5, 64, 64), (64, 64), False),
        ((3, 64, 64), (64, 64), False),  # three grey images, as the space says
    ],
)
def test_single_observations_are_told_from_batches(shape, space_shape, single):
    observations, was_single = batched(noise(*shape), space_shape)
    assert was_single is single
    assert observations.shape == ((1, *shape) if single else shape)
    assert to_frames(observations).shape == (len(observations), 3, 64, 64)


def test_a_shape_that_is_no_image():
    with pytest.raises(UsageError, match=r"shape \(4,\) is no image; give one of shape \(3, 64, 64\)"):
        batched(noise(4), (3, 64, 64))


IMAGE = spaces.Box(0, 255, (96, 96, 3), np.uint8)


@pytest.mark.parametrize("shape", [(8, 8, 3), (3, 64, 64), (84, 84, 1), (84, 84)])
def test_image_spaces_are_taken(shape):
    check_spaces(spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2), "Env-v0")


@pytest.mark.parametrize("actions", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 2]), spaces.Box(-1, 1)])
def test_other_actions_are_refused(actions: spaces.Space):
    with pytest.raises(UsageError, match=r"env: 'Env-v0' has the action space .*Discrete\(n\) with start=0"):
        check_spaces(IMAGE, actions, "Env-v0")


@pytest.mark.parametrize(
    ("observations", "actions"), [((8, 2_049, 3), 2), ((1, 4_000, 8), 2), ((64, 64, 3), 65_537)], ids=str
)
def test_what_no_stored_agent_can_have_is_refused(observations: tuple[int, ...], actions: int):
    with pytest.raises(UsageError, match="at most 65536 actions and sides of 2048 pixels are taken"):
        check_spaces(spaces.Box(0, 255, observations, np.uint8), spaces.Discrete(actions), "Env-v0")


@pytest.mark.parametrize(
    "observations",
    [
        spaces.Box(-1, 1, (4,)),
        spaces.Box(0, 1, (64, 64, 3)),
        spaces.Box(0, 255, (7, 7, 3), np.uint8),
        spaces.Box(0, 255, (64, 64, 4), np.uint8),
        spaces.Dict(image=IMAGE),
    ],
)
def test_other_observations_are_refused(observations: spaces.Space):
    with pytest.raises(UsageError, match=r"env: 'Env-v0' .*gymnasium\.wrappers\.AddRenderObservation") as error:
        check_spaces(observations, spaces.Discrete(2), "Env-v0")
    assert "\n" not in str(error.value)
