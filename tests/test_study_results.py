"""The results that lie in the repository, and what README and the page beside them say: each table, figure and word."""

import importlib
import json
import shutil
import types
from pathlib import Path
from statistics import mean

import pytest

from iris_gym import IRISConfig

EXAMPLES = Path(__file__).parents[1] / "examples"

RESULTS = EXAMPLES / "study_results"
STUDY = RESULTS / "steps_10000"
CHECKPOINTS = (1000, 2000, 3000, 4000, 5000, 7000, 10000)
T = "temperature 0.5"  # how IRIS plays
EMPTY, RANDOM, LAVA, BREAKOUT = (
    "MiniGrid-Empty-5x5",
    "MiniGrid-Empty-Random-6x6",
    "MiniGrid-LavaGapS5",
    "MinAtar-Breakout",
)
SHOWN = (EMPTY, RANDOM, LAVA, BREAKOUT)
ZEN_4, ZEN_5 = "cpu family 25, model 17", "cpu family 26, model 2"
THE_STUDYS_OWN = {"env", "atari_100k", "max_env_steps", "total_epochs", "eval_interval"}
"""Fields that runs of the study have otherwise than `small`."""
ALSO_ON_A_ZEN_4 = {(LAVA, seed) for seed in range(5)} | {(RANDOM, seed) for seed in (1, 4)}
"""Of RecurrentPPO's longer runs."""
SMALL_BEFORE = dict(
    orthogonal_init=False,
    actor_critic_passes=1,
    imitation_share=0.0,
    transformer_optimizer="adamw",
    transformer_learning_rate=1e-3,
    learn_first_frames=True,
    collect_temperature=2.0,
    actor_critic_first_updates=200,
    actor_critic_updates_per_epoch=40,
    settled_autoencoder_updates=20,
    settled_autoencoder_factor=0.1,
)
"""What it had otherwise when the runs in `ablations_before` were made."""
CAME_WITH_THEM = {"imitated_episodes", "clip_range", "unseen_is_novel"}
"""Fields that came later than those runs and say nothing there."""


def both_pages() -> str:
    """The README and the page of the study."""
    return "\n".join(file.read_text() for file in (EXAMPLES.parent / "README.md", RESULTS / "README.md"))


def results_of(agent: str, environment: str) -> list[dict]:
    """Of the study, by seed. `agent` may be that of the longer runs, as in "ppo__longer"."""
    return [json.loads(file.read_text()) for file in sorted(STUDY.glob(f"{agent}__{environment}__*.json"))]


def figures_at(results: list[dict], steps: int, way: str, name: str) -> list[float]:
    points = [next(point for point in result["points"] if point["env_steps"] == steps) for result in results]
    return [point["evaluations"][way][name] for point in points]


def means_at(results: list[dict], steps: int, way: str) -> list[float]:
    return figures_at(results, steps, way, "mean")


def cpu_seconds(results: list[dict]) -> float:
    """Of a whole run, on average."""
    return mean(result["points"][-1]["cpu_seconds"] for result in results)


@pytest.fixture
def study(monkeypatch):
    """The study's modules of results and of jobs."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return types.SimpleNamespace(
        report=importlib.import_module("study_parts.report"), jobs=importlib.import_module("study_parts.jobs")
    )


def test_the_results_and_the_readme_say_the_same(study, tmp_path):
    """The table that lies beside the results is made of them, and the README's is the first part of it."""
    shutil.copytree(STUDY, tmp_path / "results")
    table, _ = study.report.write_report(tmp_path / "results", study.jobs.Sizes(), study.jobs.AGENTS, SHOWN, range(5))
    assert table.read_text() == (STUDY / "table.md").read_text()
    assert table.read_text().endswith("Missing: none.\n")
    summary = table.read_text().split("## Each agent in the way to play that ends best\n\n")[1].split("\n\n")[0]
    assert summary in both_pages()


