"""The results that lie in the repository, and what README and the page beside them say: each table, figure and word."""

import importlib
import json
import shutil
import types
from pathlib import Path
from statistics import mean, median

import pytest

from iris_gym import IRISConfig
from iris_gym.config import SMALL

EXAMPLES = Path(__file__).parents[1] / "examples"

RESULTS = EXAMPLES / "study_results"
T = "temperature 0.5"  # how IRIS plays
EMPTY, RANDOM, LAVA, BREAKOUT = (
    "MiniGrid-Empty-5x5",
    "MiniGrid-Empty-Random-6x6",
    "MiniGrid-LavaGapS5",
    "MinAtar-Breakout",
)
SHOWN = (EMPTY, RANDOM, LAVA, BREAKOUT)
FOLDERS = {
    "steps_3000": (3_000, None, (EMPTY,), 5),
    "dreams": (10_000, ("iris", "dream_ppo"), (RANDOM, LAVA, BREAKOUT), 5),
    "steps_10000": (10_000, None, SHOWN, 5),
}
"""The steps, agents, environments and seeds of which results lie in a folder."""
THE_STUDYS_OWN = {"env", "atari_100k", "max_env_steps", "total_epochs", "eval_interval"}
"""Fields that runs of the study have otherwise than `small`."""
MORE_FIELDS = dict(
    orthogonal_init=True,
    actor_critic_passes=3,
    imitation_share=0.375,
    imitated_episodes=0.05,
    transformer_optimizer="muon",
    transformer_learning_rate=3e-3,
    learn_first_frames=False,
    collect_temperature=1.0,
    actor_critic_first_updates=300,
    actor_critic_updates_per_epoch=30,
    settled_autoencoder_updates=10,
    settled_autoencoder_factor=0.05,
)
"""What the runs in the folder `more_fields` have otherwise than `small`."""
ON_THE_PAGES = ("dreams", "steps_10000")
"""Folders whose first table is shown."""


def both_pages() -> str:
    """The README and the page of the study."""
    return "\n".join(file.read_text() for file in (EXAMPLES.parent / "README.md", RESULTS / "README.md"))


def results_of(steps: int, agent: str, environment: str, folder: str | None = None) -> list[dict]:
    files = sorted((RESULTS / (folder or f"steps_{steps}")).glob(f"{agent}__{environment}__*.json"))
    return [json.loads(file.read_text()) for file in files]


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
    """The tables that lie beside the results are made of them, and the README's is the first of one of them."""
    small, read, pages = IRISConfig.small().to_dict(), 0, both_pages()
    compared = small.keys() - THE_STUDYS_OWN
    for name, (steps, agents, environments, seeds) in FOLDERS.items():
        shutil.copytree(RESULTS / name, tmp_path / name)
        sizes = study.jobs.Sizes(steps=steps)
        table, _ = study.report.write_report(
            tmp_path / name, sizes, agents or study.jobs.AGENTS, environments, range(seeds)
        )
        assert table.read_text() == (RESULTS / name / "table.md").read_text()
        summary = table.read_text().split("## Each agent in the way to play that ends best\n\n")[1].split("\n\n")[0]
        assert name not in ON_THE_PAGES or summary in pages
        for environment in environments:
            for result in results_of(steps, "iris", environment, name):
                settings = result["settings"]  # a field that came later left things as they were
                assert [name for name in compared & settings.keys() if settings[name] != small[name]] == []
                assert settings.keys() >= SMALL.keys()
                read += 1
    assert all(pages.count(f"| {environment} | random |") == 1 for environment in SHOWN)
    assert read == len([*RESULTS.glob("steps_*/iris__*.json"), *RESULTS.glob("dreams/iris__*.json")]) == 40


def test_the_ablations_and_the_readme_say_the_same(study, tmp_path):
    shutil.copytree(RESULTS / "ablations", tmp_path / "ablations")
    table, _ = study.report.write_report(
        tmp_path / "ablations", study.jobs.Sizes(steps=3000), ("iris",), [BREAKOUT], (0, 1)
    )
    assert table.read_text() == (RESULTS / "ablations" / "table.md").read_text()
    rows = table.read_text().split("## Ablations in MinAtar-Breakout")[1].strip().split("\n\n")[0]
    assert rows in both_pages()


