"""Every example runs as a user would run it, made short by its own flags."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO

from iris_gym import IRISAgent, IRISConfig, UsageError
from iris_gym.envs import make_vec_env
from iris_gym.evaluation.real_episodes import RealEpisode, play_games

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *flags: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(EXAMPLES / name), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A saved agent that has learned a little of everything."""
    path = tmp_path_factory.mktemp("trained") / "agent.zip"
    config = IRISConfig.tiny(transformer_timesteps=10, eval_temperature=1.0)
    IRISAgent("MiniGrid-Empty-5x5-v0", config, seed=0, device="cpu").learn(80).save(path)
    return path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path):
    assert len(path.read_text().splitlines()) < 80


@pytest.mark.slow
def test_train_atari_then_predict_loop(tmp_path):
    flags = "--env-id ALE/Breakout-v5 --preset tiny --total-timesteps 60 --games 1".split()
    trained = run("train_atari.py", *flags, folder=tmp_path)
    assert "eval/" in trained and "over 1 games" in trained
    played = run("predict_loop.py", "--run", "atari_agent.zip", "--max-steps", "50", folder=tmp_path)
    assert "after 50 steps" in played


@pytest.mark.slow
def test_on_a_gpu(tmp_path):
    """All of it, on the CPU."""
    flags = "--env MiniGrid-Empty-5x5-v0 --presets tiny --device cpu --minutes 0.3 --episodes 2 --repeats 1".split()
    shown = run("on_a_gpu.py", "--out", "gpu", *flags, folder=tmp_path)
    assert "stopped and saved" in shown and "over 2 games" in shown
    for name in ("tests.xml", "bench_tiny_plain.json", "bench_tiny.json", "run/scores.json"):
        assert (tmp_path / "gpu" / name).exists()


@pytest.mark.slow
def test_custom_env(tmp_path):
    assert "over 20 episodes" in run("custom_env.py", "--total-timesteps", "80", "--tiny", folder=tmp_path)


@pytest.mark.slow
def test_sb3_ppo_in_dream(trained, tmp_path):
    flags = "--total-timesteps 256 --num-envs 4 --games 2".split()
    assert "real MiniGrid-Empty-5x5-v0: return" in run(
        "sb3_ppo_in_dream.py", "--run", str(trained), *flags, folder=tmp_path
    )
    assert (tmp_path / "ppo_from_dream.zip").exists()