@pytest.mark.parametrize("folder", ["ablations", "ablations_before"])
def test_the_ablations_and_the_readme_say_the_same(study, tmp_path, folder):
    shutil.copytree(RESULTS / folder, tmp_path / folder)
    table, _ = study.report.write_report(tmp_path / folder, study.jobs.Sizes(steps=3000), ("iris",), [BREAKOUT], (0, 1))
    assert table.read_text() == (RESULTS / folder / "table.md").read_text()
    rows = table.read_text().split("## Ablations in MinAtar-Breakout")[1].strip().split("\n\n")[0]
    assert rows in both_pages()


@pytest.mark.parametrize("folder, count", [("steps_10000", 20), ("ablations", 8), ("ablations_before", 21)])
def test_what_was_run_is_small_or_has_one_part_changed(study, folder, count):
    small = IRISConfig.small(**SMALL_BEFORE if folder == "ablations_before" else {}).to_dict()
    results = [json.loads(file.read_text()) for file in (RESULTS / folder).glob("iris__*.json")]
    assert len(results) == count
    later = {*SMALL_BEFORE, *CAME_WITH_THEM} if folder == "ablations_before" else set()
    for result in results:
        assert small.keys() - later <= result["settings"].keys() <= small.keys()
        part = result.get("ablation")
        changes = study.jobs.ABLATIONS[part] if part else {}
        different = {name: value for name, value in result["settings"].items() if value != small[name]}
        assert {name: value for name, value in different.items() if name not in THE_STUDYS_OWN} == changes


# What the pages say of the study in words


@pytest.fixture(scope="module")
def readme() -> str:
    """Both pages on one line."""
    return " ".join(both_pages().split())


@pytest.fixture
def middle(study):
    """A function from an agent, an environment, steps and a way to play to the interquartile mean and its interval."""

    def found(agent: str, environment: str, steps: int, way: str = T) -> tuple[float, float, float]:
        return study.report.interquartile_mean(means_at(results_of(agent, environment), steps, way))

    return found


@pytest.fixture
def behind(middle):
    """A function from an environment to the others that IRIS is not above at some steps, and at which."""

    def found(environment: str) -> dict[tuple[str, str], list[int]]:
        others = {
            (agent, way): [
                at for at in CHECKPOINTS if middle(agent, environment, at, way)[0] >= middle("iris", environment, at)[0]
            ]
            for agent, way in ways_to_play(environment)
        }
        return {other: steps for other, steps in others.items() if steps}

    return found


def ways_to_play(environment: str) -> list[tuple[str, str]]:
    """The model-free agents, each in each of its ways."""
    agents = ("ppo", "dqn", "recurrent_ppo")
    return [(agent, way) for agent in agents for way in results_of(agent, environment)[0]["points"][0]["evaluations"]]


@pytest.fixture
def apart(middle):
    """A function from an environment to the steps at which IRIS's interval lies above all others."""

    def found(environment: str) -> list[int]:
        return [
            at
            for at in CHECKPOINTS
            if middle("iris", environment, at)[1]
            > max(middle(agent, environment, at, way)[2] for agent, way in ways_to_play(environment))
        ]

    return found


def test_how_long_each_takes_to_get_as_far(readme):
    table = (STUDY / "table.md").read_text().split("## Environment steps until")[1].split("\n\n")[1]
    assert table in both_pages()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")][-4:] for line in table.splitlines()[2:]]
    medians = [(agent, float("inf") if ">" in steps else int(steps.replace(",", ""))) for agent, _, steps, _ in rows]
    for (_, iris), *others in zip(*[iter(medians)] * 4, strict=True):
        assert all(steps > iris for _, steps in others)
    assert "By the median over seeds IRIS is there first in each of them" in readme
    assert dict(medians[-4:])["IRIS"] == 10000 and dict(medians[-4:])["PPO"] == 75000
    assert "in Breakout after 10,000 steps where PPO takes 75,000" in readme
    assert [row[3].count(">") for row in rows if row[0] == "IRIS"] == [0, 1, 2, 2]
    assert "so in all but Empty-5x5 one or two of them are not there within 10,000" in readme