def test_dqn_tells_how_much_slower_the_other_machine_is(readme):
    assert "on an AMD EPYC without bf16, where DQN takes 1.8 times as long" in readme
    here = [
        point["cpu_seconds"]
        for environment in (RANDOM, LAVA)
        for result in results_of(10000, "dqn", environment)
        for point in result["points"]
        if point["env_steps"] == 3000
    ]
    assert round(cpu_seconds(results_of(3000, "dqn", EMPTY)) / median(here), 1) == 1.8


def test_the_readmes_ratio_of_cpu_time_is_that_of_the_files(readme):
    ratios = []
    for environment in SHOWN:
        ppo = cpu_seconds(results_of(10000, "ppo", environment))
        ratios += [cpu_seconds([result]) / ppo for result in results_of(10000, "iris", environment)]
    assert f"IRIS takes {min(ratios):.0f} to {max(ratios):.0f} times PPO's CPU time" in readme


# What the pages say of the study in words


@pytest.fixture(scope="module")
def readme() -> str:
    """Both pages on one line."""
    return " ".join(both_pages().split())


@pytest.fixture
def behind(study):
    """A function from steps and an environment to the others that IRIS is not above at some steps, and at which."""

    def curve(last: int, agent: str, environment: str, way: str, folder: str | None = None) -> dict[int, float]:
        results = results_of(last, agent, environment, folder)
        steps = [point["env_steps"] for point in results[0]["points"]]
        return {at: study.report.interquartile_mean(means_at(results, at, way))[0] for at in steps}

    def found(last: int, environment: str, folder: str | None = None) -> dict[tuple[str, str], list[int]]:
        """With a folder the runs of IRIS are those there."""
        ours, others = curve(last, "iris", environment, T, folder), {}
        for agent in ("ppo", "dqn", "recurrent_ppo"):
            results = results_of(last, agent, environment)
            for way in results[0]["points"][0]["evaluations"] if results else ():
                theirs = curve(last, agent, environment, way)
                if steps := [at for at, value in theirs.items() if value >= ours[at]]:
                    others[agent, way] = steps
        return others

    return found


