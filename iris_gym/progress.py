"""What a person sees of a running training: one line an epoch, and below it a bar with the time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from iris_gym.agent import IRISAgent
from iris_gym.training.rates import Rates
from iris_gym.training.trainer import EpochEnded, Event, StepTaken, UpdateDone

HEADLINES = {
    "autoencoder/reconstruction_loss": "reconstruction {:.5f}",
    "codebook/active_codes": "codes {:.0f}",
    "world_model/token_accuracy": "tokens {:.3f}",
    "world_model/commonest_token_share": "(commonest {:.3f})",
    "world_model/reward_accuracy": "rewards {:.3f}",
    "actor_critic/imagined_return": "dreamed return {:.2f}",
    "rollout/real_return": "(collected {:.2f})",
    "actor_critic/entropy": "entropy {:.2f}",
    "evaluation/mean_return": "evaluation {:.2f}",
}


RECENT_EPISODES = 20
"""Of the training, over whose returns the mean is shown."""


class TrainingDisplay:
    """Shows the events of `IRISAgent.learn_events`. A context manager."""

    def __init__(self, agent: IRISAgent, console: Console) -> None:
        self.agent = agent
        self.console = console
        self.rates = Rates()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("starting", total=1.0, left="")
        self.begun = time.monotonic()

    def __enter__(self) -> "TrainingDisplay":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, StepTaken):
            self.rates.count("collect", len(event.step.dones))
            self._move_bar("collect")
        elif isinstance(event, UpdateDone):
            self.rates.count(event.component)
            self._move_bar(event.component)
        elif isinstance(event, EpochEnded):
            self.rates.count("rest of an epoch")
            self.console.print(self._epoch_line(event), markup=False, highlight=False, soft_wrap=True)

    def time_left(self) -> str:
        """Minutes and seconds until the end of the run; a `>` says that some kind of work has not been met yet."""
        trainer = self.agent.trainer
        work = trainer.remaining(self.agent.target)
        work["rest of an epoch"] = trainer.epochs_left(self.agent.target)
        seconds, complete = self.rates.time_for(work)
        return f"{'' if complete else '> '}{_clock(seconds)} left"

    def _move_bar(self, kind: str) -> None:
        if not self.console.is_terminal:
            return
        trainer = self.agent.trainer
        rate = self.rates.per_second(kind) or 0.0
        elapsed = time.monotonic() - self.begun
        left, _ = self.rates.time_for(trainer.remaining(self.agent.target))
        self.bar.update(
            self.task,
            description=f"epoch {trainer.position.epoch} {kind} {trainer.position.done} ({rate:.1f}/s)",
            completed=elapsed / max(elapsed + left, 1e-9),
            left=self.time_left(),
        )

    def _epoch_line(self, event: EpochEnded) -> str:
        recent = [info["r"] for info in self.agent.ep_info_buffer or ()][-RECENT_EPISODES:]
        parts = [f"return {sum(recent) / len(recent):.2f}"] if recent else []
        parts += [words.format(event.metrics[name]) for name, words in HEADLINES.items() if name in event.metrics]
        measured = {kind: self.rates.per_second(kind) for kind in self.agent.trainer.remaining(self.agent.target)}
        rates = ", ".join(f"{kind} {rate:.1f}/s" for kind, rate in measured.items() if rate)
        return "  ".join(
            [f"epoch {event.epoch:>3}  steps {self.agent.num_timesteps:,}", *parts, f"[{rates}]", self.time_left()]
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