def test_how_long_the_longer_runs_went_on(study, readme):
    def lost(agent: str, environment: str) -> list[dict]:
        """The runs that were not as good as IRIS's mean after 10,000 in any evaluation."""
        goal = study.report.final_mean(results_of("iris", environment))
        runs = results_of(f"{agent}__longer", environment)
        return [run for run in runs if study.jobs.steps_until(run["points"], goal) is None]

    longer = {
        (agent, environment): len(runs)
        for agent in ("ppo", "dqn", "recurrent_ppo")
        for environment in SHOWN
        if (runs := results_of(f"{agent}__longer", environment))
    }
    others = [("dqn", EMPTY), ("recurrent_ppo", RANDOM), ("recurrent_ppo", LAVA)]
    assert longer == dict.fromkeys([*(("ppo", environment) for environment in SHOWN), *others], 5)
    assert (
        "PPO's runs here went on until they were there, to 100,000 at most, RecurrentPPO's in Empty-Random-6x6 and "
        "LavaGapS5 and DQN's in Empty-5x5 to 30,000 at most, all others to 10,000" in readme
    )
    assert "PPO's greedy actions are in each seed in the end" in readme
    for agent, environment in longer:
        assert all(run["points"][-1]["env_steps"] == run["longest"] for run in lost(agent, environment))
    runs = [run for environment in SHOWN for run in results_of("ppo__longer", environment)]
    goals = {environment: study.report.final_mean(results_of("iris", environment)) for environment in SHOWN}
    for run in runs:
        greedy = [point["evaluations"]["greedy"]["mean"] for point in run["points"]]
        assert max(greedy) > goals[run["environment"]] - 1e-4
    seconds = [run["points"][-1]["cpu_seconds"] for run in runs]
    assert f"after {min(seconds):.0f} to {max(seconds):.0f} CPU seconds: by CPU time PPO is there first" in readme
    for environment in SHOWN:
        iris = [
            point["cpu_seconds"]
            for run in results_of("iris", environment)
            for point in run["points"]
            if point["env_steps"] == study.jobs.steps_until(run["points"], goals[environment])
        ]
        ppo = [run["points"][-1]["cpu_seconds"] for run in runs if run["environment"] == environment]
        assert max(ppo) < min(iris)
    assert (
        "Of RecurrentPPO's seeds two of five are there within 30,000 in LavaGapS5; the others have not got beyond "
        "0.179" in readme
    )
    assert "DQN's three seeds that are not there in Empty-5x5 have 0.206 at most from 15,000 to 30,000" in readme
    for agent, environment, since, most in (("recurrent_ppo", LAVA, 0, "0.179"), ("dqn", EMPTY, 15000, "0.206")):
        points = [run["points"] for run in lost(agent, environment)]
        assert [run[-1]["env_steps"] for run in points] == [30000] * 3
        later = [point for run in points for point in run if point["env_steps"] >= since]
        assert f"{max(played['mean'] for point in later for played in point['evaluations'].values()):.3f}" == most


