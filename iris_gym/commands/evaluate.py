"""`iris-gym evaluate`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import say
from iris_gym.envs import frames_per_second
from iris_gym.errors import UsageError
from iris_gym.evaluation.evaluate import MAX_STEPS, evaluate, most_workers, usable_cores
from iris_gym.evaluation.film import film
from iris_gym.evaluation.players import FunctionPlayer
from iris_gym.evaluation.rows import OpenEnv, Player, games
from iris_gym.evaluation.scores import cut_episodes, mean_and_error, summary, write_scores
from iris_gym.evaluation.video import check_video, write_video
from iris_gym.training.run_folder import RunFolder, check_output

GPU_WORKERS = 4
"""Processes that play on one GPU, if nobody says how many: each takes memory there for what torch needs of its own."""


@dataclass(frozen=True, slots=True)
class _Contest:
    """Who plays what, and where that is written."""

    player: Player
    open_env: OpenEnv
    env_id: str
    protocol: dict[str, Any]
    scores_file: Path
    media: Path


@dataclass
class Evaluate:
    """Play whole games under the evaluation protocol and write scores.json beside the agent."""

    run_: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A run folder or a saved zip."""
    agent: str | None = None
    """Instead of a run: a function module:function that gives actions, such as my_agent:model.predict of a
    Stable-Baselines3 model. It is called with observations (N, 64, 64, 3) uint8 and, as far as it takes them, state,
    episode_start and deterministic, and returns actions (N,), or actions and state."""
    env: str | None = None
    """Environment id. None: the run's."""
    episodes: int = 100
    """Whole games to play."""
    temperature: float | None = None
    """Divides the policy's logits; 0 is greedy. None: the agent's eval_temperature."""
    deterministic: bool = False
    """Take the likeliest action, as --temperature 0; a function is told so."""
    preprocessing: Literal["iris", "ale"] | None = None
    """iris: each raw frame resized before the maximum of two. ale: ALE's own, faster. None: the run's; or iris."""
    seed: int = 0
    """Of the first game; game i has seed + i."""
    max_steps: int | None = None
    """Steps after which a game is cut. None: the run's max_eval_steps, or 27,000 with a function."""
    workers: Literal["auto"] | int = "auto"
    """Processes to play in; auto: as many as there are cores and work for. They change no score."""
    video: bool = False
    """Write a video of the first game, too."""
    out: Path | None = None
    """The file of scores. None: scores.json in the run folder, NAME.scores.json beside NAME.zip, or scores.json
    here."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self, console: Console) -> int:
        self._check()
        torch.set_num_threads(1)  # as the workers have it, so that their number changes nothing
        contest = self._function_contest() if self.run_ is None else self._run_contest(self.run_)
        result = self._scores(contest)
        say(console, _score_line(result))  # first, for the disk may be full
        write_scores(contest.scores_file, result)
        say(console, f"written to {contest.scores_file}")
        if self.video:
            say(console, f"video: {self._film(contest)}")
        return 0

    def _check(self) -> None:
        if (self.run_ is None) == (self.agent is None):
            raise UsageError("give either --run, a run folder or a saved zip, or --agent, module:function")
        if self.deterministic and self.temperature is not None:
            raise UsageError(f"temperature={self.temperature} and deterministic=True contradict each other; give one")
        if self.agent is not None and self.temperature is not None:
            raise UsageError(f"temperature={self.temperature} is for runs; a function decides by itself")
        if self.agent is not None and self.env is None:
            raise UsageError("env=None is not known with --agent; give an environment id with --env")
        if self.video:
            check_video()

    def _run_contest(self, run: Path) -> _Contest:
        agent = IRISAgent.load(run, device=self.device)
        file = self.out or (RunFolder(run).scores_file if run.is_dir() else run.with_suffix(".scores.json"))
        check_output("run" if self.out is None else "out", file)
        temperature = 0.0 if self.deterministic else self.temperature
        player = agent.evaluation_player(temperature)
        protocol = run_protocol(agent, player.temperature, self.preprocessing, self.max_steps)
        return _Contest(
            player,
            agent.evaluation_games(self.env, protocol["preprocessing"]),
            env_id=cast(str, self.env or agent.env_id),  # else there were no games
            protocol=protocol,
            scores_file=file,
            media=RunFolder(run).media if run.is_dir() else file.parent,
        )

    def _function_contest(self) -> _Contest:
        assert self.agent is not None and self.env is not None
        file = self.out or Path("scores.json")
        check_output("out", file)
        preprocessing = self.preprocessing or "iris"
        return _Contest(
            FunctionPlayer(self.agent, deterministic=self.deterministic),
            games(self.env, preprocessing=preprocessing),
            env_id=self.env,
            protocol={
                "agent": self.agent,
                "deterministic": self.deterministic,
                "preprocessing": preprocessing,
                "atari_100k": True,
                "max_steps": MAX_STEPS if self.max_steps is None else self.max_steps,
            },
            scores_file=file,
            media=file.parent,
        )

    def _scores(self, contest: _Contest) -> dict[str, Any]:
        limits = [usable_cores(), most_workers(self.episodes)]
        if torch.cuda.is_initialized():
            limits.append(GPU_WORKERS)
        workers = min(limits) if self.workers == "auto" else self.workers
        with tqdm(total=self.episodes, unit="game", file=sys.stderr, disable=None) as bar:
            scores = evaluate(
                contest.player,
                contest.open_env,
                episodes=self.episodes,
                seed=self.seed,
                workers=max(workers, 1) if self.workers == "auto" else workers,
                max_steps=contest.protocol["max_steps"],
                on_episode=lambda _: bar.update(),
            )
        return summary(contest.env_id, scores, contest.protocol)

    def _film(self, contest: _Contest) -> Path:
        path = contest.media / f"evaluation_seed{self.seed}.mp4"
        name = contest.env_id.removeprefix("ALE/")
        options = dict(episodes=self.episodes, seed=self.seed, max_steps=contest.protocol["max_steps"])
        images = film(contest.player, contest.open_env, name, **options)
        write_video(path, images, frames_per_second(contest.env_id))
        return path


def run_protocol(
    agent: IRISAgent, temperature: float, preprocessing: str | None = None, max_steps: int | None = None
) -> dict[str, Any]:
    """How an agent's episodes are played, as `scores.json` tells it; None is what its config says."""
    config = agent.config
    return {
        "agent": "IRIS",
        "temperature": temperature,
        "deterministic": temperature == 0,
        "epsilon": 0.0,
        "preprocessing": preprocessing or config.preprocessing,
        "atari_100k": config.atari_100k,
        "env_steps_trained": agent.trainer.steps_trained,
        "max_steps": config.max_eval_steps if max_steps is None else max_steps,
    }


def _score_line(result: dict[str, Any]) -> str:
    human = result["human_normalized"]
    normalized = f", human-normalised {human:.3f}" if human is not None else ""
    lengths = np.mean([episode["length"] for episode in result["episodes"]])
    count, cut = len(result["episodes"]), cut_episodes(result)
    games = f"{count} games of {lengths:.0f} steps" + (f" ({cut} of them cut)" if cut else "")
    return f"{result['env']}: return {mean_and_error(result)} over {games}{normalized}"
