"""The Atari 100k table of files that evaluations wrote."""

import csv
import io
import json
from pathlib import Path

import pytest

from iris_gym.errors import UsageError
from iris_gym.evaluation.atari_100k import published_agents
from iris_gym.evaluation.rows import EpisodeScore
from iris_gym.evaluation.score_table import read_run, score_table
from iris_gym.evaluation.scores import reference_scores, summary, write_scores

PROTOCOL = {"agent": "IRIS", "temperature": 0.5, "preprocessing": "iris", "atari_100k": True}


def evaluated(folder: Path, game: str, score: float, *, episodes: int = 100, **protocol) -> Path:
    """A run folder as `iris-gym evaluate` leaves it."""
    scores = [EpisodeScore(score, 10, seed, False) for seed in range(episodes)]
    found = summary(
        game if "-" in game else f"ALE/{game}-v5", scores, {**PROTOCOL, "env_steps_trained": 100_000, **protocol}
    )
    write_scores(folder / "scores.json", found)
    return folder


def table_of(*paths: Path, published: bool = True):
    return score_table([read_run(path) for path in paths], published_agents() if published else [])


@pytest.fixture
def complete(tmp_path) -> list[Path]:
    """Two runs of every game, at a human's score and at twice its distance from a random player."""
    table = reference_scores()
    paths = []
    for game in table["games"]:
        random, human = table["random"][game], table["human"][game]
        for index, times in enumerate((1, 2)):
            paths.append(evaluated(tmp_path / f"{game}{index}", game, random + times * (human - random)))
    return paths


def test_a_complete_table(complete):
    table = table_of(*complete)
    found = table.to_dict()
    assert list(found) == ["iris_gym", "IRIS", "SPR", "DrQ(eps)", "SimPLe", "CURL"]
    own = found["iris_gym"]
    assert [round(own[name], 6) for name in ("mean", "median", "iqm", "optimality_gap")] == [1.5, 1.5, 1.5, 0]
    assert (own["superhuman"], own["at_least_human"]) == (26, 26)
    assert own["games"]["Boxing"] == {"runs": 2, "score": pytest.approx(18.1), "human_normalized": pytest.approx(1.5)}
    assert round(found["IRIS"]["mean"], 3) == 1.046
    assert table.notes == []


def test_two_games_are_compared_on_these_alone_and_it_is_said(tmp_path):
    table = table_of(evaluated(tmp_path / "a", "Pong", 14.6), evaluated(tmp_path / "b", "Boxing", 0.1))
    found = table.to_dict()
    assert (found["iris_gym"]["mean"], found["iris_gym"]["intervals"]) == (0.5, None)
    assert found["IRIS"]["mean"] == pytest.approx((1.0 + 70.0 / 12) / 2, rel=1e-2)
    assert set(found["SPR"]["games"]) == {"Boxing", "Pong"}
    coverage, single = table.notes
    assert coverage.startswith("Of the 26 games only 2 can be compared: Boxing, Pong.")
    assert "none is a result on Atari 100k" in coverage
    assert single == "iris_gym has a single run of Boxing, Pong: no interval can be given."


def test_what_was_played_otherwise_is_told(tmp_path):
    runs = [
        evaluated(tmp_path / "short", "Pong", 1.0, env_steps_trained=4_000, episodes=3, preprocessing="ale"),
        evaluated(tmp_path / "sticky", "Pong", 2.0, atari_100k=False),
        evaluated(tmp_path / "cut", "Pong", 3.0, max_steps=300, temperature=1.0),
    ]
    notes = "\n".join(table_of(*runs).notes)
    assert f"Trained for 4,000 steps, not 100,000: {tmp_path / 'short'}." in notes
    assert f"Evaluated on 3 episodes, not 100: {tmp_path / 'short'}." in notes
    assert f"Not played under the Atari 100k protocol: {tmp_path / 'sticky'}." in notes
    assert f"Games were cut after 300 steps, not 27,000: {tmp_path / 'cut'}." in notes
    assert f"Evaluated at temperature 1, not 0.5: {tmp_path / 'cut'}." in notes
    assert "Runs were evaluated with different preprocessing: ale, iris." in notes


