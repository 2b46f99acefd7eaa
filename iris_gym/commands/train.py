"""`iris-gym train`."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import Preset, required_run_dir, say, set_threads
from iris_gym.commands.finale import MOST_EPISODES, finale, has_ended
from iris_gym.commands.stop_signals import StopRequested, StopSignals
from iris_gym.config import IRISConfig
from iris_gym.errors import UsageError
from iris_gym.progress import TrainingDisplay
from iris_gym.training.run_folder import RunFolder, check_writable
from iris_gym.training.trainer import check_total_timesteps
from iris_gym.training.wandb_output import WandbOutput, check_wandb
from iris_gym.untrusted.documents import shown

REMEMBERED = ("total_timesteps", "threads", "final_episodes")


@dataclass
class Train:
    """Train an agent, and leave a run folder with checkpoints, replay, logs and pictures.

    A flag beats --config, which beats --preset. Every hyperparameter is a flag.
    """

    hyperparameters: Annotated[IRISConfig, tyro.conf.arg(name="")]
    preset: Preset = "auto"
    """Where the hyperparameters start from; auto is default on a GPU and small elsewhere. +freeway and +low-memory are
    for those hard cases."""
    config: Path | None = None
    """A JSON or YAML file with any of the hyperparameters."""
    total_timesteps: int | None = None
    """Environment steps to collect in all; None: --max-env-steps, or of a resumed run as many as it was told."""
    run_dir: Path | None = None
    """A new folder for the run; None: runs/<env>/<date-time>."""
    seed: int | None = None
    """Of every random stream; None: from entropy."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: one for small networks, torch's own choice for larger ones."""
    final_episodes: int | None = None
    """Episodes to play at the end of the run, as the agent and at random, each cut after 2,000 steps; after them a
    learning curve is drawn and the dream filmed. None: 20, or 4 of an Atari game; of a resumed run what it was told.
    0: none of that."""
    wandb: bool = False
    """Log to Weights & Biases, too. A resumed run goes on in the same one; WANDB_MODE=offline needs no account."""
    resume: bool = False
    """Go on with the run in --run-dir, to the end that it had had without a stop; where there is none yet, begin it."""

    def run(self, console: Console) -> int:
        config = self.hyperparameters
        config.validate()
        asked_for_games = bool(self.final_episodes)
        self._recall_settings()
        self.total_timesteps = total = config.max_env_steps if self.total_timesteps is None else self.total_timesteps
        check_total_timesteps(total)
        self._check_final_episodes()
        if self.wandb:
            check_wandb()
        set_threads(self.threads, config)
        agent = self._agent(config)
        assert agent.run is not None
        if self.wandb:
            agent.log_outputs.append(WandbOutput(agent.run.path, agent.config.to_dict()))
        left = total - agent.num_timesteps
        stop = StopSignals(lambda: agent.trainer.evaluating)
        with suppress(StopRequested), stop:
            if left > 0 or agent.trainer.epochs_left(agent.trainer.env_steps + left):
                agent.run.write_settings(**self._settings())
                if not self._train(agent, max(left, 0), stop, console):
                    again = " --resume --wandb" if self.wandb else " --resume"
                    say(console, f"stopped and saved; go on with: iris-gym train --run-dir {agent.run.path}{again}")
                    return 128 + stop.received
            else:
                say(
                    console, f"{agent.run.path} has collected {agent.num_timesteps:,} steps already: nothing left to do"
                )
                if has_ended(agent) and not asked_for_games:
                    return 0
            stop.interruptible = lambda: True  # nothing is lost any more: the agent is saved
            if self.final_episodes != 0 and not stop.received:
                finale(agent, self.final_episodes, console)
        if stop.received:
            say(console, "stopped; the run itself is over and saved")
            return 128 + stop.received
        return 0

    def _train(self, agent: IRISAgent, timesteps: int, stop: StopSignals, console: Console) -> bool:
        """Learn, and show it; whether to the end, or until asked to stop. The agent is saved in any case."""
        assert agent.run is not None
        say(console, f"training on {agent.config.env} ({agent.device}); run folder {agent.run.path}")
        begun = time.monotonic()
        with TrainingDisplay(agent, console) as display, suppress(StopRequested):
            for event in agent.learn_events(timesteps, reset_num_timesteps=False):
                display.show(event)
                if stop.received:
                    break
        if stop.received:
            agent.save_checkpoint()
            return False
        say(console, f"done in {(time.monotonic() - begun) / 60:.1f} minutes; pictures in {agent.run.media}")
        say(console, f"play with it: iris-gym evaluate --run {agent.run.path}")
        return True

    def _check_final_episodes(self) -> None:
        count = self.final_episodes
        if count is not None and not (type(count) is int and 0 <= count <= MOST_EPISODES):  # it may be a file's
            raise UsageError(f"final_episodes={shown(count)} must be a whole number, at most {MOST_EPISODES:,}")

    def _recall_settings(self) -> None:
        """A resumed run is told again what it was told before, but for what is said anew."""
        if not self.resume:
            return
        settings = RunFolder(required_run_dir(self.run_dir)).settings()
        for name in REMEMBERED:
            if getattr(self, name) is None:
                setattr(self, name, settings.get(name))

    def _agent(self, config: IRISConfig) -> IRISAgent:
        if self.resume:
            run = RunFolder(required_run_dir(self.run_dir))
            if run.exists:
                return self._resumed(run, config)
        with nullcontext(self.run_dir) if self.run_dir else reserved_run_dir(config.env) as folder:
            return IRISAgent(
                config.env, config, seed=self.seed, device=self.device, run_dir=folder, _settings=self._settings()
            )

    def _settings(self) -> dict[str, Any]:
        """What a resumed run is told again."""
        return {name: getattr(self, name) for name in REMEMBERED}

    def _resumed(self, run: RunFolder, config: IRISConfig) -> IRISAgent:
        before = IRISConfig.load(run.config_file).to_dict()
        changed = [name for name, value in config.to_dict().items() if before[name] != value]
        if changed:
            words = ", ".join(f"{name}={getattr(config, name)!r} (was {before[name]!r})" for name in changed)
            raise UsageError(f"a resumed run keeps its hyperparameters; these differ: {words}")
        seed = run.settings().get("seed")
        if None not in (self.seed, seed) and self.seed != seed:
            raise UsageError(f"a resumed run keeps its seed={seed}; seed={self.seed} is another")
        return IRISAgent.resume(run.path, device=self.device)


@contextmanager
def reserved_run_dir(env_id: str) -> Iterator[Path]:
    """runs/<env>/<date-time>, the slashes of the id made dashes. It is made here, since others may begin in the same
    second: the next is <date-time>_2. If nothing is put into it, it is removed."""
    runs, now = Path("runs") / env_id.replace("/", "-").replace(":", "-"), time.strftime("%Y-%m-%d_%H-%M-%S")
    check_writable("run_dir", runs)
    folder, number = runs / now, 1
    while not _made(folder):
        number += 1
        folder = runs / f"{now}_{number}"
    try:
        yield folder
    finally:
        with suppress(OSError):  # there is something in it
            os.removedirs(folder)


def _made(folder: Path) -> bool:
    """Make a folder; False where another process was quicker."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True