def test_in_the_smallest_room_all_come_to_the_most_that_can_be_had(behind, middle, readme):
    assert "all five seeds of IRIS solve every game from 1,000 steps on" in readme
    results = results_of("iris", EMPTY)
    assert all(figures_at(results, at, T, "solved") == [1] * 5 for at in CHECKPOINTS)
    means, seconds = means_at(results, 1000, T), [result["points"][0]["cpu_seconds"] for result in results]
    assert (
        f"then they are at {min(means):.3f} to {max(means):.3f}, each after less than five minutes of one core "
        f"({min(seconds):.0f} to {max(seconds):.0f} CPU seconds)" in readme
    )
    means, seconds = means_at(results, 5000, T), [result["points"][4]["cpu_seconds"] for result in results]
    assert f"and after 5,000 at 0.955 ({min(seconds):.0f} to {max(seconds):.0f})" in readme
    assert {f"{value:.3f}" for value in means} == {"0.955"}
    assert "At 10,000 one takes 6.5 steps on average instead of 5 (0.941)" in readme
    assert f"{min(means_at(results, 10000, T)):.3f}" == "0.941"
    assert [f"{length:.1f}" for length in sorted(figures_at(results, 10000, T, "length"))[-2:]] == ["5.1", "6.5"]
    assert (
        "From 3,000 on the greedy actions of PPO and RecurrentPPO are level with it, or ahead by 0.001 at most"
        in readme
    )
    assert behind(EMPTY) == {
        ("ppo", "greedy"): [3000, 4000, 5000, 7000, 10000],
        ("recurrent_ppo", "greedy"): [3000, 4000, 5000, 10000],
    }
    ahead = [
        middle(agent, EMPTY, at, way)[0] - middle("iris", EMPTY, at)[0]
        for agent, way in behind(EMPTY)
        for at in CHECKPOINTS
    ]
    assert max(ahead) < 0.0011
    assert "but for RecurrentPPO's at 7,000, where those of two of five seeds never reach the goal" in readme
    assert "Elsewhere at most one seed's do not" in readme
    never = {
        (agent, at): means_at(results_of(agent, EMPTY), at, "greedy").count(0)
        for agent in ("ppo", "recurrent_ppo")
        for at in CHECKPOINTS[2:]
    }
    assert never.pop(("recurrent_ppo", 7000)) == 2 and max(never.values()) == 1
    assert (
        "PPO that learned in IRIS's dream alone takes the shortest way in the real room of Empty-5x5 in all five seeds"
        in readme
    )
    for result in results_of("dream_ppo", EMPTY):
        assert [round(played["length"]) for played in result["points"][-1]["evaluations"].values()] == [5] * 3


def test_the_readmes_ratio_of_cpu_time_is_that_of_runs_on_one_kind_of_processor(readme):
    """PPO's longer runs are of a Zen 5; in Empty-5x5, where they end early, its others are, too."""

    def seconds(result: dict) -> list[float]:
        return [point["cpu_seconds"] for point in result["points"] if point["env_steps"] == 10000]

    ratios = []
    for environment in SHOWN:
        others = results_of("ppo" if environment == EMPTY else "ppo__longer", environment)
        ppo = mean(taken for result in others for taken in seconds(result))
        runs = [result for result in results_of("iris", environment) if result["processor"].endswith(ZEN_5)]
        ratios += [taken / ppo for result in runs for taken in seconds(result)]
    assert len(ratios) == 17
    assert f"IRIS takes {min(ratios):.0f} to {max(ratios):.0f} times PPO's CPU time" in readme


def test_in_the_other_empty_room_it_is_above_all_others(behind, apart, middle, readme):
    assert "In **Empty-Random-6x6**, which begins somewhere else each time, IRIS is above the others at each" in readme
    assert "IRIS is above the others at each number of steps, most at the first ones" in readme
    assert behind(RANDOM) == {}
    iris, ppo = (results_of(agent, RANDOM) for agent in ("iris", "ppo"))
    assert "after 1,000 one seed is at 0.21 and the others solve at least 92 % of the games" in readme
    assert f"{min(means_at(iris, 1000, T)):.2f}" == "0.21"
    assert sorted(figures_at(iris, 1000, T, "solved"))[1] == 0.92
    assert "from 2,000 on all solve every one" in readme
    assert all(figures_at(iris, at, T, "solved") == [1] * 5 for at in CHECKPOINTS[1:])
    assert (
        "From 4,000 on PPO's sampled actions, at either temperature, solve all of them as well, at 10,000 in "
        "5.1 to 11.8 steps on average where IRIS takes 4.5 to 5.2; its greedy ones do not" in readme
    )
    for way in ("sampled", T):
        assert all(min(figures_at(ppo, at, way, "solved")) == 1 for at in (4000, 5000, 7000, 10000))
    lengths = [length for way in ("sampled", T) for length in figures_at(ppo, 10000, way, "length")]
    bounds = [*sorted(lengths)[:: len(lengths) - 1], *sorted(figures_at(iris, 10000, T, "length"))[::4]]
    assert [f"{length:.1f}" for length in bounds] == ["5.1", "11.8", "4.5", "5.2"]
    assert min(figures_at(ppo, 10000, "greedy", "solved")) < 0.5
    assert "RecurrentPPO is within 0.002 of IRIS at the end" in readme
    theirs = [middle("recurrent_ppo", RANDOM, 10000, way)[0] for way in ("sampled", T, "greedy")]
    assert 0.001 < middle("iris", RANDOM, 10000)[0] - max(theirs) < 0.002


