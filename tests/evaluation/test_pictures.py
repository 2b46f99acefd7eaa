"""Pictures: where every frame lies, and what is written."""

import os
from io import BytesIO
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from iris_gym.data.replay import Replay
from iris_gym.evaluation import pictures
from iris_gym.evaluation.pictures import (
    LABEL_HEIGHT,
    LABEL_WIDTH,
    RunPictures,
    dream_rows,
    gif,
    labelled_strip,
    reconstructions,
    run_pictures,
    save_png,
    save_run_pictures,
)
from iris_gym.functional import stored_frames, unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.quantizer import EMAQuantizer
from iris_gym.types import DreamStep


class Inverter:
    """A stand-in for a tokenizer: 1 - x instead of a reconstruction."""

    def reconstruct(self, frames: torch.Tensor) -> torch.Tensor:
        return 1 - frames


class Adder:
    """A stand-in for dynamics: the action is added to a grey level, which is the state, in units of 1/255."""

    tokenizer = Inverter()

    def start(self, frames: torch.Tensor) -> torch.Tensor:
        return frames

    def decode(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def step(self, state, action, *, generator=None):
        state = state + action.view(-1, 1, 1, 1) / 255
        return state, DreamStep(state, torch.zeros(1), torch.zeros(1, dtype=torch.bool), action[:, None])


def random_frames(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def cell(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """A frame of a strip, (3, 64, 64)."""
    top, left = LABEL_HEIGHT + 64 * row, LABEL_WIDTH + 64 * column
    return image[top : top + 64, left : left + 64].transpose(2, 0, 1)


def small_dynamics() -> Dynamics:
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        strided_encoder(8, 4, 8), strided_decoder(8, 4, 8), EMAQuantizer(16, 8), commitment_weight=0.25
    )
    world_model = WorldModel(
        vocab_size=16, num_actions=3, tokens_per_frame=16, timesteps=3, embed_dim=16, layers=1, heads=2, dropout=0.1
    )
    return Dynamics(tokenizer.eval(), world_model.eval())


def test_reconstructions_lie_under_the_real_frames():
    frames = random_frames(3)
    image = reconstructions(cast(Tokenizer, Inverter()), frames)
    assert image.shape == (128, 192, 3) and image.dtype == np.uint8
    for column, frame in enumerate(frames.numpy()):
        shown = image[:, 64 * column : 64 * (column + 1)].transpose(2, 0, 1)
        assert np.array_equal(shown[:, :64], frame)
        assert np.array_equal(shown[:, 64:], 255 - frame)


def test_a_dreams_strip_shows_each_step_in_its_column():
    frames, actions = random_frames(4), torch.tensor([10, 20, 30, 99])
    frames[0] = 100
    image = labelled_strip(dream_rows(cast(Dynamics, Adder()), frames, actions, generator=torch.Generator()))
    assert image.shape == (LABEL_HEIGHT + 192, LABEL_WIDTH + 256, 3) and image.dtype == np.uint8
    for column, frame in enumerate(frames.numpy()):
        assert np.array_equal(cell(image, 0, column), frame)
        assert np.array_equal(cell(image, 1, column), 255 - frame)
    assert [set(cell(image, 2, column).flatten()) for column in range(4)] == [{100}, {110}, {130}, {160}]


def test_a_dreams_strip_labels_its_rows_and_columns():
    image = labelled_strip(dream_rows(cast(Dynamics, Adder()), random_frames(2), torch.tensor([0, 0]), generator=None))
    assert not image[:LABEL_HEIGHT, :LABEL_WIDTH].any()
    for row in range(3):
        label = image[LABEL_HEIGHT + 64 * row :][:64, :LABEL_WIDTH]
        assert label.any() and not label[:, -1].any()  # it ends before the frame begins
    above = [image[:LABEL_HEIGHT, LABEL_WIDTH + 64 * column :][:, :64] for column in range(2)]
    assert above[0].any() and above[1].any() and not np.array_equal(above[0], above[1])


def test_a_dreams_strip_of_a_real_model_beyond_its_context():
    dynamics, frames, actions = small_dynamics(), random_frames(6), torch.tensor([0, 1, 2, 0, 1, 2])

    def strip(seed: int) -> np.ndarray:
        return labelled_strip(dream_rows(dynamics, frames, actions, generator=torch.Generator().manual_seed(seed)))

    state = torch.get_rng_state()
    image = strip(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(image, strip(1)) and not np.array_equal(image, strip(2))
    with torch.no_grad():
        expected = stored_frames(dynamics.tokenizer.reconstruct(unit_frames(frames))).numpy()
    assert np.array_equal(cell(image, 1, 3), expected[3])
    assert np.array_equal(cell(image, 2, 0), expected[0])  # the dream starts at the first frame


def test_a_dreams_strip_of_one_frame():
    image = labelled_strip(dream_rows(small_dynamics(), random_frames(1), torch.tensor([0]), generator=None))
    assert image.shape == (LABEL_HEIGHT + 192, LABEL_WIDTH + 64, 3)


@pytest.mark.parametrize("scale", [1, 4])
def test_save_png(tmp_path, scale: int):
    image = random_frames(1)[0].permute(1, 2, 0).numpy()[:5, :7]
    path = tmp_path / "media" / "picture.png"
    save_png(path, image, scale=scale)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (7 * scale, 5 * scale))
        assert np.array_equal(np.array(picture), np.kron(image, np.ones((scale, scale, 1), np.uint8)))
    assert os.listdir(path.parent) == ["picture.png"]


def test_a_film_shows_what_the_strip_shows():
    with Replay(None) as replay:
        for frame in random_frames(5).numpy():
            replay.append(frame, 1, 0.0, terminated=False, truncated=False)
        once = run_pictures(60, small_dynamics(), replay)
        again = run_pictures(60, small_dynamics(), replay)
    assert once is not None and again is not None
    assert np.array_equal(once.film, again.film)
    length = len(once.film)
    assert once.film.shape == (length, 64, 192, 3)
    for column in range(length):
        for row in range(3):
            shown = once.film[column, :, 64 * row : 64 * (row + 1)].transpose(2, 0, 1)
            assert np.array_equal(shown, cell(once.dream, row, column))


def test_nothing_is_shown_of_an_empty_replay():
    with Replay(None) as replay:
        assert run_pictures(0, small_dynamics(), replay) is None


def test_a_gif_moves_at_the_pace_of_the_game():
    film = np.stack([np.full((4, 6, 3), shade, np.uint8) for shade in (0, 120, 240)])
    with Image.open(BytesIO(gif(film, fps=20, scale=2))) as animation:
        assert (animation.n_frames, animation.size, animation.info["duration"]) == (3, (12, 8), 50)


def test_pictures_of_a_long_run_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT_PICTURES", 6)
    picture = np.zeros((4, 4, 3), np.uint8)
    for step in range(20):
        save_run_pictures(tmp_path, RunPictures(step, picture, picture, picture[None]), fps=15)
    steps = sorted(int(path.stem.split("_")[1]) for path in tmp_path.glob("dream_*.gif"))
    assert len(steps) <= 6 and steps[0] == 0 and steps[-1] == 19
    assert max(np.diff(steps)) <= 8  # all of the run is in sight
    assert len(list(tmp_path.iterdir())) <= 3 * 6


def test_other_files_in_media_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT_PICTURES", 2)
    (tmp_path / "dream_of_mine.png").touch()
    (tmp_path / "dream_0.mp4").touch()  # a recording's
    picture = np.zeros((4, 4, 3), np.uint8)
    for step in range(4):
        save_run_pictures(tmp_path, RunPictures(step, picture, picture, picture[None]), fps=15)
    assert (tmp_path / "dream_of_mine.png").exists() and (tmp_path / "dream_0.mp4").exists()
