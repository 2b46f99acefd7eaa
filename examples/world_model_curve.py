"""How good the world model is after so many steps, each time held against new games of the agent as it then is.

python examples/world_model_curve.py --env-id ALE/Pong-v5 --total-timesteps 6000 --out pong_curve
"""

import json
from pathlib import Path
from time import process_time

import tyro
from matplotlib.figure import Figure

from iris_gym import IRISAgent, report
from iris_gym.config import preset as config_of
from iris_gym.evaluation.findings import floats

HORIZONS, GAMES, LABEL = (1, 5, 10, 20), 4, "steps, and updates of the world model"


def point(findings: dict, cpu_seconds: float) -> dict:
    confusion, horizons = findings["reward"]["confusion"], findings["by_horizon"]
    shown = ("token_accuracy_dream", "token_accuracy_start_kept", "pixel_error_dream", "pixel_error_start_kept")
    return {
        "env_steps": findings["protocol"]["env_steps_trained"],
        "updates": findings["protocol"]["updates"],
        "cpu_seconds": round(cpu_seconds, 1),
        "token_accuracy": findings["tokens"]["accuracy"]["mean"],
        "token_accuracy_last_kept": findings["tokens"]["last_frame_kept"]["mean"],
        "rewards": {"negative": sum(confusion[0]), "positive": sum(confusion[2])},
        "reward_recall": {
            name: confusion[row][row] / sum(confusion[row]) if sum(confusion[row]) else None
            for name, row in (("negative", 0), ("positive", 2))
        },
        **{name: {str(h): horizons[name]["mean"][h - 1] for h in HORIZONS} for name in shown},
    }


def draw(points: list[dict], name: str, path: Path) -> None:
    figure, steps = Figure(figsize=(11, 3.6), layout="constrained"), [point["env_steps"] for point in points]
    tokens, rewards, pixels = figure.subplots(1, 3)
    tokens.plot(steps, [p["token_accuracy"] for p in points], "o-C0", label="after real frames")
    tokens.plot(steps, [p["token_accuracy_last_kept"] for p in points], ".:C0")
    for color, h in (("C1", "1"), ("C2", "20")):
        tokens.plot(steps, floats([p["token_accuracy_dream"][h] for p in points]), f"o-{color}", label=f"{h} dreamt")
        tokens.plot(steps, floats([p["token_accuracy_start_kept"][h] for p in points]), f".:{color}")
    for sign in ("negative", "positive"):
        rewards.plot(steps, floats([p["reward_recall"][sign] for p in points]), "o-", label=sign)
    for h in map(str, HORIZONS):
        dreamt, kept = (floats([p[f"pixel_error_{name}"][h] for p in points]) for name in ("dream", "start_kept"))
        pixels.plot(steps, dreamt / kept, "o-", label=f"{h} dreamt")
    pixels.axhline(1, color="black", linestyle=":")
    titles = "tokens right (dotted: frame kept)", "recall of rewards", "pixel error of a dream / of its start kept"
    every = -(-len(points) // 6)
    ticks = [f"{p['env_steps']:,}\n{p['updates']['world_model']:,}" for p in points[::every]]
    for axes, title, top in zip((tokens, rewards, pixels), titles, (1.2, 1.2, None), strict=True):
        axes.set(title=title, ylim=(-0.02, top), xticks=steps[::every], xticklabels=ticks, xlabel=LABEL)
        axes.legend(fontsize="small")
    figure.suptitle(name)
    figure.savefig(path, dpi=110)


def main(
    out: Path, env_id: str = "ALE/Pong-v5", preset: str = "small", total_timesteps: int = 6000, every: int = 1000
) -> None:
    """Train an agent; after every `every` steps write a report, curve.json and curve.png."""
    out.mkdir(parents=True, exist_ok=True)
    agent, points, cpu_seconds = IRISAgent(env_id, config_of(preset).replace(eval_interval=0), seed=0), [], 0.0
    while agent.num_timesteps < total_timesteps:
        before = process_time()
        agent.learn(every, reset_num_timesteps=False)
        cpu_seconds += process_time() - before
        page = report(agent, out=out / f"report_{agent.num_timesteps:06d}.html", episodes=GAMES)
        points.append(point(json.loads(page.with_suffix(".json").read_text()), cpu_seconds))
        (out / "curve.json").write_text(json.dumps({"env": env_id, "config": agent.config.to_dict(), "points": points}))
        draw(points, f"{env_id}, preset {preset}, one seed, {GAMES} games a report", out / "curve.png")


if __name__ == "__main__":
    tyro.cli(main)