def test_in_lava_gap_it_is_above_the_others_and_all_seeds_solve_every_game(behind, apart, readme):
    assert "In **LavaGapS5**, where lava ends an episode, it is above them, too" in readme
    assert "after 3,000 steps three of five seeds solve every game, from 5,000 on all five" in readme
    assert "From 3,000 on its interval lies above all others" in readme
    assert behind(LAVA) == {}
    solved = [figures_at(results_of("iris", LAVA), at, T, "solved").count(1) for at in (3000, 5000, 7000, 10000)]
    assert solved == [3, 5, 5, 5]


def test_in_breakout_it_is_above_the_others_and_past_three_bricks(behind, apart, middle, readme):
    assert (
        "In **Breakout**, without sticky actions and with the bricks of a game as its return, its mean is above"
        in readme
    )
    assert behind(BREAKOUT) == {} and apart(BREAKOUT) == [1000]
    assert "the intervals overlap at all but 1,000 steps" in readme
    nearest = middle("ppo", BREAKOUT, 5000, "greedy")[0], middle("iris", BREAKOUT, 5000)[0]
    assert "by least at 5,000, where PPO's greedy actions come to {:.2f} and IRIS to {:.2f}".format(*nearest) in readme
    others = [(agent, at, way) for at in CHECKPOINTS for agent, way in ways_to_play(BREAKOUT)]
    ratios = {
        other: middle(other[0], BREAKOUT, *other[1:])[0] / middle("iris", BREAKOUT, other[1])[0] for other in others
    }
    assert max(ratios, key=ratios.__getitem__) == ("ppo", 5000, "greedy")
    ends = sorted(means_at(results_of("iris", BREAKOUT), 10000, T))
    assert f"In the end its seeds are at {ends[0]:.1f} to {ends[-1]:.1f} bricks" in readme


def test_where_it_is_above_all_others(behind, apart, readme):
    assert (
        "So IRIS's mean is above every model-free agent's at each of the seven numbers of steps in three of the"
        in readme
    )
    assert [environment for environment in SHOWN if not behind(environment)] == [RANDOM, LAVA, BREAKOUT]
    assert (
        "The intervals are apart in LavaGapS5 from 3,000 on, in Empty-Random-6x6 at three of the seven, and in "
        "Breakout at 1,000 alone" in readme
    )
    assert apart(LAVA) == [3000, 4000, 5000, 7000, 10000] and len(apart(RANDOM)) == 3 and apart(BREAKOUT) == [1000]
    assert "In Empty-5x5 IRIS is above them at 1,000 and 2,000; after that others come to the most" in readme
    assert min(min(steps) for steps in behind(EMPTY).values()) == 3000