@pytest.mark.slow
def test_evaluate_ppo(tmp_path):
    """Trained in one process, evaluated by its name in another."""
    run("evaluate_ppo.py", "--total-timesteps", "128", "--env", "MinAtar/Breakout-v1", folder=tmp_path)
    flags = "--env MinAtar/Breakout-v1 --episodes 2 --max-steps 50".split()
    command = [sys.executable, "-m", "iris_gym", "evaluate", "--agent", "evaluate_ppo:act", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{EXAMPLES}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["protocol"]["agent"] == "evaluate_ppo:act"


@pytest.mark.slow
def test_recurrent_ppo_in_dream(trained, tmp_path):
    flags = "--total-timesteps 256 --num-envs 4".split()
    answer = run("recurrent_ppo_in_dream.py", "--run", str(trained), *flags, folder=tmp_path)
    assert "learned from 256 imagined steps" in answer


@pytest.mark.slow
def test_torch_ppo_in_dream(trained, tmp_path):
    flags = "--iterations 2 --num-envs 8 --steps 20".split()
    answer = run("torch_ppo_in_dream.py", "--checkpoint", str(trained), *flags, folder=tmp_path)
    assert "iteration 2: mean imagined reward" in answer


@pytest.mark.slow
def test_torchrl_in_dream(trained, tmp_path):
    assert "320 imagined steps" in run("torchrl_in_dream.py", "--run", str(trained), folder=tmp_path)


@pytest.mark.slow
def test_record_dream(trained, tmp_path):
    run("record_dream.py", "--run", str(trained), "--max-steps", "20", folder=tmp_path)
    written = {path.relative_to(tmp_path / "media").as_posix() for path in (tmp_path / "media").rglob("*.*")}
    assert written == {
        "side-by-side_0.mp4",
        "side-by-side_0.png",
        "dream_0.mp4",
        "dream_0.png",
        "random/rl-video-episode-0.mp4",
    }


@pytest.mark.slow
def test_bf16_agreement(tmp_path):
    IRISAgent("MiniGrid-Empty-5x5-v0", IRISConfig.tiny(), device="cpu", run_dir=tmp_path / "run").learn(60)
    answer = run("bf16_agreement.py", "--run", "run", "--out", "found.json", "--rows", "8", folder=tmp_path)
    assert [line.split()[0] for line in answer.splitlines()][:2] == ["encode", "next_token"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["env_steps"], found["rows"], found["config"]["env"]) == (60, 8, "MiniGrid-Empty-5x5-v0")
    assert f"{100 * found['agreement']['encode']:.2f} %" in answer.splitlines()[0]


@pytest.mark.slow
def test_world_model_curve(tmp_path):
    flags = "--out curve --preset tiny --env-id MinAtar/Breakout-v1 --total-timesteps 120 --every 60".split()
    run("world_model_curve.py", *flags, folder=tmp_path)
    points = json.loads((tmp_path / "curve" / "curve.json").read_text())["points"]
    reports = [json.loads((tmp_path / "curve" / f"report_{steps:06d}.json").read_text()) for steps in (60, 120)]
    for point, found, steps in zip(points, reports, (60, 120), strict=True):
        assert point["env_steps"] == found["protocol"]["env_steps_trained"] == steps
        assert point["updates"] == found["protocol"]["updates"]
        assert point["pixel_error_dream"]["5"] == found["by_horizon"]["pixel_error_dream"]["mean"][4]
        correct, bricks = found["reward"]["confusion"][2][2], sum(found["reward"]["confusion"][2])
        assert point["rewards"] == {"negative": 0, "positive": bricks}
        assert point["reward_recall"] == {"negative": None, "positive": correct / bricks if bricks else None}
    assert (tmp_path / "curve" / "curve.png").stat().st_size > 10_000


@pytest.mark.slow
def test_where_it_stops(tmp_path):
    """Games of the training and new ones, by the bricks that had been broken; counted here anew."""
    config = IRISConfig.tiny(eval_temperature=1.0, collect_temperature=2.0)
    agent = IRISAgent("MinAtar/Breakout-v1", config, seed=0, device="cpu", run_dir=tmp_path / "run")
    agent.learn(80)
    rewards, terminated, _ = agent.replay.latest_outcomes(len(agent.replay))
    bricks = [int(game.sum()) for game in np.split(rewards, np.flatnonzero(terminated) + 1)[:-1]]
    env = make_vec_env("MinAtar/Breakout-v1", 8)
    flags = "--run run --out stops.json --games 20 --max-steps 14 --seed 3".split()
    assert "temperature 2" in run("where_it_stops.py", *flags, folder=tmp_path)
    found = json.loads((tmp_path / "stops.json").read_text())
    assert (found["run"]["seed"], found["run"]["env_steps"], found["settings"]["seed"]) == (0, 80, 3)
    [counts] = found["training"]
    assert counts == {"from": 0} | {f"{level}": bricks.count(level) for level in sorted(set(bricks))}

    for temperature in (1.0, 2.0):
        played = play_games(agent.policy.acting, env, games=20, temperature=temperature, seed=3, max_steps=14)
        rows, before = found[f"temperature {temperature:g}"], [game.rewards.cumsum(0) - game.rewards for game in played]
        assert len(rows) > 1 and [row["return"] for row in rows] == torch.cat(before).unique().tolist()
        assert sum(row["ended"] for row in rows) == sum(game.terminated for game in played) > 0
        assert sum(row["cut"] for row in rows) == sum(not game.terminated for game in played) > 0
        for row in rows:
            there = [at == row["return"] for at in before]
            assert row["episodes"] == sum(at.any() for at in there) and row["frames"] == sum(at.sum() for at in there)
            frames = torch.cat([game.frames[at] for game, at in zip(played, there, strict=True)]) / 255
            error = (agent.models.tokenizer.reconstruct(frames) - frames).square().mean()
            assert row["squared_error"] == pytest.approx(error.item(), rel=1e-4)
            assert row["ended"] == sum(game.terminated and bool(at[-1]) for game, at in zip(played, there, strict=True))


def test_what_is_known_by_the_return_so_far(monkeypatch):
    """Two episodes of one game, as of an Atari game with lives, of which the second is cut."""
    monkeypatch.syspath_prepend(EXAMPLES)
    stops = importlib.import_module("study_parts.stops")
    config = IRISConfig.tiny(discount=0.5)
    agent = IRISAgent("MiniGrid-Empty-5x5-v0", config, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator)
    first = RealEpisode(frames[:4], torch.tensor([0, 1, 2, 0]), torch.tensor([0.1, 0.0, -0.1, 2.0]), True, 0, 0, 7)
    second = RealEpisode(frames[4:], torch.tensor([1, 1]), torch.tensor([0.0, 0.1]), False, 0, 4, 7)

    both = stops.by_return(agent, [first, second])
    assert [(row["return"], row["episodes"], row["frames"]) for row in both] == [(0, 2, 4), (0.1, 1, 2)]
    assert [(row["ended"], row["cut"]) for row in both] == [(1, 1), (0, 0)]  # 0.1 - 0.1 is 0 again, whatever floats say
    assert both[0]["to_come"] is None  # nobody knows what a cut episode would have earned
    assert both[1]["to_come"] == pytest.approx(((0 - 0.5 + 0.25) + (-1 + 0.5)) / 2)  # signs of the rewards, discounted

    [alone] = stops.by_return(agent, [second])
    tokens = agent.models.tokenizer.encode(frames[4:] / 255)
    world_model, tail = agent.models.world_model, second.actions[None, :, None]
    with torch.no_grad():
        logits = world_model(tokens[None], tail).frame_tokens[0, tokens.shape[1] - 1 : -1]
        nats = torch.nn.functional.cross_entropy(logits, tokens[1], reduction="sum")
        seen = agent.models.tokenizer.reconstruct(frames[4:] / 255)
        value = agent.models.actor_critic(seen[None], agent.models.actor_critic.initial_state(1))[1]
    assert alone["nats"] == pytest.approx(nats.item(), rel=1e-4)
    assert alone["next_right"] == float((logits.argmax(-1) == tokens[1]).all())
    assert alone["value"] == pytest.approx(value.mean().item(), rel=1e-4, abs=1e-6)
    assert alone["end_foreseen"] is None and (alone["ended"], alone["cut"]) == (0, 1)


STUDY = "--out results --preset tiny --steps 100 --episodes 2 --dream-steps 1024".split()


@pytest.mark.slow
def test_study(tmp_path):
    flags = [*STUDY, *"--seeds 3 --environments MinAtar-Breakout --longer 260".split()]
    answer = run("study.py", *flags, folder=tmp_path)
    agents = "random iris ppo dqn recurrent_ppo dream_ppo".split()
    names = {f"{agent}__MinAtar-Breakout__3" for agent in agents}
    names |= {f"{agent}__longer__MinAtar-Breakout__3" for agent in ("ppo", "dqn", "recurrent_ppo")}
    assert {path.stem for path in (tmp_path / "results").glob("*.json")} == names
    assert "FAILED" not in answer and (tmp_path / "results" / "curves.png").exists()

    results = {name: json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in names}
    assert results["iris__MinAtar-Breakout__3"]["settings"]["vocab_size"] == 32
    assert results["ppo__MinAtar-Breakout__3"]["settings"]["n_steps"] == 250
    dreamt = results["dream_ppo__MinAtar-Breakout__3"]["settings"]
    assert dreamt["horizon"] == results["iris__MinAtar-Breakout__3"]["settings"]["imagination_horizon"]
    assert all("commit" in result["versions"] and result["processor"] for result in results.values())
    ways = {agent: list(results[f"{agent}__MinAtar-Breakout__3"]["points"][0]["evaluations"]) for agent in agents}
    assert ways["ppo"] == ways["recurrent_ppo"] == ways["dream_ppo"] == ["sampled", "temperature 0.5", "greedy"]
    assert ways["dqn"] == ["sampled", "greedy"] and ways["iris"] == ["temperature 0.5"]
    steps = {name: [point["env_steps"] for point in result["points"]] for name, result in results.items()}
    assert steps["random__MinAtar-Breakout__3"] == [0]
    assert all(steps[f"{agent}__MinAtar-Breakout__3"][-1] == 100 for agent in agents[1:])
    assert all(result["reached"] or steps[name][-1] == 260 for name, result in results.items() if "longer" in name)
    table = (tmp_path / "results" / "table.md").read_text()
    assert "Missing: none." in table and "PPO in IRIS's dream" in table and "Environment steps until" in table

    (tmp_path / "results" / "ppo__MinAtar-Breakout__3.json").unlink()
    again = run("study.py", *flags, folder=tmp_path)
    assert "[1/1] ppo__MinAtar-Breakout__3: done" in again and again.count("[1/") == 1

    (tmp_path / "results" / "agents" / "iris__MinAtar-Breakout__3.zip").unlink()
    (tmp_path / "results" / "dream_ppo__MinAtar-Breakout__3.json").unlink()
    assert "dream_ppo__MinAtar-Breakout__3: left out" in run("study.py", *flags, folder=tmp_path)
    other = subprocess.run(
        [sys.executable, str(EXAMPLES / "study.py"), *flags, "--steps", "90"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert other.returncode == 1 and "choose another --out" in other.stderr.splitlines()[-1]


def test_study_report(tmp_path, monkeypatch):
    """The middle three of five seeds, the better of two ways to play, and what is missing by its name."""
    folder = tmp_path / "results"
    folder.mkdir()
    sizes = {"steps": 100, "episodes": 2, "dream_steps": 1024, "preset": "tiny"}
    for seed, value in enumerate((0.0, 0.5, 0.6, 0.7, 1.0)):
        for name, ways in (("iris", {"temperature 0.5": value}), ("ppo", {"sampled": value / 2, "greedy": 0.1})):
            evaluations = {
                way: {"mean": mean, "deviation": 0.1, "solved": 0.5, "length": 10.0, "cut": 0.0}
                for way, mean in ways.items()
            }
            point = {"env_steps": 100, "seconds": 10.0 + seed, "cpu_seconds": 9.0, "evaluations": evaluations}
            result = {"agent": name, "seed": seed, "sizes": sizes, "points": [point], "reached": False, "settings": {}}
            (folder / f"{name}__MiniGrid-Empty-5x5__{seed}.json").write_text(json.dumps(result))
        if seed < 2:
            point |= {"env_steps": 0, "evaluations": {"sampled": evaluations["greedy"] | {"mean": 0.2}}}
            result |= {"agent": "random"}
            (folder / f"random__MiniGrid-Empty-5x5__{seed}.json").write_text(json.dumps(result))
    run("study.py", *STUDY, "--figures", "--environments", "MiniGrid-Empty-5x5", folder=tmp_path)
    table = (folder / "table.md").read_text()
    assert "| IRIS | temperature 0.5 | 5 | 0.600 [0.200, 0.900] | 9 |" in table
    assert "| PPO | sampled | 5 | 0.300 [" in table and "| PPO | greedy | 5 | 0.100 [0.100, 0.100] | 9 |" in table
    assert "Random actions: 0.200; by seed 0.200, 0.200." in table
    assert "| IRIS | temperature 0.5 | 4 | 1.000 | 50% | 10.0 | 14 | 9 |" in table
    assert "| PPO | sampled | 4 | 0.500 | 50% | 10.0 | 14 | 9 |" in table
    assert "Missing: random in MiniGrid-Empty-5x5, seeds 2 3 4; DQN in MiniGrid-Empty-5x5, seeds 0 1" in table
    assert (folder / "curves.png").stat().st_size > 10_000

    assert "Ablations" not in table
    for seed in range(5):
        ablated = json.loads((folder / f"iris__MiniGrid-Empty-5x5__{seed}.json").read_text())
        ablated["points"][0]["evaluations"]["temperature 0.5"]["mean"] /= 2
        (folder / f"iris__no-burn-in__MiniGrid-Empty-5x5__{seed}.json").write_text(json.dumps(ablated))
    monkeypatch.syspath_prepend(EXAMPLES)
    jobs, report = (importlib.import_module(f"study_parts.{name}") for name in ("jobs", "report"))
    report.write_report(folder, jobs.Sizes(**sizes), jobs.AGENTS, ["MiniGrid-Empty-5x5"], range(5))
    ablations = (folder / "table.md").read_text().split("## Ablations in MiniGrid-Empty-5x5")[1]
    assert "| `tiny` | none | 0.600 [0.200, 0.900] | 0.00, 0.50, 0.60, 0.70, 1.00 |  | 9 |" in ablations
    unburnt = next(line for line in ablations.splitlines() if "no burn-in" in line).split(" | ")
    assert unburnt[1:4] == ["`burn_in=0`", "0.300 [0.100, 0.450]", "0.00, 0.25, 0.30, 0.35, 0.50"]
    change, low, high = map(float, re.findall(r"[-+][\d.]+", unburnt[4]))
    assert change == -0.3 and -0.8 < low < -0.3 < high < 0.3  # 0.6 and 0.3 apart, and each may lie elsewhere
    assert "frames not cached" in ablations.split("Not done:")[1]

    changed = folder / "iris__MiniGrid-Empty-5x5__2.json"
    changed.write_text(json.dumps(json.loads(changed.read_text()) | {"settings": {"burn_in": 3}}))
    monkeypatch.syspath_prepend(EXAMPLES)
    report, jobs = (importlib.import_module(f"study_parts.{name}") for name in ("report", "jobs"))
    with pytest.raises(UsageError, match="IRIS in MiniGrid-Empty-5x5: seeds 0 and 2 .* another burn_in; remove"):
        report.write_report(folder, jobs.Sizes(**sizes), jobs.AGENTS, ["MiniGrid-Empty-5x5"], range(5))


def test_a_longer_run_serves_every_goal_that_it_reached_and_all_if_it_went_to_its_end(tmp_path, monkeypatch):
    """IRIS's own results may change, and the goal with them, where the others' need not be run again."""
    monkeypatch.syspath_prepend(EXAMPLES)
    jobs = importlib.import_module("study_parts.jobs")
    sizes = {"steps": 100, "episodes": 2, "dream_steps": 1024, "preset": "tiny"}

    def job(goal: float, longest: int = 300):
        return jobs.Job(str(tmp_path), "ppo", "MinAtar-Breakout", 0, jobs.Sizes(**sizes), longest=longest, goal=goal)

    def write(*means: float) -> dict:
        points = [
            {"env_steps": 100 * index, "evaluations": {"sampled": {"mean": 0.1}, "greedy": {"mean": mean}}}
            for index, mean in enumerate(means, 1)
        ]
        result = {"sizes": sizes, "longest": 300, "goal": 0.6, "points": points}
        job(0.6).file.write_text(json.dumps(result))
        return result

    reached = write(0.3, 0.6)
    assert [job(goal).result() for goal in (0.2, 0.5, 0.6)] == [reached] * 3
    for other in (job(0.7), job(0.6, longest=400)):
        with pytest.raises(UsageError, match="ppo__longer__MinAtar-Breakout__0.json is of another goal or length"):
            other.result()
    whole = write(0.3, 0.4, 0.5)
    assert [job(goal).result() for goal in (0.5, 0.6, 0.7)] == [whole] * 3


def test_parts_of_ablations_that_are_not_asked_for_are_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    study = importlib.import_module("study")
    with pytest.raises(UsageError, match="parts: .* --ablations was not given"):
        study.main(tmp_path / "results", study.Sizes(), parts=("no burn-in",))
    assert not (tmp_path / "results").exists()


def test_a_model_plays_at_a_temperature(monkeypatch):
    """Logits of 0 and 1: at temperature 1 the second action has probability 0.731, at 0.5 0.881."""
    monkeypatch.syspath_prepend(EXAMPLES)
    agents = importlib.import_module("study_parts.agents")
    model = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    with torch.no_grad():
        model.policy.action_net.weight.zero_()
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 1.0]))
    assert agents.ways_to_play(model) == {"sampled": 1, "temperature 0.5": 0.5, "greedy": 0}
    shares = []
    for temperature in (1.0, 0.5, 1.0, 0.0):
        player = agents.ModelPlayer(model, temperature=temperature)
        player.prepare(4000, 2)
        shares.append(player.act(np.zeros((4000, 4), np.float32)).mean())
    assert shares == pytest.approx([0.731, 0.881, 0.731, 1.0], abs=0.02)
    assert "temperature 0.5" not in agents.ways_to_play(DQN("MlpPolicy", "CartPole-v1", device="cpu"))


def test_each_ablation_of_the_study_is_a_usable_config(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    agents, jobs = (importlib.import_module(f"study_parts.{name}") for name in ("agents", "jobs"))
    chosen = jobs.ablation_jobs(Path("results"), jobs.Sizes(), ["MinAtar-Breakout"], [0], list(jobs.ABLATIONS))
    configs = [agents.iris_config(job) for job in chosen]
    for config in configs:
        config.validate()
    assert [job.ablation for job in chosen] == [None, *jobs.ABLATIONS]
    some = jobs.ablation_jobs(Path("results"), jobs.Sizes(), ["MinAtar-Breakout"], [0], ["no burn-in"])
    assert [job.ablation for job in some] == [None, "no burn-in"]
    assert all(config != configs[0] for config in configs[1:])
    assert len({job.file for job in chosen}) == len(chosen)