def test_how_long_each_takes_to_get_as_far(readme):
    table = (RESULTS / "steps_10000/table.md").read_text().split("## Environment steps until")[1].split("\n\n")[1]
    assert table in both_pages()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")][-4:] for line in table.splitlines()[2:]]
    medians = [(agent, float("inf") if ">" in steps else int(steps.replace(",", ""))) for agent, _, steps, _ in rows]
    for environment, room in enumerate((True, True, True, False)):
        (_, iris), *others = medians[4 * environment : 4 * environment + 4]
        ahead = [agent for agent, steps in others if steps < iris]
        assert ahead == ([] if room else ["PPO", "RecurrentPPO"]) and (not room or iris not in dict(others).values())
    assert "IRIS is there first in the three rooms, and after PPO and RecurrentPPO in Breakout" in readme
    assert [row[3].count(">") for row in rows if row[0] == "IRIS"] == [1, 2, 1, 1]
    assert "But a seed or two of it are not there within 10,000 steps" in readme
    assert (
        "RecurrentPPO's in Empty-Random-6x6 and LavaGapS5 as well, and DQN's in Empty-5x5, but to 30,000 at most"
        in readme
    )
    recurrent = [
        json.loads(file.read_text()) for file in (RESULTS / "steps_10000").glob("recurrent_ppo__longer__*.json")
    ]
    reached = {room: {run["seed"]: run["reached"] for run in recurrent if run["environment"] == room} for room in SHOWN}
    assert reached == {
        EMPTY: {},
        RANDOM: dict.fromkeys(range(5), True),
        LAVA: {0: False, 1: True, 2: False, 3: False, 4: True},
        BREAKOUT: {},
    }
    assert (
        "The first 10,000 steps are those above in Empty-5x5 alone, and in RecurrentPPO's seeds 0, 2, 3 and 4 of "
        "Empty-Random-6x6" in readme
    )
    same = set()
    for file in (RESULTS / "steps_10000").glob("*__longer__*.json"):
        runs = (json.loads(path.read_text()) for path in (file, file.with_name(file.name.replace("__longer", ""))))
        longer, plain = ([point["evaluations"] for point in run["points"]] for run in runs)
        if all(one == other for one, other in zip(longer, plain, strict=False)):
            same.add(tuple(file.stem.split("__longer__")))
    assert same == {(agent, f"{EMPTY}__{seed}") for agent in ("ppo", "dqn") for seed in range(5)} | {
        ("recurrent_ppo", f"{RANDOM}__{seed}") for seed in (0, 2, 3, 4)
    }
    assert (
        "Of RecurrentPPO's seeds two of five are there within 30,000 in LavaGapS5; the others have not got beyond "
        "0.179" in readme
    )
    lost = [run for run in recurrent if not run["reached"]]
    assert {run["points"][-1]["env_steps"] for run in lost} == {30000}
    best = [played["mean"] for run in lost for point in run["points"] for played in point["evaluations"].values()]
    assert f"{max(best):.3f}" == "0.179"
    files = sorted((RESULTS / "steps_10000").glob("dqn__longer__*.json"))
    lost = [run for file in files if not (run := json.loads(file.read_text()))["reached"]]
    assert [file.stem.split("__")[2:] for file in files] == [[EMPTY, f"{seed}"] for seed in range(5)]
    assert "DQN's three seeds that are not there in Empty-5x5 have 0.206 at most from 15,000 to 30,000" in readme
    later = [point for run in lost for point in run["points"] if point["env_steps"] > 10000]
    assert [run["points"][-1]["env_steps"] for run in lost] == [30000] * 3 and len(later) == 12
    assert f"{max(played['mean'] for point in later for played in point['evaluations'].values()):.3f}" == "0.206"
    processors = {json.loads(file.read_text())["processor"] for file in files}
    assert len(processors) == 1 and "AMD EPYC" in (named := processors.pop()) and named.endswith("25, model 17")
    assert "DQN's are of a Zen 4, and so are RecurrentPPO's in LavaGapS5" in readme
    assert "In Empty-Random-6x6 and LavaGapS5 DQN was not run for longer than 10,000 steps" in readme
    results = [json.loads(file.read_text()) for file in (RESULTS / "steps_10000").glob("ppo__longer__*.json")]
    lasts = [result["points"][-1] for result in results]
    assert all(
        last["evaluations"]["greedy"]["mean"] >= result["goal"] - 1e-4
        for last, result in zip(lasts, results, strict=True)
    )
    assert max(last["env_steps"] for last in lasts) == 30000
    assert "PPO's greedy actions are in each seed within 30,000" in readme
    seconds = [last["cpu_seconds"] for last in lasts]
    assert len(results) == 20 and f"after {min(seconds):.0f} to {max(seconds):.0f} CPU seconds" in readme