def ablated(name: str | None, folder: str = "ablations") -> list[dict]:
    """The runs of an ablation, or of the preset as it is."""
    what = f"__{name.replace(' ', '-')}" if name else ""
    files = sorted((RESULTS / folder).glob(f"iris{what}__MinAtar-Breakout__*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_what_an_ablation_changes_is_as_the_readme_says(study, readme):
    def means(name: str | None, steps: int = 3000) -> list[float]:
        return means_at(ablated(name), steps, T)

    def ahead(name: str, steps: int) -> list[bool]:
        """Of `small`, by seed."""
        return [one > other for one, other in zip(means(name, steps), means(None, steps), strict=True)]

    small = means(None)
    assert f"the two of `small` lie {max(small) - min(small):.1f} bricks apart" in readme
    assert (
        "Nothing is imitated before 1,000 steps; at 2,000 both seeds are behind without imitation, at 3,000 one"
        in readme
    )
    assert means("no imitation", 1000) == means(None, 1000)
    assert ahead("no imitation", 2000) == [False, False] and sorted(ahead("no imitation", 3000)) == [False, True]
    assert "With AdamW instead of Muon one is behind at 3,000 and one ahead" in readme
    assert sorted(ahead("AdamW", 3000)) == [False, True]
    faster = 1 - cpu_seconds(ablated("one pass")) / cpu_seconds(ablated(None))
    assert (
        f"One pass on each dream is level with three until then, for {100 * faster:.0f} % less CPU time, and ahead "
        "after 1,000" in readme
    )
    assert abs(mean(means("one pass")) - mean(small)) < 0.2 and ahead("one pass", 1000) == [True, True]
    done = {
        result.get("ablation")
        for file in RESULTS.glob("ablations*/iris__*.json")
        for result in [json.loads(file.read_text())]
    }
    assert set(study.jobs.ABLATIONS) - done == {
        "learning behind ends",
        "episodes drawn uniformly",
        "random heads",
        "no feature norm",
        "no novelty",
        "no hard examples",
        "dreams from anywhere",
        "not orthogonal",
        "first frames learned",
    }


def test_what_an_earlier_ablation_changed_is_as_the_readme_says(readme):
    def runs(name: str | None) -> list[dict]:
        return ablated(name, "ablations_before")

    def means(name: str | None, steps: int = 3000) -> list[float]:
        return means_at(runs(name), steps, T)

    assert "A codebook that follows by gradient is far behind" in readme
    assert "and so is a world model that remembers two timesteps" in readme
    assert max(means("gradient codebook") + means("context of 2")) < 1.5
    assert "learning at its full rate left one of two seeds below one brick" in readme
    assert [value < 1 for value in means("tokenizer never settles")] == [True, False]
    assert "one that freezes after its first epochs loses nothing within 3,000 steps" in readme
    assert mean(means("tokenizer freezes")) > mean(means(None)) - 0.05
    assert "Without the reset of dead codes, and without burn-in, one of two seeds took longer to come as far" in readme
    for name in ("no dead-code reset", "no burn-in"):
        behind = [one < other - 0.5 for one, other in zip(means(name, 2000), means(None, 2000), strict=True)]
        assert sorted(behind) == [False, True] and mean(means(name)) > 2.8
    assert "with dreams of 5 steps it stays behind" in readme
    assert max(means("horizon of 5")) < min(means(None))
    assert (
        "A context of 10 or dreams of 20 gain nothing in the end, where all stand at three bricks, for a fifth and two "
        "fifths more CPU time" in readme
    )
    for name, dearer in (("context of 10", 1.2), ("horizon of 20", 1.4)):
        assert abs(mean(means(name)) - mean(means(None))) < 0.05
        assert round(cpu_seconds(runs(name)) / cpu_seconds(runs(None)), 1) == dearer


def test_a_zen_4_and_a_zen_5_train_alike(readme):
    assert (
        "Breakout's seeds 0 and 1, run to 3,000 steps on a Zen 5 for the ablations below, came out as on the Zen 4 to "
        "the last digit" in readme
    )
    longer = {result["seed"]: result for result in results_of("iris", BREAKOUT)}
    for run in ablated(None):
        assert (run["processor"][-len(ZEN_5) :], longer[run["seed"]]["processor"][-len(ZEN_4) :]) == (ZEN_5, ZEN_4)
        for one, other in zip(run["points"], longer[run["seed"]]["points"], strict=False):
            assert one["evaluations"] == other["evaluations"] and one["metrics"] == other["metrics"]


def test_cached_frames_change_nothing_but_the_time(readme):
    assert "with `cache_frames` off every evaluation of one seed came out the same to the last digit" in readme
    assert "the cache saved a tenth of the time" in readme
    (computed,) = ablated("frames not cached", "ablations_before")
    (cached,) = (run for run in ablated(None, "ablations_before") if run["seed"] == computed["seed"])
    for one, other in zip(cached["points"], computed["points"], strict=True):
        assert one["evaluations"] == other["evaluations"] and one["metrics"] == other["metrics"]
    assert round(1 - cpu_seconds([cached]) / cpu_seconds([computed]), 1) == 0.1


def test_ppo_in_the_dreams(study, readme):
    def finals(environment: str, way: str, name: str) -> list[float]:
        """After the last step, of the seeds 0 to 4."""
        return [result["points"][-1]["evaluations"][way][name] for result in results_of("dream_ppo", environment)]

    def own(environment: str, name: str) -> list[float]:
        return figures_at(results_of("iris", environment), 10000, T, name)

    def between(values: list[float]) -> str:
        return f"{min(values):.1f} to {max(values):.1f}"

    ways = ("sampled", T, "greedy")
    assert "In Empty-Random-6x6 every seed solves every game in each way to play" in readme
    assert all(finals(RANDOM, way, "solved") == [1] * 5 for way in ways)
    lengths = [length for way in ways for length in finals(RANDOM, way, "length")]
    assert between(lengths) == between(own(RANDOM, "length"))
    assert f"in {between(lengths)} steps on average, as IRIS's own actor does" in readme
    assert (
        "In LavaGapS5 four of five do at temperature 0.5" in readme and "the fifth solves 78 % of the games" in readme
    )
    assert sorted(finals(LAVA, T, "solved")) == [0.78, 1, 1, 1, 1]
    played = zip(finals(LAVA, T, "length"), finals(LAVA, T, "solved"), strict=True)
    lengths = [length for length, solved in played if solved == 1]
    assert f"in {between(lengths)} steps where IRIS's actor takes {between(own(LAVA, 'length'))}" in readme
    assert "Greedily three do; the others solve 61 and 78 %" in readme
    assert sorted(finals(LAVA, "greedy", "solved")) == [0.61, 0.78, 1, 1, 1]
    dreamt, lived = finals(BREAKOUT, "greedy", "mean"), own(BREAKOUT, "mean")
    fifth, *four = sorted(dreamt)
    assert (
        f"In Breakout greedy actions come to {four[0]:.2f} to {four[-1]:.2f} bricks in four of five seeds and to "
        f"{fifth:.2f} in the fifth, less than IRIS's own actor in each" in readme
    )
    assert all(one < other for one, other in zip(dreamt, lived, strict=True))
    (ppo, iris), (bricks, own_bricks) = (
        [study.report.final_mean(results_of(agent, environment)) for agent in ("dream_ppo", "iris")]
        for environment in (LAVA, BREAKOUT)
    )
    assert (
        f"nearly so in LavaGapS5 ({ppo:.3f} against {iris:.3f}), and in Breakout it comes to three quarters of that "
        f"({bricks:.2f} of {own_bricks:.2f})" in readme
    )
    assert 0.7 < bricks / own_bricks < 0.8


def test_which_runs_are_of_which_processor(readme):
    assert (
        "IRIS and PPO in its dream ran on a Zen 5, but for Breakout's seeds 0 to 2, which ran on a Zen 4 and took 1.3 "
        "times as long: the median is theirs" in readme
    )
    for agent in ("iris", "dream_ppo"):
        for environment in SHOWN:
            for result in results_of(agent, environment):
                older = environment == BREAKOUT and result["seed"] < 3
                assert result["processor"].endswith(ZEN_4 if older else ZEN_5)
    breakout = results_of("iris", BREAKOUT)
    assert f"{cpu_seconds(breakout[:3]) / cpu_seconds(breakout[3:]):.1f}" == "1.3"
    assert (
        "Of the longer runs PPO's are of a Zen 5, DQN's of a Zen 4, and so are RecurrentPPO's in LavaGapS5 and its "
        "seeds 1 and 4 in Empty-Random-6x6" in readme
    )
    longer = [
        result for file in STUDY.glob("*__longer__*.json") if "processor" in (result := json.loads(file.read_text()))
    ]
    assert len(longer) > 10  # the first ones did not say
    for result in longer:
        recurrent = result["agent"] == "recurrent_ppo"
        older = result["agent"] == "dqn" or recurrent and (result["environment"], result["seed"]) in ALSO_ON_A_ZEN_4
        assert result["processor"].endswith(ZEN_4 if older else ZEN_5)


def test_dqn_learns_little_in_minigrid(study, readme):
    assert "DQN's greedy actions solve Empty-5x5 in two of five seeds at 3,000 steps and in none at 10,000" in readme
    for at, expected in ((3000, [0, 0, 0, 1, 1]), (10000, [0] * 5)):
        assert sorted(figures_at(results_of("dqn", EMPTY), at, "greedy", "solved")) == expected
    assert (
        "In the other rooms it never gets beyond 0.335 (after 2,000 steps, in Empty-Random-6x6) and 0.154 (after "
        "4,000, in LavaGapS5), and in the end it stands still in nearly every game" in readme
    )
    for environment, best in ((RANDOM, ("0.335", 2000)), (LAVA, ("0.154", 4000))):
        results = results_of("dqn", environment)
        means = [
            (study.report.interquartile_mean(means_at(results, point["env_steps"], way))[0], point["env_steps"])
            for way in ("sampled", "greedy")
            for point in results[0]["points"]
        ]
        assert (f"{max(means)[0]:.3f}", max(means)[1]) == best
        for way in ("sampled", "greedy"):
            assert max(figures_at(results, 10000, way, "solved")) < 0.2
            assert min(figures_at(results, 10000, way, "cut")) > 0.8


def test_what_the_readme_says_of_pongs_world_model_is_so(readme):
    point = json.loads((EXAMPLES / "study_results" / "pong" / "curve.json").read_text())["points"][-1]
    updates, minutes = point["updates"], point["cpu_seconds"] / 60
    right, kept = 100 * point["token_accuracy"], 100 * point["token_accuracy_last_kept"]
    assert (
        f"after {point['env_steps']:,}, that is {updates['autoencoder']:,} updates of the autoencoder, "
        f"{updates['world_model']:,} of the world model and {minutes:.0f} minutes of CPU time (one seed on a Zen 5, "
        f"four games a report): after real frames {right:.0f} % of the next frame's tokens are right, where "
        f"{kept:.0f} % stay as they are, and {100 * point['reward_recall']['negative']:.0f} % of the lost points are "
        "foreseen"
    ) in readme
    dreamt, still = (
        [f"{100 * point[f'token_accuracy_{name}'][steps]:.0f}" for steps in ("1", "20")]
        for name in ("dream", "start_kept")
    )
    assert (
        f"{dreamt[0]} % of the tokens are right at one step and {dreamt[1]} % at twenty, where keeping the frame gets "
        f"{still[0]} and {still[1]} %"
    ) in readme
    assert point["rewards"]["positive"] == 0 and "are foreseen; none were won" in readme
    assert (
        "In pixels the dream is ahead of a picture that stands still at five steps and at ten, and behind it at one "
        "and at twenty" in readme
    )
    errors = point["pixel_error_dream"], point["pixel_error_start_kept"]
    assert [steps for steps in errors[0] if errors[0][steps] < errors[1][steps]] == ["5", "10"]


def test_pongs_world_model_is_that_of_small_as_it_is():
    config = json.loads((RESULTS / "pong" / "curve.json").read_text())["config"]
    assert {name for name, value in IRISConfig.small().to_dict().items() if config[name] != value} == {"eval_interval"}
