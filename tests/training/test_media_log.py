from io import BytesIO

import numpy as np
from PIL import Image
from stable_baselines3.common.logger import CSVOutputFormat, HumanOutputFormat, Logger, configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iris_gym.evaluation.pictures import gif
from iris_gym.training.media_log import record_pictures, shows_pictures


def test_tensorboard_gets_a_picture_and_a_film_that_moves(tmp_path, capsys):
    logger = configure(str(tmp_path), ["tensorboard", "csv", "json", "stdout"])
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    film = np.zeros((3, 16, 24, 3), np.uint8)
    film[1], film[2] = 100, 200
    record_pictures(logger, {"media/picture": picture}, {"media/film": (film, gif(film, 15))}, fps=15, step=70)
    logger.record("loss", 1.0)
    logger.dump(70)
    logger.close()
    assert "moviepy" not in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path)).Reload()
    (shown,) = events.Images("media/picture")
    assert shown.step == 70
    assert np.array_equal(np.array(Image.open(BytesIO(shown.encoded_image_string))), picture)
    (moving,) = events.Images("media/film")
    with Image.open(BytesIO(moving.encoded_image_string)) as animation:
        assert (moving.step, animation.format, animation.n_frames, animation.size) == (70, "GIF", 3, (24, 16))
        animation.seek(2)
        assert np.array(animation.convert("RGB")).mean() == 200
    assert (tmp_path / "progress.csv").read_text().splitlines()[0] == "loss"


def test_who_shows_pictures(tmp_path):
    text = [CSVOutputFormat(str(tmp_path / "a.csv")), HumanOutputFormat(str(tmp_path / "a.txt"))]
    logger = Logger(None, text)
    assert not shows_pictures(logger)
    logger.close()
    logger = configure(str(tmp_path), ["csv", "tensorboard"])
    assert shows_pictures(logger)
    logger.close()