def test_in_the_smallest_room_all_come_to_the_most_that_can_be_had(behind, study, readme):
    def means(agent: str, way: str, at: int) -> float:
        return study.report.interquartile_mean(means_at(results_of(10000, agent, EMPTY), at, way))[0]

    assert "all five seeds of IRIS solve every game from 1,000 steps on" in readme
    results, checkpoints = results_of(10000, "iris", EMPTY), (1000, 2000, 3000, 4000, 5000, 7000, 10000)
    assert all(figures_at(results, at, T, "solved") == [1] * 5 for at in checkpoints)
    assert "in the end four take the shortest way, the fifth one step more" in readme
    assert [round(length) for length in sorted(figures_at(results, 10000, T, "length"))] == [5, 5, 5, 5, 6]
    assert (
        "From 3,000 on the greedy actions of PPO and RecurrentPPO are level with it, or ahead by 0.003 at most"
        in readme
    )
    assert behind(10000, EMPTY) == {
        ("ppo", "greedy"): [3000, 4000, 5000, 7000, 10000],
        ("recurrent_ppo", T): [5000],
        ("recurrent_ppo", "greedy"): [3000, 4000, 5000, 10000],
    }
    ahead = {
        (agent, way): max(means(agent, way, at) - means("iris", T, at) for at in checkpoints)
        for agent, way in behind(10000, EMPTY)
    }
    assert max(ahead.values()) < 0.0031 and f"{ahead['recurrent_ppo', T]:.3f}" == "0.002"
    assert "RecurrentPPO at temperature 0.5 is ahead by 0.002 at 5,000" in readme
    assert "but for RecurrentPPO's at 7,000, where those of two of five seeds never reach the goal" in readme
    assert "Elsewhere at most one seed's do not" in readme
    never = {
        (agent, at): means_at(results_of(10000, agent, EMPTY), at, "greedy").count(0)
        for agent in ("ppo", "recurrent_ppo")
        for at in checkpoints[2:]
    }
    assert never.pop(("recurrent_ppo", 7000)) == 2 and max(never.values()) == 1
    assert "PPO that learned in IRIS's dream alone takes the shortest way in the real room in all five seeds" in readme
    for result in results_of(10000, "dream_ppo", EMPTY):
        assert [round(played["length"]) for played in result["points"][-1]["evaluations"].values()] == [5] * 3


def test_what_the_smallest_room_takes(readme):
    means, seconds = (
        [point(result) for result in results_of(10000, "iris", EMPTY)]
        for point in (
            lambda result: means_at([result], 5000, T)[0],
            lambda result: next(point for point in result["points"] if point["env_steps"] == 5000)["cpu_seconds"],
        )
    )
    assert max(seconds) < 600
    assert (
        f"After 5,000 they are at {min(means):.3f} to {max(means):.3f}, each after less than ten minutes of one core "
        f"({min(seconds):.0f} to {max(seconds):.0f} CPU seconds)" in readme
    )
    first = [result["points"][0] for result in results_of(3000, "iris", EMPTY)]
    wall, cpu = ([point[clock] for point in first] for clock in ("seconds", "cpu_seconds"))
    assert (
        f"IRIS took {min(wall):.0f} to {max(wall):.0f} s for [1,000 steps of Empty-5x5]"
        "(steps_3000/table.md) on the Xeon, and "
        f"{min(cpu):.0f} to {max(cpu):.0f} CPU seconds" in readme
    )


def test_in_the_other_empty_room_it_is_above_all_others(behind, study, readme):
    assert "In **Empty-Random-6x6**, which begins somewhere else each time, IRIS is above the others at each" in readme
    assert "IRIS is above the others at each number of steps, most at the first ones" in readme
    assert "after 1,000 it solves at least 99 % of the games" in readme
    assert (
        "From 4,000 on PPO's sampled actions, at either temperature, solve all of them as well, at 10,000 in "
        "5.1 to 11.8 steps on average where IRIS takes 4.5 to 5.1; its greedy ones do not" in readme
    )
    assert behind(10000, RANDOM) == {}
    iris, ppo = (results_of(10000, agent, RANDOM) for agent in ("iris", "ppo"))
    assert min(figures_at(iris, 1000, T, "solved")) == 0.99
    for way in ("sampled", T):
        assert all(min(figures_at(ppo, at, way, "solved")) == 1 for at in (4000, 5000, 7000, 10000))
    lengths = [length for way in ("sampled", T) for length in figures_at(ppo, 10000, way, "length")]
    bounds = [*sorted(lengths)[:: len(lengths) - 1], *sorted(figures_at(iris, 10000, T, "length"))[::4]]
    assert [f"{length:.1f}" for length in bounds] == ["5.1", "11.8", "4.5", "5.1"]
    assert min(figures_at(ppo, 10000, "greedy", "solved")) < 0.5
    assert "RecurrentPPO is within 0.001 of IRIS at the end" in readme
    recurrent = results_of(10000, "recurrent_ppo", RANDOM)
    theirs = [study.report.interquartile_mean(means_at(recurrent, 10000, way))[0] for way in ("sampled", T, "greedy")]
    assert 0 < study.report.interquartile_mean(means_at(iris, 10000, T))[0] - max(theirs) < 0.001


