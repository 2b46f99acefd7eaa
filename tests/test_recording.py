import pytest
from moviepy import VideoFileClip
from PIL import Image

import iris_gym
from iris_gym import IRISAgent, IRISConfig, UsageError
from iris_gym.cli import main
from iris_gym.evaluation.pictures import LABEL_WIDTH


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> IRISAgent:
    folder = tmp_path_factory.mktemp("recorded")
    agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(), seed=0, device="cpu", run_dir=folder / "run")
    agent.learn(60)
    agent.save(folder / "agent.zip")
    return agent


def rows_of(path) -> int:
    with Image.open(path) as picture:
        return picture.size[1] // (4 * 64)


@pytest.mark.parametrize(("source", "rows"), [("dream", 1), ("real", 1), ("side-by-side", 3)])
def test_every_source_gives_a_video_and_a_strip(agent, tmp_path, source, rows):
    seen = []
    paths = iris_gym.record(
        agent, source=source, episodes=2, out=tmp_path, max_steps=6, scale=2, on_episode=seen.append
    )
    assert paths == seen == [tmp_path / f"{source}_{index}.mp4" for index in range(2)]
    for path in paths:
        assert path.stat().st_size
        assert rows_of(path.with_suffix(".png")) == rows


def test_a_seed_repeats_the_pictures(agent, tmp_path):
    for name in ("a", "b"):
        iris_gym.record(agent, source="side-by-side", out=tmp_path / name, max_steps=6, scale=2, seed=3)
    first, second = (tmp_path / name / "side-by-side_0.png" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert picture.size[0] == 4 * (LABEL_WIDTH + 7 * 64)


def test_short_episodes_are_followed_by_others(agent, tmp_path):
    for seconds, steps in (("short", 1), ("long", 7)):
        options = dict(source="side-by-side", out=tmp_path / seconds, max_steps=3, min_steps=steps, scale=2)
        [path] = iris_gym.record(agent, episodes=1, **options)
        with VideoFileClip(str(path)) as clip:
            assert clip.n_frames == {"short": 4, "long": 12}[seconds]
    first, second = (tmp_path / name / "side-by-side_0.png" for name in ("short", "long"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["run", "agent.zip"])
def test_the_command_line(agent, capsys, name):
    path = agent.run.path.parent / name
    with pytest.raises(SystemExit) as end:
        main(["record", "--run", str(path), "--source", "dream", "--max-steps", "4"])
    media = (path if name == "run" else path.parent) / "media"
    assert end.value.code == 0
    assert f"written: {media / 'dream_0.mp4'}" in capsys.readouterr().out
    assert (media / "dream_0.mp4").exists() and (media / "dream_0.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source", "sideways"], "--source"),
        (["--episodes", "0"], "episodes=0 is too few"),
        (["--max-steps", "0"], "max_steps=0 is too few"),
        (["--temperature", "-1"], "temperature: -1"),
        (["--temperature", "nan"], "temperature: nan"),
        (["--seed", "-1"], "seed: -1"),
        (["--out", "/dev/null/x"], "out='/dev/null/x' cannot be written to: '/dev/null' is no writable folder"),
    ],
)
def test_bad_flags_end_with_one_line(agent, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        main(["record", "--run", str(agent.run.path), *flags])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("iris-gym: error:") and message in line


def test_bad_arguments(agent):
    with pytest.raises(UsageError, match="source='sideways' is unknown; give one of dream, real, side-by-side"):
        iris_gym.record(agent, source="sideways")
    with pytest.raises(UsageError, match="scale=3 must be an even number"):
        iris_gym.record(agent, scale=3)
    with pytest.raises(UsageError, match="nowhere"):
        iris_gym.record("nowhere")
