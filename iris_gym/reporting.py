"""`iris_gym.report`: how far an agent's dream can be trusted, as a page and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.agent import IRISAgent
from iris_gym.assembly import untrained, warn_of_untrained
from iris_gym.envs import check_spaces, make_vec_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import check_play
from iris_gym.evaluation.fidelity import measure
from iris_gym.evaluation.figures import check_figures
from iris_gym.evaluation.files import write_atomically
from iris_gym.evaluation.findings import Findings, jsonable, summarise
from iris_gym.evaluation.real_episodes import RealEpisode, play_games
from iris_gym.evaluation.report import page
from iris_gym.evaluation.scores import versions
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.training.run_folder import check_output

DEFAULT_EPISODES = 8
DEFAULT_HORIZON = 20
DEFAULT_STARTS = 128
MAX_STEPS = 1000
GAMES_AT_ONCE = 8

SEED_OFFSET = 1_000_003
"""Keeps the games of a report apart from those of a training and of an evaluation, whose seeds are small numbers."""

STAGES = 6
"""How often `on_stage` is called."""


def report(
    agent: IRISAgent | str | Path,
    *,
    env: gym.Env | str | None = None,
    episodes: int = DEFAULT_EPISODES,
    out: str | Path | None = None,
    starts: int = DEFAULT_STARTS,
    horizon: int = DEFAULT_HORIZON,
    context: int = 1,
    temperature: float = 1.0,
    max_steps: int = MAX_STEPS,
    seed: int = 0,
    device: torch.device | str = "auto",
    on_stage: Callable[[str], object] = lambda _: None,
) -> Path:
    """Hold the dream against real games that training never saw, and write a page and a JSON file.

    The games are played under the training protocol, where a lost life is an end, for that is what the world model
    has learned an end to be. Their seeds are not those of a training.

    Args:
        agent: an agent, a run folder or a saved zip.
        env: where to play, an id or an environment, which is played in from its reset on and left open. None: the
            agent's id, if it was given one.
        episodes: real games to play.
        out: the page's file; the JSON lies beside it. None: `report.html` in the run folder or working folder, or
            `NAME.report.html` beside a zip.
        starts: dreams at most, at steps of the games drawn uniformly.
        horizon: steps for which each is compared.
        context: real frames that a dream has read when it starts; 1 in training.
        temperature: of the policy, in the games and in its own dreams; 1 in training.
        max_steps: after which a game is cut.
        seed: of everything random.
        device: where to load to.
        on_stage: called with a word or two at the start of each part of the work, `STAGES` times.

    Returns:
        The path of the page.

    Raises:
        UsageError: an argument cannot be used, or matplotlib is not installed.
    """
    _check(episodes=episodes, starts=starts, horizon=horizon, context=context, max_steps=max_steps)
    check_play(temperature, seed)
    check_figures("a report needs")
    path = _checked_page(default_page(agent) if out is None else out)
    if not isinstance(agent, IRISAgent):
        agent = IRISAgent.load(agent, device=device)
    dynamics = _dynamics(agent, context)
    updates = agent.trainer.updates
    warn_of_untrained(updates)
    on_stage("playing")
    games = _play(agent, env, games=episodes, temperature=temperature, seed=seed, max_steps=max_steps)
    fidelity = measure(
        dynamics,
        agent.policy.acting,
        games,
        starts=starts,
        horizon=horizon,
        context=context,
        burn_in=agent.config.burn_in,
        temperature=temperature,
        seed=seed,
        on_stage=on_stage,
    )
    on_stage("writing")
    protocol = {
        "environment": "training protocol",
        "temperature": temperature,
        "epsilon": 0.0,
        "seed": seed,
        "max_steps": max_steps,
        "burn_in": agent.config.burn_in,
        "timesteps": dynamics.world_model.timesteps,
        "overflow_context": dynamics.overflow_context,
        "updates": updates,
        "env_steps_trained": agent.trainer.steps_trained,
        "preprocessing": agent.config.preprocessing,
        "atari_100k": agent.config.atari_100k,
    }
    findings: Findings = jsonable(
        {
            "env": _name(agent, env),
            "protocol": protocol,
            "versions": versions(),
            **summarise(fidelity, untrained(updates)),
        }
    )
    html = page(findings, fidelity.codebook, fidelity.strips)
    write_atomically(path.with_suffix(".json"), (json.dumps(findings, indent=1) + "\n").encode())
    write_atomically(path, html.encode())
    return path


def _play(
    agent: IRISAgent, env: gym.Env | str | None, *, games: int, temperature: float, seed: int, max_steps: int
) -> list[RealEpisode]:
    own = _vec_env(agent, env, min(games, GAMES_AT_ONCE))
    try:
        if own.action_space != agent.action_space:
            raise UsageError(f"env={env} has actions {own.action_space}; the agent was made for {agent.action_space}")
        return play_games(
            agent.policy.acting,
            own,
            games=games,
            temperature=temperature,
            seed=int(np.random.default_rng((SEED_OFFSET, seed)).integers(SEED_OFFSET, 2**31)),
            max_steps=max_steps,
        )
    finally:
        if not isinstance(env, gym.Env):
            own.close()


def _vec_env(agent: IRISAgent, env: gym.Env | str | None, rows: int) -> VecEnv:
    """What is played in: `rows` of an id, or the one environment that was given."""
    if isinstance(env, gym.Env):
        check_spaces(env.observation_space, env.action_space, _name(agent, env) or "env")
        monitored = env if is_wrapped(env, Monitor) else Monitor(env)
        return DummyVecEnv([lambda: monitored])
    env_id = env or agent.env_id
    if env_id is None:
        raise UsageError("env=None is not known, for the agent was given an environment without its id; give it")
    config = agent.config
    return make_vec_env(env_id, rows, atari_100k=config.atari_100k, preprocessing=config.preprocessing)


def _name(agent: IRISAgent, env: gym.Env | str | None) -> str | None:
    if isinstance(env, gym.Env):
        return env.spec.id if env.spec else type(env.unwrapped).__name__
    return env or agent.env_id


def _dynamics(agent: IRISAgent, context: int) -> Dynamics:
    """Dreaming as the dream environments do."""
    world_model = agent.models.world_model
    if context >= world_model.timesteps:
        raise UsageError(f"context={context} is too long: the world model reads {world_model.timesteps} timesteps")
    return Dynamics(agent.models.tokenizer, world_model)


def default_page(agent: IRISAgent | str | Path) -> Path:
    """Where the page of an agent, a run folder or a saved zip is written if nobody says otherwise."""
    if isinstance(agent, IRISAgent):
        return (agent.run.path if agent.run else Path()) / "report.html"
    path = Path(agent)
    return path / "report.html" if path.is_dir() else path.with_suffix(".report.html")


def _checked_page(out: str | Path) -> Path:
    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"out={str(out)!r} is no page; give a name that ends in .html")
    check_output("out", path)
    return path


def _check(**counts: Any) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name}={value} is too few; give 1 or more")