def test_in_lava_gap_it_is_above_the_others_and_all_seeds_solve_every_game_once(behind, study, readme):
    assert "In **LavaGapS5**, where lava ends an episode, it is above them, too" in readme
    assert "after 3,000 steps two of five seeds solve every game, after 7,000 all five" in readme
    assert "At 10,000 one has lost a layout again, and is at 0.528" in readme
    assert "Its interval lies above all others at 5,000 and 7,000; before and after they overlap" in readme
    assert behind(10000, LAVA) == {}
    results = results_of(10000, "iris", LAVA)
    apart = [
        at
        for at in (1000, 2000, 3000, 4000, 5000, 7000, 10000)
        if study.report.interquartile_mean(means_at(results, at, T))[1]
        > max(
            study.report.interquartile_mean(means_at(others, at, way))[2]
            for others in (results_of(10000, agent, LAVA) for agent in ("ppo", "dqn", "recurrent_ppo"))
            for way in others[0]["points"][0]["evaluations"]
        )
    ]
    assert apart == [5000, 7000]
    solving = {
        point["env_steps"]: sum(result["points"][index]["evaluations"][T]["solved"] == 1 for result in results)
        for index, point in enumerate(results[0]["points"])
    }
    assert [solving[steps] for steps in (3000, 7000, 10000)] == [2, 5, 4]
    assert round(min(means_at(results, 10000, T)), 3) == 0.528


def test_in_breakout_it_comes_to_three_bricks_and_is_overtaken(behind, study, readme):
    assert "all five come to three bricks within 5,000 steps" in readme
    assert "goes past them to 3.41 at 7,000 steps and is back at 3.16 at 10,000" in readme
    assert "PPO's greedy actions are ahead at 2,000 and from 4,000 on, those at temperature 0.5 from 4,000 on" in readme
    assert "(at 1,000 they are level), its sampled ones at 10,000, and DQN from 7,000 on" in readme
    assert behind(10000, BREAKOUT) == {
        ("ppo", "greedy"): [2000, 4000, 5000, 7000, 10000],
        ("ppo", T): [1000, 4000, 5000, 7000, 10000],
        ("ppo", "sampled"): [10000],
        ("dqn", "sampled"): [7000, 10000],
        ("dqn", "greedy"): [7000, 10000],
        ("recurrent_ppo", "sampled"): [10000],
        ("recurrent_ppo", T): [1000, 10000],
        ("recurrent_ppo", "greedy"): [2000, 4000, 10000],
    }
    assert "RecurrentPPO is ahead at 10,000 in each way to play, and before by 0.11 at most" in readme
    for way, at, ahead in ((T, 1000, "0.02"), ("greedy", 2000, "0.11"), ("greedy", 4000, "0.00")):
        theirs, ours = (
            study.report.interquartile_mean(means_at(results_of(10000, agent, BREAKOUT), at, played))[0]
            for agent, played in (("recurrent_ppo", way), ("iris", T))
        )
        assert f"{theirs - ours:.2f}" == ahead
    results = results_of(10000, "iris", BREAKOUT)
    assert all(max(means_at([result], at, T)[0] for at in (1000, 2000, 3000, 4000, 5000)) >= 3 for result in results)
    means = [study.report.interquartile_mean(means_at(results, at, T))[0] for at in (7000, 10000)]
    assert [f"{value:.2f}" for value in means] == ["3.41", "3.16"]


