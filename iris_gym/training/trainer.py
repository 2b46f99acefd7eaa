"""The schedule: what is done in which order, as a generator of events."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_gym.data.replay import Replay
from iris_gym.errors import UsageError
from iris_gym.functional import codebook_usage
from iris_gym.training.collector import Collector, Step
from iris_gym.training.learner import Learner


@dataclass(frozen=True, slots=True)
class CollectionStarted:
    pass


@dataclass(frozen=True, slots=True)
class StepTaken:
    step: Step


@dataclass(frozen=True, slots=True)
class CollectionEnded:
    pass


@dataclass(frozen=True, slots=True)
class UpdateDone:
    component: str


@dataclass(frozen=True, slots=True)
class EpochEnded:
    epoch: int  # counted from 1
    metrics: dict[str, float]  # means over the epoch, named component/metric


Event = CollectionStarted | StepTaken | CollectionEnded | UpdateDone | EpochEnded


@dataclass(slots=True)
class Position:
    """Where a run stands. Data, so that it can be saved and a run goes on from anywhere."""

    epoch: int = 1
    phase: int = 0  # 0 collects; phase i is the i-th learner's; the one after the last evaluates
    done: int = 0  # environment steps or updates done in the phase


class Trainer:
    """Collect, then let each component learn, epoch after epoch (Micheli et al. 2023, algorithm 1).

    An epoch collects `env_steps_per_epoch` environment steps until `max_env_steps` have been collected in all; every
    `eval_interval` epochs `evaluate` contributes metrics. `generator` draws the segments. The actions of the first
    `random_steps` are uniformly random.
    """

    def __init__(
        self,
        collector: Collector | None,
        learners: Sequence[Learner],
        replay: Replay,
        *,
        env_steps_per_epoch: int,
        max_env_steps: int,
        total_epochs: int,
        generator: np.random.Generator,
        random_steps: int = 0,
        evaluate: Callable[[], dict[str, float]] | None = None,
        eval_interval: int = 0,
    ) -> None:
        self.collector = collector
        self.learners = learners
        self.replay = replay
        self.env_steps_per_epoch = env_steps_per_epoch
        self.max_env_steps = max_env_steps
        self.total_epochs = total_epochs
        self.random_steps = random_steps
        self.generator = generator
        self.evaluate = evaluate
        self.eval_interval = eval_interval
        self.position = Position()
        self.env_steps = 0
        self.steps_before = 0  # of an earlier training, whose weights this one begins with
        self.metrics = MeanMetrics()
        self.evaluating = False  # then there is nothing to lose: an evaluation begins anew and comes out the same

    def run(self, target: int) -> Iterator[Event]:
        """Go on until `target` environment steps were collected in all, and the epoch they fall in was trained.

        Only where `target` reaches `max_env_steps` does training go on without collecting, to `total_epochs`.
        """
        while not self._finished(target):
            for phase in range(self.position.phase, len(self.learners) + 2):
                self.position.phase = phase
                yield from self._phase(phase, target)
                self.position.done = 0
            yield self._end_epoch()

    def remaining(self, target: int) -> dict[str, int]:
        """Environment steps (`collect`) and updates of each component that `run(target)` still has before it."""
        target = min(target, self.max_env_steps)
        epochs = self._epochs_before(target)
        counts = {"collect": self._whole_steps(target - self.env_steps)}
        for index, learner in enumerate(self.learners, 1):
            updates = sum(learner.plan.updates_in(epoch) for epoch in epochs)
            if self.position.phase > index:
                updates -= learner.plan.updates_in(self.position.epoch)
            elif self.position.phase == index:
                updates -= self.position.done
            counts[learner.name] = max(updates, 0)
        return counts

    def epochs_left(self, target: int) -> int:
        """How many epochs, this one included, `run(target)` still goes through."""
        return len(self._epochs_before(min(target, self.max_env_steps)))

    @property
    def progress(self) -> int:
        """Environment steps and updates done in all; grows with everything that changes a run."""
        return self.env_steps + sum(self.updates.values())

    @property
    def steps_trained(self) -> int:
        """Environment steps whose experience is in the weights."""
        return self.steps_before + self.env_steps

    @property
    def updates(self) -> dict[str, int]:
        """Those that each component has had so far."""
        return {learner.name: learner.updates for learner in self.learners}

    @property
    def epoch_steps(self) -> int:
        """Environment steps of an epoch that collects: `env_steps_per_epoch`, or as many more as all rows take."""
        return self._whole_steps(self.env_steps_per_epoch)

    @property
    def idle_epochs(self) -> int:
        """Epochs that ended after nothing was collected any more, if every epoch before was collected whole."""
        if self.env_steps < self.max_env_steps:
            return 0
        collecting = -(-self.max_env_steps // self.epoch_steps)
        return max(self.position.epoch - 1 - collecting, 0)

    def state_dict(self) -> dict[str, Any]:
        """Counters and position, ready for JSON. The tensors of the running epoch's `metrics` are kept apart."""
        return {
            "position": asdict(self.position),
            "env_steps": self.env_steps,
            "updates": self.updates,
            "metric_counts": dict(self.metrics.counts),
        }

    def load_state_dict(self, state: dict[str, Any], metric_sums: dict[str, Tensor]) -> None:
        self.position = Position(**state["position"])
        self.env_steps = state["env_steps"]
        self.metrics = MeanMetrics(metric_sums, state["metric_counts"])
        for learner in self.learners:
            learner.updates = state["updates"][learner.name]

    def begin_epoch_anew(self) -> None:
        """Collect and learn the running epoch from its start, where what it had collected is not at hand."""
        self.position = Position(self.position.epoch)
        self.metrics = MeanMetrics()

    def _finished(self, target: int) -> bool:
        if self.position.phase > 0 or self.position.done > 0:
            return False
        if self.env_steps < min(target, self.max_env_steps):
            return False
        return target < self.max_env_steps or self.position.epoch > self.total_epochs

    def _epochs_before(self, target: int) -> range:
        """The epochs that `run` still goes through, for a `target` within `max_env_steps`."""
        if self._finished(target):
            return range(0)
        in_this_epoch = self.env_steps_per_epoch - self.position.done if self.position.phase == 0 else 0
        steps_after_it = max(target - self.env_steps - self._whole_steps(in_this_epoch), 0)
        last = self.position.epoch + -(-steps_after_it // self.epoch_steps)
        if target == self.max_env_steps:
            last = max(last, self.total_epochs)
        return range(self.position.epoch, last + 1)

    @property
    def random_rows(self) -> int:
        """How many of the replay's first rows were played at random; none where all such steps are another replay's."""
        elsewhere = self.env_steps - len(self.replay)
        return max(self._whole_steps(self.random_steps) - elsewhere, 0)

    def _whole_steps(self, count: int) -> int:
        """The environment steps taken for at least `count`: all rows of the environment step at once."""
        rows = self.collector.num_envs if self.collector else 1
        return -(-max(count, 0) // rows) * rows

    def _phase(self, phase: int, target: int) -> Iterator[Event]:
        if phase == 0:
            yield from self._collect(min(target, self.max_env_steps))
        elif phase <= len(self.learners):
            yield from self._learn(self.learners[phase - 1])
        elif self.evaluate and self.eval_interval and self.position.epoch % self.eval_interval == 0:
            self.metrics.add("evaluation", {name: torch.tensor(value) for name, value in self._evaluate().items()})

    def _evaluate(self) -> dict[str, float]:
        assert self.evaluate is not None
        self.evaluating = True
        try:
            return self.evaluate()
        finally:
            self.evaluating = False

    def _collect(self, target: int) -> Iterator[Event]:
        if self.env_steps >= target or self.position.done >= self.env_steps_per_epoch:
            return
        assert self.collector is not None, "nothing can be collected without an environment"
        if self.position.done == 0:  # in the middle of a collection the LSTM remembers already
            self.collector.begin()
        yield CollectionStarted()
        while self.position.done < self.env_steps_per_epoch and self.env_steps < target:
            step = self.collector.step(uniform=self.env_steps < self.random_steps)
            self.position.done += len(step.dones)
            self.env_steps += len(step.dones)
            self.metrics.add("rollout", self.collector.measures())
            yield StepTaken(step)
        yield CollectionEnded()

    def _learn(self, learner: Learner) -> Iterator[Event]:
        plan = learner.plan
        while self.position.done < plan.updates_in(self.position.epoch):
            segment = plan.draw(self.replay, self.generator, self.position.epoch)
            self.metrics.add(learner.name, learner.update(segment, self.position.epoch))
            self.position.done += 1
            yield UpdateDone(learner.name)

    def _end_epoch(self) -> EpochEnded:
        event = EpochEnded(self.position.epoch, self.metrics.summary())
        self.position = Position(self.position.epoch + 1)
        self.metrics = MeanMetrics()
        return event


SKIPPED = "/skipped_updates"


class MeanMetrics:
    """Running means of tensors by name. They stay on the device until `summary` fetches them, once an epoch."""

    def __init__(self, sums: dict[str, Tensor] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums = dict(sums or {})
        self.counts = dict(counts or {})

    def add(self, group: str, metrics: dict[str, Tensor]) -> None:
        for metric, value in metrics.items():
            name = f"{group}/{metric}"
            before = self.sums.get(name)  # that of a resumed epoch comes from a file, and lies on the host
            self.sums[name] = value.clone() if before is None else before.to(value.device) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def summary(self) -> dict[str, float]:
        """The means; code counts become the codebook's perplexity and its active codes over the epoch.

        Skipped updates, whose metrics are zeros, are counted and take no part in the means of their group.
        """
        skipped = {name.split("/")[0]: int(total) for name, total in self.sums.items() if name.endswith(SKIPPED)}
        summary = {}
        for name, total in self.sums.items():
            count = self.counts[name] - skipped.get(name.split("/")[0], 0)
            if name.endswith(SKIPPED):
                summary[name] = float(total)
            elif count and name.endswith("/token_counts"):
                perplexity, active = codebook_usage(total)
                summary["codebook/perplexity"] = float(perplexity)
                summary["codebook/active_codes"] = float(active)
            elif count:
                summary[name] = float(total) / count
        return summary


def check_total_timesteps(total_timesteps: float, *, least: int = 1) -> None:
    """Raise `UsageError` for a number of steps that cannot be learned for; 1e5 can."""
    whole = isinstance(total_timesteps, int | np.integer) and not isinstance(total_timesteps, bool)
    whole = whole or (isinstance(total_timesteps, float) and total_timesteps.is_integer())
    if not whole or total_timesteps < least:
        raise UsageError(f"total_timesteps={total_timesteps!r} must be a whole number, at least {least}")
