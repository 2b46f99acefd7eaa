"""Where an agent stops: what its networks know of the frames that it sees after each reward.

python examples/where_it_stops.py --run runs/ALE-Pong-v5/2026-01-01_12-00-00 --out stops.json
"""

import json
from pathlib import Path

import tyro
from study_parts.report import processor
from study_parts.stops import by_return, training_episodes

from iris_gym import IRISAgent
from iris_gym.assembly import build_replay
from iris_gym.envs import make_vec_env
from iris_gym.evaluation.real_episodes import play_games


def main(run: Path, out: Path = Path("stops.json"), games: int = 100, max_steps: int = 1000, seed: int = 0) -> None:
    """`run` is a run folder with its replay. New games are played as they are evaluated, and as they are collected."""
    agent = IRISAgent.load(run)
    config, settings = agent.config, dict(games=games, max_steps=max_steps, seed=seed)
    with build_replay(config, run / "replay", device=agent.device) as replay:
        training = training_episodes(replay)
    found = {
        "config": config.to_dict(),
        "run": json.loads((run / "run.json").read_text()) | {"env_steps": agent.num_timesteps},
        "settings": settings,
        "processor": processor(),
        "training": training,
    }
    env = make_vec_env(config.env, 8, atari_100k=config.atari_100k, preprocessing=config.preprocessing)
    for temperature in sorted({config.eval_temperature, config.collect_temperature}):
        played = play_games(
            agent.policy.acting, env, games=games, max_steps=max_steps, seed=seed, temperature=temperature
        )
        found[f"temperature {temperature:g}"] = by_return(agent, played)
    env.close()
    out.write_text(json.dumps(found, indent=1) + "\n")
    for name, rows in found.items():
        if isinstance(rows, list):
            print(name, *rows, sep="\n  ")


if __name__ == "__main__":
    tyro.cli(main)