def test_with_more_fields_it_is_above_all_others_in_three_environments(behind, study, readme, tmp_path):
    shutil.copytree(RESULTS / "more_fields", tmp_path / "more_fields")
    environments = (RANDOM, LAVA, BREAKOUT)
    table, _ = study.report.write_report(
        tmp_path / "more_fields", study.jobs.Sizes(), ("iris", "dream_ppo"), environments, range(5)
    )
    assert table.read_text() == (RESULTS / "more_fields" / "table.md").read_text()
    assert table.read_text().endswith("Missing: none.\n")
    assert table.read_text().split("ends best\n\n")[1].split("\n\n")[0] in both_pages()
    small = IRISConfig.small().to_dict()
    for environment in environments:
        results = results_of(10000, "iris", environment, "more_fields")
        assert len(results) == 5
        for result in results:
            changed = {name: value for name, value in result["settings"].items() if value != small[name]}
            assert {name: value for name, value in changed.items() if name not in THE_STUDYS_OWN} == MORE_FIELDS
            older = environment == BREAKOUT and result["seed"] < 3
            assert result["processor"].endswith("cpu family 25, model 17" if older else "cpu family 26, model 2")
    assert "Breakout's seeds 0 to 2 on a Zen 4, all others on a Zen 5" in readme
    assert all(f"`{name}={value!r}`".replace("'", '"') in readme for name, value in MORE_FIELDS.items())
    assert (
        "In the other three environments they carry it above every model-free agent at each number of steps" in readme
    )
    assert all(behind(10000, environment, "more_fields") == {} for environment in environments)
    assert "in Breakout past three bricks" in readme
    assert min(means_at(results_of(10000, "iris", BREAKOUT, "more_fields"), 10000, T)) > 5
    assert "In its dream of Breakout PPO comes past three bricks, too, in four of five seeds" in readme
    dreamt = results_of(10000, "dream_ppo", BREAKOUT, "more_fields")
    finals = [result["points"][-1]["evaluations"]["greedy"]["mean"] for result in dreamt]
    assert sorted(value > 3 for value in finals) == [False] + [True] * 4


def test_why_it_stops_at_three_bricks(readme):
    found = {name: json.loads((RESULTS / f"where_it_stops/{name}.json").read_text()) for name in ("small", "frozen")}
    went_on, expected = {}, {}
    for name, changes in (("small", {}), ("frozen", {"settled_autoencoder_updates": 0})):
        config, small = IRISConfig.from_dict(found[name]["config"]).to_dict(), IRISConfig.small(**changes).to_dict()
        assert {key for key in small if config[key] != small[key]} == THE_STUDYS_OWN
        run, settings = found[name]["run"], found[name]["settings"]
        assert (run["seed"], run["env_steps"]) == (1, 5000) and "BreakoutWithoutStickyActions" in run["env"]
        rows = found[name][T]
        assert [row["return"] for row in rows] == [0, 1, 2, 3]
        assert [row["ended"] for row in rows] == [0, 0, 0, settings["games"]] == [0, 0, 0, 100]
        assert rows[3]["to_come"] == 0
        expected[name] = f"{rows[3]['value']:.1f}"
        counts = [(int(level), part[level]) for part in found[name]["training"] for level in part if level != "from"]
        went_on[name] = [sum(count for level, count in counts if level >= least) for least in (3, 4)]
        assert found[name]["processor"].endswith("cpu family 25, model 17")
    assert "trained anew on a Zen 4" in readme
    right, error = ([row[name] for row in found["small"][T]] for name in ("next_right", "squared_error"))
    frozen = found["frozen"][T][3]
    assert (
        f"predicts {100 * min(right[:3]):.0f} to {100 * max(right[:3]):.0f} % of the next frames wholly, after it "
        f"{100 * right[3]:.0f} %, and the tokenizer's squared error is two to four times as large" in readme
    )
    assert [round(error[3] / before) for before in (max(error[:3]), min(error[:3]))] == [2, 4]
    assert f"it expects a return of {expected['small']} where none comes" in readme
    assert "{} games of its training came there, and {} went on".format(*went_on["small"]) in readme
    assert frozen["squared_error"] > error[3]
    others = [json.loads((RESULTS / f"where_it_stops/small_seed_{seed}.json").read_text()) for seed in (0, 2)]
    for seed, other in zip((0, 2), others, strict=True):
        assert other["run"] == found["small"]["run"] | {"seed": seed}
        assert all(other[name] == found["small"][name] for name in ("config", "settings", "processor"))
        assert all(row["next_right"] > other[T][3]["next_right"] for row in other[T][:3])
    predicted, value, came = ([other[T][3][name] for other in others] for name in ("next_right", "value", "to_come"))
    assert (
        f"after the third brick {100 * predicted[0]:.0f} and {100 * predicted[1]:.0f} % of the frames are predicted, "
        f"before it always more, and {value[0]:.1f} and {value[1]:.1f} are expected where 0.0 comes" in readme
    )
    assert [f"{each:.1f}" for each in came] == ["0.0", "0.0"]
    assert (
        f"{100 * frozen['next_right']:.0f} % are predicted, of worse pictures, and {went_on['frozen'][1]} of "
        f"{went_on['frozen'][0]} training games went on; but that agent expects even {expected['frozen']} there"
        in readme
    )


