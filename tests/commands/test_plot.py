"""`iris-gym plot`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEPS, EPOCH = "time/total_timesteps", "time/epoch"


@pytest.fixture
def runs(tmp_path) -> list[str]:
    for index, name in enumerate(("a", "b")):
        (tmp_path / name / "logs").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({"env": "ALE/Pong-v5"}))
        rows = "".join(f"{200 * epoch},{epoch},{index + epoch},{epoch**2}\n" for epoch in range(1, 9))
        text = f"{STEPS},{EPOCH},world_model/loss,rollout/ep_rew_mean\n{rows}"
        (tmp_path / name / "logs" / "progress.csv").write_text(text)
    return ["a", "b"]


def test_curves_of_two_seeds(cli, runs):
    status, out, err = cli("plot", *runs)
    assert (status, out, err) == (0, "written: learning_curves.png\n", "")
    pixels = np.asarray(Image.open("learning_curves.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_metrics_and_file_are_chosen(cli, runs):
    assert cli("plot", "a", "--metrics", "world_model/*", "--out", "new/loss.svg")[0] == 0
    text = Path("new/loss.svg").read_text()
    assert "<svg" in text
    assert cli("plot", "a", "--out", "both.svg")[0] == 0
    assert len(Path("both.svg").read_text()) > 1.3 * len(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "runs=() hold nothing to draw"),
        (("absent",), "run='absent' is no run folder"),
        (("a", "--out", "curves.gif"), "out='curves.gif' must end in one of .png, .pdf, .svg"),
        (("a", "--metrics", "nothing"), "metrics: 'nothing' fits none of those that were recorded"),
        (("a", "--out", "a/config.json/x.png"), "cannot be written to"),
    ],
)
def test_bad_input_is_one_line(arguments, message, refused, runs):
    assert message in refused("plot", *arguments)
