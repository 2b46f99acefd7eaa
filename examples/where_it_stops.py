"""Where an agent stops: what its networks know of the frames that it sees after each reward, in new games of its own.

python examples/where_it_stops.py --run runs/ALE-Pong-v5/2026-01-01_12-00-00 --out stops.json
"""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from iris_gym import IRISAgent
from iris_gym.assembly import build_replay
from iris_gym.data.replay import Replay
from iris_gym.envs import make_vec_env
from iris_gym.evaluation.fidelity import measure_steps
from iris_gym.evaluation.real_episodes import RealEpisode, play_games
from iris_gym.evaluation.stretches import encode
from iris_gym.functional import unit_frames
from iris_gym.imagination.dynamics import Dynamics

TITLES = ("return so far", "games", "frames", "pixel error", "next frames right", "nats", "value", "ended")


@torch.no_grad()
def by_return(agent: IRISAgent, episodes: Sequence[RealEpisode]) -> list[dict]:
    """A row for each return that games had on their way. `nats` are of a whole next frame."""
    models, device, tokenizer = agent.models, agent.device, agent.models.tokenizer
    tokens = [encode(tokenizer, episode.frames, device) for episode in episodes]
    steps = measure_steps(Dynamics(tokenizer, models.world_model), episodes, tokens)
    returns, errors, values = [], [], []
    for episode in episodes:
        frames = unit_frames(episode.frames.to(device))
        seen = tokenizer.reconstruct(frames)
        returns.append((episode.rewards.cumsum(0) - episode.rewards).numpy())
        errors.append((seen - frames).square().mean((1, 2, 3)).cpu().numpy())
        values.append(models.actor_critic(seen[None], models.actor_critic.initial_state(1))[1][0].cpu().numpy())
    so_far, error, value = (np.concatenate(column) for column in (returns, errors, values))
    followed, rows = ~np.isnan(steps.token_accuracy), []  # by a frame of the same game
    for level in np.unique(so_far):
        here, ahead = so_far == level, (so_far == level) & followed
        right, nats = (steps.token_accuracy == 1)[ahead], steps.nats[ahead] * agent.config.tokens_per_frame
        shares = (float(column.mean()) if len(column) else None for column in (error[here], right, nats, value[here]))
        row = level.item(), len(np.unique(steps.game[here])), int(here.sum()), *shares, int(steps.end[here].sum())
        rows.append(dict(zip(TITLES, row, strict=True)))
    return rows


def training_games(replay: Replay, every: int = 1000) -> list[dict]:
    """How many episodes of the training came to each return, in parts of so many steps, by the last step."""
    rewards = replay.latest_outcomes(len(replay))[0]
    parts = [Counter() for _ in range(0, len(replay), every)]
    for episode in replay.episodes:
        if not episode.open:
            parts[episode.rows[-1] // every][float(rewards[episode.rows].sum())] += 1
    return [{"from": every * i} | {f"{level:g}": part[level] for level in sorted(part)} for i, part in enumerate(parts)]


def main(run: Path, out: Path = Path("stops.json"), games: int = 100, max_steps: int = 1000, seed: int = 0) -> None:
    """`run` is a run folder with its replay. New games are played as they are evaluated, and as they are collected."""
    agent = IRISAgent.load(run)
    with build_replay(agent.config, run / "replay", device=agent.device) as replay:
        found = {"config": agent.config.to_dict(), "seed": seed, "training": training_games(replay)}
    config, play = agent.config, partial(play_games, agent.policy.acting, games=games, seed=seed, max_steps=max_steps)
    env = make_vec_env(config.env, 8, atari_100k=config.atari_100k, preprocessing=config.preprocessing)
    for temperature in (config.eval_temperature, config.collect_temperature):
        found[f"temperature {temperature:g}"] = by_return(agent, play(env, temperature=temperature))
    env.close()
    out.write_text(json.dumps(found, indent=1) + "\n")
    for name in list(found)[2:]:
        print(name, *found[name], sep="\n  ")


if __name__ == "__main__":
    tyro.cli(main)