@pytest.fixture
def ablated():
    """A function from an ablation's name, or None for the preset as it is, to its runs."""

    def runs(name: str | None) -> list[dict]:
        what = f"__{name.replace(' ', '-')}" if name else ""
        files = sorted((RESULTS / "ablations").glob(f"iris{what}__MinAtar-Breakout__*.json"))
        return [json.loads(file.read_text()) for file in files]

    return runs


def test_what_an_ablation_changes_is_as_the_readme_says(study, ablated, readme):
    def means(name: str | None, steps: int = 3000) -> list[float]:
        return means_at(ablated(name), steps, T)

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
        assert round(cpu_seconds(ablated(name)) / cpu_seconds(ablated(None)), 1) == dearer
    done = [name for name in study.jobs.ABLATIONS if ablated(name)]
    assert "the command goes on to seven more parts" in readme and len(study.jobs.ABLATIONS) - len(done) == 7


def test_the_same_training_was_evaluated_with_other_streams(ablated, readme):
    assert "evaluated anew, in the ablations below, the same training has means that differ by up to 0.08" in readme
    study = {result["seed"]: result["points"] for result in results_of(10000, "iris", BREAKOUT)}
    differences = []
    for run in ablated(None):
        for one, other in zip(run["points"], study[run["seed"]], strict=False):
            assert one["env_steps"] == other["env_steps"] and one["metrics"] == other["metrics"]
            differences.append(abs(one["evaluations"][T]["mean"] - other["evaluations"][T]["mean"]))
    assert round(max(differences), 2) == 0.08


def test_cached_frames_change_nothing_but_the_time(ablated, readme):
    assert "with `cache_frames` off every evaluation of one seed came out the same to the last digit" in readme
    assert "the cache saved a tenth of the time" in readme
    (computed,) = ablated("frames not cached")
    (cached,) = (run for run in ablated(None) if run["seed"] == computed["seed"])
    for one, other in zip(cached["points"], computed["points"], strict=True):
        assert one["evaluations"] == other["evaluations"] and one["metrics"] == other["metrics"]
    assert round(1 - cpu_seconds([cached]) / cpu_seconds([computed]), 1) == 0.1