def test_agents_are_told_apart_and_share_the_games_that_all_have(tmp_path):
    mine = [evaluated(tmp_path / "a", "Pong", 1.0), evaluated(tmp_path / "b", "Boxing", 1.0)]
    other = evaluated(tmp_path / "c", "Pong", 2.0, agent="my_agent:act", env_steps_trained=None)
    table = table_of(*mine, other, published=False)
    assert list(table.to_dict()) == ["iris_gym", "my_agent:act"]
    assert list(table.games) == ["Pong"]
    assert "iris_gym has also played Boxing, which others have not: left out." in table.notes
    with pytest.raises(UsageError, match="iris_gym, my_agent:act have no game in common"):
        table_of(mine[1], other)


def test_json_csv_and_markdown_hold_the_same_figures(complete):
    table = score_table(
        [read_run(path) for path in complete], [agent for agent in published_agents() if agent.name == "IRIS"]
    )
    found = json.loads(table.to_json())
    rows = {row["agent"]: row for row in csv.DictReader(io.StringIO(table.to_csv()))}
    assert list(rows) == list(found)
    for name, row in rows.items():
        assert float(row["iqm"]) == found[name]["iqm"]
        assert float(row["mean_low"]) == found[name]["intervals"]["mean"][0]
    assert (rows["IRIS"]["games"], rows["IRIS"]["runs"]) == ("26", "130")
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("| agent | runs | mean | median | IQM | optimality gap | > human | ≥ human |")
    iris = next(line for line in lines if line.startswith("| IRIS |"))
    assert "| 130 | 1.046 [0.9" in iris and "| 0.289 [" in iris and "| 0.501 [" in iris and "| 9 [" in iris
    assert "| Boxing | 0.1 | 12.1 | 18.1 | 70.1 |" in "\n".join(lines)


def test_a_single_run_leaves_cells_without_interval(tmp_path):
    table = table_of(evaluated(tmp_path / "a", "Pong", 14.6), published=False)
    assert table.to_markdown().splitlines()[2] == "| iris_gym | 1 | 1.000 | 1.000 | 1.000 | 0.000 | 0 | 1 |"
    row = next(csv.DictReader(io.StringIO(table.to_csv())))
    assert row["mean_low"] == "" and row["mean"] == "1.0"


def test_a_file_of_scores_and_a_saved_agent_are_runs_too(tmp_path):
    evaluated(tmp_path, "Pong", 3.0)
    beside = tmp_path / "agent.scores.json"
    (tmp_path / "scores.json").rename(beside)
    assert read_run(beside).score == read_run(tmp_path / "agent.zip").score == 3.0


def test_scores_of_an_earlier_version_name_no_agent(tmp_path):
    evaluated(tmp_path, "Pong", 3.0)
    found = json.loads((tmp_path / "scores.json").read_text())
    del found["protocol"]["agent"]
    (tmp_path / "scores.json").write_text(json.dumps(found))
    assert read_run(tmp_path).agent == "iris_gym"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no scores \(scores.json\); run: iris-gym evaluate --run"),
        ("no json", "is no file of scores"),
        ("[]", "is no file of scores"),
        ('{"env": "ALE/Pong-v5"}', "is no file of scores"),
        ('{"env": 3, "mean": 1, "episodes": [], "protocol": {}}', "is no file of scores"),
        ('{"env": "ALE/Pong-v5", "mean": null, "episodes": [], "protocol": {}}', "is no file of scores"),
        ('{"env": "ALE/Pong-v5", "mean": 1, "episodes": [], "protocol": {"max_steps": "x"}}', "is no file of scores"),
        ('{"env": "ALE/Pong-v5", "mean": 1, "episodes": [], "protocol": null}', "is no file of scores"),
        ('{"env": "ALE/Tennis-v5", "mean": 1, "episodes": [], "protocol": {}}', "none of the 26 games"),
        ('{"env": "MinAtar/Breakout-v1", "mean": 1, "episodes": [], "protocol": {}}', "none of the 26 games"),
    ],
)
def test_what_are_no_scores(content: str | None, message: str, tmp_path):
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_run(tmp_path)


def test_a_run_counts_once(tmp_path):
    path = evaluated(tmp_path / "a", "Pong", 1.0)
    with pytest.raises(UsageError, match="is given twice"):
        table_of(path, tmp_path / "a" / ".." / "a")


def test_somebody_has_to_be_shown():
    with pytest.raises(UsageError, match="give runs or published agents"):
        score_table([], [])
