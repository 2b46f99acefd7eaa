"""What an agent's networks know of the frames that it sees after each reward."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from iris_gym import IRISAgent
from iris_gym.data.replay import Replay
from iris_gym.evaluation.fidelity import measure_steps
from iris_gym.evaluation.real_episodes import RealEpisode
from iris_gym.evaluation.stretches import BATCH, encode
from iris_gym.functional import lambda_returns, unit_frames
from iris_gym.imagination.dynamics import Dynamics

DIGITS = 4
"""To which returns are rounded, so that sums in another order are the same."""


def by_return(agent: IRISAgent, episodes: Sequence[RealEpisode]) -> list[dict[str, Any]]:
    """A row for each return that episodes had on their way, in order; an Atari game has an episode for each life.

    `squared_error` is that of the tokenizer's pictures, in [0, 1]. `next_right` is the share of next frames that the
    world model, which reads the real frames before them, predicts wholly, each token by its likeliest; `nats` are those
    of a whole frame. Both are of frames that another one follows. `end_foreseen` is its mean probability of an end
    where one came. `value` is the agent's, exploration bonus included, and `to_come` what it earned from there on,
    discounted: known only where no episode was cut, else None.
    """
    columns = [_columns(agent, episode, index) for index, episode in enumerate(episodes)]
    steps = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    rows = []
    for level in np.unique(steps["return"]):
        here = {name: column[steps["return"] == level] for name, column in steps.items()}
        ends, lasts = here["terminated"], here["last"]
        rows.append(
            {
                "return": level.item(),
                "episodes": len(np.unique(here["episode"])),
                "ended": int(ends.sum()),
                "cut": int((lasts & ~ends).sum()),
                "frames": len(lasts),
                "squared_error": _mean(here["squared_error"]),
                "next_right": _mean(here["token_accuracy"][~lasts] == 1),
                "nats": _mean(here["nats"][~lasts]),
                "end_foreseen": _mean(here["end_probability"][ends]),
                "value": _mean(here["value"]),
                "to_come": _mean(here["to_come"]),
            }
        )
    return rows


@torch.no_grad()
def _columns(agent: IRISAgent, episode: RealEpisode, index: int) -> dict[str, np.ndarray]:
    """Of each step of an episode, (T,)."""
    tokenizer, actor_critic = agent.models.tokenizer, agent.models.actor_critic
    dynamics, tokens = Dynamics(tokenizer, agent.models.world_model), encode(tokenizer, episode.frames, agent.device)
    told = measure_steps(dynamics, [episode], [tokens])
    errors, values, state = [], [], actor_critic.initial_state(1)
    for part, codes in zip(episode.frames.split(BATCH), tokens.split(BATCH), strict=True):
        seen = tokenizer.decode(codes.to(agent.device))
        errors.append((seen - unit_frames(part.to(agent.device))).square().mean((1, 2, 3)).cpu())
        _, value, state = actor_critic(seen[None], state)
        values.append(value[0].cpu())
    rewards, last = episode.rewards.double().numpy(), np.arange(len(episode)) == len(episode) - 1
    after = torch.zeros(1, len(episode) + 1, dtype=torch.float64)  # values; what comes after a cut nobody knows
    after[0, -1] = 0 if episode.terminated else torch.nan
    signs, ends = F.pad(episode.rewards.sign(), (0, 1))[None], torch.zeros_like(after, dtype=torch.bool)
    to_come = lambda_returns(signs, after, ends, discount=agent.config.discount, lambda_=1.0)[0, :-1]
    return {
        "return": (rewards.cumsum() - rewards).round(DIGITS) + 0.0,  # no -0
        "episode": np.full(len(episode), index),
        "last": last,
        "terminated": last & episode.terminated,
        "squared_error": torch.cat(errors).double().numpy(),
        "token_accuracy": told.token_accuracy,
        "nats": told.nats * agent.config.tokens_per_frame,
        "end_probability": told.end_probability,
        "value": torch.cat(values).double().numpy(),
        "to_come": to_come.numpy(),
    }


def _mean(values: np.ndarray) -> float | None:
    return None if not len(values) or np.isnan(values).any() else float(values.mean())


def training_episodes(replay: Replay, every: int = 1000) -> list[dict[str, int]]:
    """How many episodes ended with each return, in parts of so many steps; an episode counts where it ended."""
    rewards = replay.latest_outcomes(len(replay))[0]
    parts = [Counter() for _ in range(0, len(replay), every)]
    for episode in replay.episodes:
        if not episode.open:
            total = rewards[episode.rows].sum(dtype=np.float64)
            parts[episode.rows[-1] // every][round(float(total), DIGITS)] += 1
    return [
        {"from": every * i} | {f"{total:.10g}": part[total] for total in sorted(part)} for i, part in enumerate(parts)
    ]