def test_ppo_in_the_dreams_of_the_other_environments(readme):
    def finals(agent: str, environment: str, way: str, name: str) -> list[float]:
        """After the last step, of the seeds 0 to 4."""
        results = results_of(10000, agent, environment, "dreams")
        return [result["points"][-1]["evaluations"][way][name] for result in results]

    ways = (("dream_ppo", "sampled"), ("iris", T))
    for room in (RANDOM, LAVA):
        lengths = (finals(agent, room, way, "length") for agent, way in ways)
        assert all(ppo > iris for ppo, iris in zip(*lengths, strict=True))
    assert "in Empty-Random-6x6 sampled actions solve every game in all five seeds" in readme
    assert finals("dream_ppo", RANDOM, "sampled", "solved") == [1] * 5
    dreamt, own = (finals(agent, RANDOM, way, "length") for agent, way in ways)
    assert (
        f"by a longer way than IRIS's own actor takes, {min(dreamt):.1f} to {max(dreamt):.1f} steps on average instead "
        f"of {min(own):.1f} to {max(own):.1f}" in readme
    )
    assert "One seed solves 83 % at temperature 0.5, and greedily 63 %; the others all" in readme
    for way, expected in ((T, 0.83), ("greedy", 0.63)):
        assert finals("dream_ppo", RANDOM, way, "solved") == [1, 1, 1, 1, expected]

    assert (
        "In LavaGapS5 they do in three of five, in 7.6 to 10.6 steps instead of 6.2, and in 98 and 61 % of the"
        in readme
    )
    assert finals("dream_ppo", LAVA, "sampled", "solved") == [1, 1, 1, 0.61, 0.98]
    dreamt, own = (finals(agent, LAVA, way, "length") for agent, way in ways)
    assert (round(min(dreamt[:3]), 1), round(max(dreamt[:3]), 1)) == (7.6, 10.6)
    assert [round(length, 1) for length in own[:3]] == [6.2] * 3 and finals("iris", LAVA, T, "solved") == [1] * 5

    assert (
        "In Breakout they get past three bricks in three of five seeds, once to 3.59, further than any of the agents "
        "in whose dreams they learned" in readme
    )
    bricks = finals("dream_ppo", BREAKOUT, "sampled", "mean")
    assert sum(mean > 3 for mean in bricks) == 3 and max(bricks) == 3.59 > max(finals("iris", BREAKOUT, T, "mean"))
    assert (
        "Greedy ones stop there at three bricks, and in LavaGapS5 solve every game in one of five seeds, 61 or 78 % in "
        "the others" in readme
    )
    assert finals("dream_ppo", BREAKOUT, "greedy", "mean") == [3] * 5
    assert sorted(finals("dream_ppo", LAVA, "greedy", "solved")) == [0.61, 0.61, 0.78, 0.78, 1]


def test_what_the_dreams_cost(readme):
    assert "(Empty-Random-6x6's seeds 0 and 1 on an older EPYC)" in readme
    assert "Tests that ran beside some of them lengthened their CPU seconds by up to a fifth" in readme
    for agent, older in (("iris", 3000), ("dream_ppo", 4000)):
        seconds = [cpu_seconds([result]) for result in results_of(10000, agent, RANDOM, "dreams")]
        assert min(seconds[:2]) > older > 1.5 * max(seconds[2:])
        for environment in (LAVA, BREAKOUT):
            runs = [cpu_seconds([result]) for result in results_of(10000, agent, environment, "dreams")]
            assert 1.05 < max(runs[3:]) / mean(runs[:3]) < 1.205


def test_dqn_learns_little_in_minigrid(study, readme):
    assert "DQN's greedy actions solve Empty-5x5 in two of five seeds at 3,000 steps and in none at 10,000" in readme
    for at, expected in ((3000, [0, 0, 0, 1, 1]), (10000, [0] * 5)):
        assert sorted(figures_at(results_of(10000, "dqn", EMPTY), at, "greedy", "solved")) == expected
    assert (
        "In the other rooms it never gets beyond 0.335 (after 2,000 steps, in Empty-Random-6x6) and 0.154 (after "
        "4,000, in LavaGapS5), and in the end it stands still in nearly every game" in readme
    )
    for environment, best in ((RANDOM, ("0.335", 2000)), (LAVA, ("0.154", 4000))):
        results = results_of(10000, "dqn", environment)
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
        f"{updates['world_model']:,} of the world model and {minutes:.0f} minutes of CPU time (one seed, four games a "
        f"report): after real frames {right:.0f} % of the next frame's tokens are right, where {kept:.0f} % stay as "
        f"they are, and {100 * point['reward_recall']['negative']:.0f} % of the lost points are foreseen"
    ) in readme
    dreamt, still = (
        [f"{100 * point[f'token_accuracy_{name}'][steps]:.0f}" for steps in ("1", "20")]
        for name in ("dream", "start_kept")
    )
    assert (
        f"{dreamt[0]} % of the tokens are right at one step and {dreamt[1]} % at twenty, where keeping the frame gets "
        f"{still[0]} and {still[1]} %"
    ) in readme
    errors = point["pixel_error_dream"], point["pixel_error_start_kept"]
    assert all(dream > still for dream, still in zip(*(each.values() for each in errors), strict=True))
