"""`iris-gym scores`."""

import json
from pathlib import Path

import pytest

from iris_gym import IRISAgent, IRISConfig


def test_the_published_agents_as_published(cli):
    status, out, err = cli("scores", "--published", "--json", "a/s.json", "--csv", "s.csv", "--markdown", "s.md")
    assert (status, err) == (0, "")
    found = json.loads(Path("a/s.json").read_text())
    assert list(found) == ["IRIS", "SPR", "DrQ(eps)", "SimPLe", "CURL"]
    iris = found["IRIS"]
    assert [round(iris[name], 3) for name in ("mean", "median", "iqm")] == [1.046, 0.289, 0.501]
    assert (iris["superhuman"], iris["at_least_human"]) == (9, 10)
    assert Path("s.csv").read_text().count("\n") == 6
    assert Path("s.md").read_text() in out
    assert "written: a/s.json, s.csv, s.md" in out


@pytest.mark.slow
def test_a_run_beside_them_with_figures(cli, tmp_path):
    """Trained, evaluated and shown: only Pong, which is said."""
    run = tmp_path / "pong"
    IRISAgent("ALE/Pong-v5", IRISConfig.tiny(), seed=0, device="cpu", run_dir=run).learn(60)
    cli("evaluate", "--run", run, "--episodes", 1, "--max-steps", 30, "--device", "cpu")
    log = run / "logs" / "progress.csv"
    head, *rows = log.read_text().splitlines()
    log.write_text("\n".join([f"{head},rollout/ep_rew_mean", *(f"{row},-20.5" for row in rows)]) + "\n")
    status, out, _ = cli("scores", "--runs", run, "--json", "s.json", "--figures", "figures")
    assert status == 0
    found = json.loads(Path("s.json").read_text())
    assert list(found)[:2] == ["iris_gym", "IRIS"]
    assert found["IRIS"]["mean"] == 1.0 and set(found["IRIS"]["games"]) == {"Pong"}
    assert "Of the 26 games only 1 can be compared: Pong." in out and "Trained for 60 steps, not 100,000" in out
    assert {path.name for path in Path("figures").iterdir()} == {
        "aggregates.png", "games.png", "profiles.png", "learning_curves.png",
    }  # fmt: skip


def test_runs_alone(cli, tmp_path):
    Path("a.json").write_text('{"env": "ALE/Boxing-v5", "mean": 12.1, "episodes": [], "protocol": {}}')
    _, out, _ = cli("scores", "--runs", "a.json", "--no-published")
    assert "| iris_gym | 1 | 1.000 |" in out and "SPR" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runs", "absent"), "'absent' has no scores"),
        (("--no-published",), "give runs or published agents"),
        (("--json", "file/s.json"), "json='file' cannot be written to"),
        (("--figures", "file/f"), "figures='file/f' cannot be written to"),
    ],
)
def test_bad_input_is_one_line(arguments, message, refused):
    Path("file").touch()
    assert message in refused("scores", *arguments)
