"""The report as a whole: real games, a page, a JSON file, the command line."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

import iris_gym
from iris_gym import IRISAgent, IRISConfig, UsageError, make_env, reporting
from iris_gym.cli import main

OPTIONS = dict(episodes=2, starts=6, horizon=7, max_steps=60)
VOID = {"meta", "link", "img", "br"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> IRISAgent:
    folder = tmp_path_factory.mktemp("reported")
    agent = IRISAgent("ALE/Pong-v5", IRISConfig.tiny(), seed=0, device="cpu", run_dir=folder / "run")
    agent.learn(60)
    agent.save(folder / "agent.zip")
    return agent


@pytest.fixture(scope="module")
def page(agent):
    stages = []
    path = iris_gym.report(agent, **OPTIONS, on_stage=stages.append)
    assert stages == ["playing", "encoding", "told the truth", "dreaming", "comparing pictures", "writing"]
    return path


class Page(HTMLParser):
    """Checks that every tag is closed in its turn, and collects attributes by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: dict[str, list[dict]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.setdefault(tag, []).append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    found = Page(text).found
    assert "script" not in found and "iframe" not in found and "object" not in found
    references = [value for tags in found.values() for tag in tags for name, value in tag.items() if name in REFERENCES]
    assert len(references) == 14  # 13 pictures and the icon
    assert all(reference.startswith("data:") for reference in references)
    without_data = re.sub(r"data:[^\"]*", "", text)
    assert not re.search(r"https?:|url\(|@import", without_data)
    (policy,) = [tag["content"] for tag in found["meta"] if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


REFERENCES = ("src", "href", "srcset", "data", "action", "poster", "background")


def test_every_picture_is_described_and_every_figure_explained(page):
    text = page.read_text()
    found = Page(text).found
    assert all(len(image["alt"]) > 20 for image in found["img"])
    assert len(found["img"]) == len(found["figure"]) == 13
    sections = re.findall(r"<h[23]>(?:(?!<h[23]>).)*?<figure", text, re.DOTALL)
    assert len(sections) == 13 and all("How to read it:" in section for section in sections)


def test_the_json_holds_every_figure(agent, page):
    found = json.loads(page.with_suffix(".json").read_text())
    assert found["env"] == "ALE/Pong-v5" and found["horizon"] == 7 and found["starts"] == 6
    assert found["protocol"]["updates"] == updates(agent)
    assert [game["steps"] for game in found["games"]] == [60, 60]
    assert all(game["seed"] > 1_000_000 for game in found["games"])
    for curve in found["by_horizon"].values():
        assert len(curve["mean"]) == len(curve["low"]) == len(curve["high"]) == 7
        assert curve["count"][:6] == [6] * 6
    shares = found["codebook"]["real_shares"]
    assert len(shares) == 32 and sum(shares) == pytest.approx(1)
    assert found["return"]["starts"] == 6
    assert set(found["strips"]) == {"best", "median", "worst"}
    assert found["surprise"]["all"]["count"] == 2 * 59


def updates(agent):
    return {learner.name: learner.updates for learner in agent.trainer.learners}


def test_page_and_json_warn_of_small_samples(page):
    warnings = [warning["message"] for warning in json.loads(page.with_suffix(".json").read_text())["warnings"]]
    assert "only 2 games (of 8 wanted): the intervals, which are over games, are too narrow" in warnings
    assert "no ends of episodes came: nothing is known about them" in warnings
    assert all(warning in page.read_text() for warning in warnings)


@pytest.mark.slow
def test_a_seed_repeats_the_page_to_the_last_byte(agent, page, tmp_path):
    again = iris_gym.report(agent.run.path, **OPTIONS, out=tmp_path / "again.html", device="cpu")
    assert again.read_bytes() == page.read_bytes()


def test_untrained_components_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "page", lambda *_: "")
    agent = IRISAgent("MiniGrid-Empty-5x5-v0", IRISConfig.tiny(), seed=0, device="cpu")
    with pytest.warns(UserWarning, match="has had no update at all") as warned:
        path = iris_gym.report(agent, episodes=1, starts=4, horizon=3, out=tmp_path / "new.html")
    assert len(warned) == 3
    found = json.loads(path.with_suffix(".json").read_text())
    assert (
        found["warnings"][0]["message"]
        == "the autoencoder of this agent has had no update at all: its dreams are noise"
    )
    assert found["return"]["dream_promises"] == "unknown" and found["return"]["difference"]["low"] == [None] * 3


def test_the_command_line(agent, capsys, monkeypatch):
    monkeypatch.setattr(reporting, "page", lambda *_: "")
    path = agent.run.path.parent / "agent.zip"
    flags = ["--episodes", "1", "--starts", "3", "--horizon", "2", "--max-steps", "20", "--context", "2"]
    with pytest.raises(SystemExit) as end:
        main(["report", "--run", str(path), *flags])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "careful: only 1 games (of 8 wanted)" in out
    assert f"written: {path.with_suffix('.report.html')} and agent.report.json" in out
    assert path.with_suffix(".report.html").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--episodes", "0"], "episodes=0 is too few"),
        (["--horizon", "0"], "horizon=0 is too few"),
        (["--starts", "-1"], "starts=-1 is too few"),
        (["--context", "4"], "context=4 is too long: the world model reads 4 timesteps"),
        (["--temperature", "-1"], "temperature: -1"),
        (["--out", "page.pdf"], "out='page.pdf' is no page; give a name that ends in .html"),
        (["--out", "/dev/null/x.html"], "out='/dev/null' cannot be written to"),
        (["--episodes", "1", "--max-steps", "3"], "horizon=20 and context=1 leave no start"),
    ],
)
def test_bad_flags_end_with_one_line(agent, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        main(["report", "--run", str(agent.run.path), *flags])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("iris-gym: error:") and message in line


def test_an_agent_of_an_environment_without_an_id_has_to_be_given_one(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "page", lambda *_: "")
    env = make_env("MinAtar/Breakout-v1")
    agent = IRISAgent(env, IRISConfig.tiny(), seed=0, device="cpu").learn(60)
    with pytest.raises(UsageError, match="env=None is not known, for the agent was given an environment without"):
        iris_gym.report(agent, **OPTIONS)
    with pytest.raises(UsageError, match=r"env=MinAtar/Asterix-v1 has actions Discrete\(5\); the agent was made for"):
        iris_gym.report(agent, env="MinAtar/Asterix-v1", **OPTIONS)
    found = []
    for name, given in (("object", env), ("id", "MinAtar/Breakout-v1")):
        path = iris_gym.report(agent, env=given, out=tmp_path / f"{name}.html", **OPTIONS)
        found.append(json.loads(path.with_suffix(".json").read_text()))
    assert [part["env"] for part in found] == ["MinAtar/Breakout-v1"] * 2
    assert [game["seed"] for game in found[0]["games"]] == [game["seed"] for game in found[1]["games"]]
    env.reset()  # the environment that was given is still open


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_real_browser_shows_it_without_complaint(page, tmp_path):
    picture = tmp_path / "page.png"
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --enable-logging=stderr".split()
    command = [
        "chromium",
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={picture}",
        f"file://{page}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert picture.stat().st_size > 10_000
    assert "CONSOLE" not in done.stderr
