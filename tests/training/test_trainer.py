import copy
import itertools
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_gym.training.collector import Step
from iris_gym.training.hard_examples import CANDIDATES
from iris_gym.training.learner import LearnerPlan
from iris_gym.training.trainer import (
    CollectionEnded,
    CollectionStarted,
    EpochEnded,
    MeanMetrics,
    Position,
    StepTaken,
    Trainer,
    UpdateDone,
)


class FakeCollector:
    """Rows in which nothing happens; counts what was asked of it."""

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs = num_envs
        self.begun = 0
        self.steps = 0
        self.uniform: list[bool] = []

    def begin(self):
        self.begun += 1

    def step(self, *, uniform=False):
        zeros = np.zeros(self.num_envs)
        self.steps += 1
        self.uniform.append(uniform)
        return Step(zeros.astype(np.int64), zeros, zeros, zeros.astype(bool), [{}] * self.num_envs)

    def measures(self):
        return {}


class FakeReplay:
    """Answers with a random number in place of a segment, and remembers the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple] = []

    def sample_segments(self, batch_size, length, *, generator, align, before_rewards, lead):
        self.requests.append((batch_size, length, align, before_rewards, lead))
        return float(generator.random())


class FakeLearner:
    """Its loss is its segment."""

    def __init__(self, name: str, **plan) -> None:
        self.name = name
        values = {"start_after": 0, "stop_after": None, "updates_per_epoch": 2, "batch_size": 1, "segment_length": 1}
        self.plan = LearnerPlan(**(values | {"align": "start"} | plan))
        self.updates = 0

    def update(self, segment, epoch):
        self.updates += 1
        return {"loss": torch.tensor(segment)}


def trainer(*learners: FakeLearner, num_envs: int = 1, **changes) -> Trainer:
    values = {"env_steps_per_epoch": 3, "max_env_steps": 100, "total_epochs": 50}
    return Trainer(
        FakeCollector(num_envs), learners, FakeReplay(), generator=np.random.default_rng(0), **(values | changes)
    )


def letters(events) -> str:
    """[ collection ], s a step, the first letter of a learner for an update, | the end of an epoch."""
    names = {CollectionStarted: "[", CollectionEnded: "]", StepTaken: "s", EpochEnded: "|"}
    return "".join(event.component[0] if isinstance(event, UpdateDone) else names[type(event)] for event in events)


# The order of things


def test_what_was_collected_is_measured_over_the_steps_of_the_epoch_that_have_a_measure():
    running = trainer()
    collector = running.collector
    collector.measures = lambda: {"real_return": torch.tensor(float(collector.steps))} if collector.steps % 2 else {}
    epochs = [event for event in running.run(6) if isinstance(event, EpochEnded)]
    assert [epoch.metrics for epoch in epochs] == [{"rollout/real_return": 2}, {"rollout/real_return": 5}]


def test_an_epoch_collects_and_then_lets_every_component_learn_in_turn():
    run = trainer(FakeLearner("autoencoder"), FakeLearner("world_model", updates_per_epoch=1)).run(6)
    assert letters(run) == "[sss]aaw|[sss]aaw|"


def test_the_first_steps_of_a_run_are_random_not_those_of_a_replay():
    running = trainer(num_envs=2, random_steps=5)
    list(running.run(12))
    assert running.collector.uniform == [True, True, True, False, False, False]


@pytest.mark.parametrize(("env_steps", "rows", "random"), [(4, 4, 6), (12, 12, 6), (2, 0, 4), (12, 0, 0), (14, 2, 0)])
def test_of_a_loaded_agents_replay_fewer_rows_are_random(env_steps, rows, random):
    """Its environment steps go on where they were, in a replay that begins anew."""
    running = trainer(num_envs=2, random_steps=5)
    running.env_steps, running.replay = env_steps, range(rows)
    assert running.random_rows == random


def test_components_start_after_and_stop_after_their_epochs():
    learners = FakeLearner("autoencoder", stop_after=2), FakeLearner("world_model", start_after=1, updates_per_epoch=1)
    assert letters(trainer(*learners).run(12)) == "[sss]aa|[sss]aaw|[sss]w|[sss]w|"


def test_learners_get_the_segments_their_plan_asks_for():
    learners = (
        FakeLearner("autoencoder", updates_per_epoch=1, batch_size=5),
        FakeLearner(
            "actor", updates_per_epoch=1, batch_size=7, segment_length=21, align="end", before_rewards=0.5, lead=3
        ),
    )
    running = trainer(*learners)
    list(running.run(3))
    assert running.replay.requests == [(5, 1, "start", 0.0, 1), (7, 21, "end", 0.5, 3)]


def test_hard_examples_are_looked_for_from_a_components_second_epoch_on():
    running = trainer(FakeLearner("autoencoder", start_after=1, updates_per_epoch=1, batch_size=4, hard_share=0.5))
    list(running.run(12))
    assert [request[0] for request in running.replay.requests] == [4, *[4 + 2 * (CANDIDATES - 1)] * 2]


def test_epochs_are_counted_from_one_and_report_means():
    running = trainer(FakeLearner("autoencoder", updates_per_epoch=3), FakeLearner("late", start_after=1))
    ended = [event for event in running.run(6) if isinstance(event, EpochEnded)]
    draws = np.random.default_rng(0).random(8)
    assert [event.epoch for event in ended] == [1, 2]
    assert ended[0].metrics == pytest.approx({"autoencoder/loss": draws[:3].mean()})
    expected = {"autoencoder/loss": draws[3:6].mean(), "late/loss": draws[6:].mean()}
    assert ended[1].metrics == pytest.approx(expected)


def test_evaluation_comes_every_interval_after_the_updates():
    running, evaluated = trainer(FakeLearner("autoencoder"), eval_interval=2), []
    running.evaluate = lambda: evaluated.append(running.learners[0].updates) or {"score": 7.0}
    metrics = [event.metrics for event in running.run(15) if isinstance(event, EpochEnded)]
    assert evaluated == [4, 8]
    assert ["evaluation/score" in epoch for epoch in metrics] == [False, True, False, True, False]
    assert metrics[1]["evaluation/score"] == 7.0


@pytest.mark.parametrize("eval_interval", [0, 2])
def test_without_an_interval_or_a_function_nothing_is_evaluated(eval_interval):
    evaluate = None if eval_interval else lambda: pytest.fail("evaluated")
    assert letters(trainer(eval_interval=eval_interval, evaluate=evaluate).run(6)) == "[sss]|[sss]|"


# Where a run ends


def test_a_run_stops_exactly_at_its_target_and_trains_that_epoch():
    running = trainer(FakeLearner("autoencoder"))
    assert letters(running.run(4)) == "[sss]aa|[s]aa|"
    assert running.env_steps == 4


def test_a_second_run_goes_on_where_the_first_ended():
    whole, parts = trainer(FakeLearner("autoencoder")), trainer(FakeLearner("autoencoder"))
    assert letters(whole.run(9)) == letters(itertools.chain(parts.run(3), parts.run(9)))
    assert whole.position == parts.position == Position(epoch=4)


def test_a_target_already_reached_does_nothing():
    running = trainer(FakeLearner("autoencoder"))
    list(running.run(5))
    assert letters(running.run(5)) == letters(running.run(2)) == ""


def test_after_the_last_env_step_training_goes_on_to_the_last_epoch():
    running = trainer(FakeLearner("autoencoder"), max_env_steps=5, total_epochs=4)
    assert letters(running.run(1000)) == "[sss]aa|[ss]aa|aa|aa|"
    assert running.env_steps == 5
    assert running.collector.begun == 2
    assert letters(running.run(1000)) == ""


def test_idle_epochs_are_those_after_the_last_env_step():
    running = trainer(FakeLearner("autoencoder"), max_env_steps=5, total_epochs=4)
    ends = (event for event in running.run(1000) if isinstance(event, EpochEnded))
    assert [running.idle_epochs for _ in ends] == [0, 0, 1, 2]


def test_a_target_below_the_last_env_step_ends_without_the_epochs_after():
    running = trainer(FakeLearner("autoencoder"), max_env_steps=5, total_epochs=4)
    assert letters(running.run(4)) == "[sss]aa|[s]aa|"
    assert letters(running.run(5)) == "[s]aa|aa|"


def test_steps_of_several_rows_all_count():
    running = trainer(FakeLearner("autoencoder"), num_envs=2)
    assert letters(running.run(7)) == "[ss]aa|[ss]aa|"
    assert running.env_steps == 8


def test_a_run_left_in_the_middle_of_collecting_goes_on_there():
    running = trainer(FakeLearner("autoencoder"))
    assert letters(itertools.islice(running.run(3), 3)) == "[ss"
    assert letters(running.run(3)) == "[s]aa|"


def test_an_epoch_left_after_its_last_step_is_still_trained():
    running = trainer(FakeLearner("autoencoder"))
    assert letters(itertools.islice(running.run(3), 4)) == "[sss"
    assert letters(running.run(3)) == "aa|"


def test_training_alone_needs_no_collector():
    running = trainer(FakeLearner("autoencoder"), max_env_steps=3, total_epochs=3)
    list(itertools.islice(running.run(3), 5))
    running.collector = None
    assert letters(running.run(3)) == "aa|aa|aa|"


def test_progress_grows_with_every_env_step_and_update():
    running, seen = trainer(FakeLearner("autoencoder")), []
    for event in running.run(6):
        if isinstance(event, StepTaken | UpdateDone):
            seen.append(running.progress)
    assert seen == list(range(1, 11))


# Any schedule, left anywhere


@dataclass(frozen=True)
class Schedule:
    env_steps_per_epoch: int
    max_env_steps: int
    total_epochs: int
    num_envs: int
    plans: tuple[tuple[int, int | None, int], ...]
    target: int
    eval_interval: int

    def trainer(self) -> Trainer:
        learners = (
            FakeLearner(f"learner {index}", start_after=start, stop_after=stop, updates_per_epoch=updates)
            for index, (start, stop, updates) in enumerate(self.plans)
        )
        made = trainer(
            *learners,
            num_envs=self.num_envs,
            env_steps_per_epoch=self.env_steps_per_epoch,
            max_env_steps=self.max_env_steps,
            total_epochs=self.total_epochs,
            eval_interval=self.eval_interval,
        )
        made.evaluate = lambda: {"epoch": float(made.position.epoch)}
        return made


schedules = st.builds(
    Schedule,
    env_steps_per_epoch=st.integers(1, 5),
    max_env_steps=st.integers(1, 15),
    total_epochs=st.integers(1, 8),
    num_envs=st.integers(1, 3),
    plans=st.lists(
        st.tuples(st.integers(0, 4), st.none() | st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=3
    ).map(tuple),
    target=st.integers(1, 20),
    eval_interval=st.integers(0, 3),
)


def restored(schedule: Schedule, original: Trainer) -> Trainer:
    """A new trainer in the state of `original`, whose numbers went through JSON."""
    state, sums = json.loads(json.dumps(original.state_dict())), copy.deepcopy(original.metrics.sums)
    made = schedule.trainer()
    made.load_state_dict(state, sums)
    made.generator.bit_generator.state = copy.deepcopy(original.generator.bit_generator.state)
    return made


def described(events) -> list[tuple]:
    """Events as values, without the frames of collection: a resumed collection begins anew."""
    return [
        (type(event).__name__, getattr(event, "component", None), getattr(event, "epoch", None),
         getattr(event, "metrics", None))
        for event in events
        if not isinstance(event, CollectionStarted | CollectionEnded)
    ]  # fmt: skip


@given(schedule=schedules, data=st.data())
@settings(deadline=None, max_examples=150)
def test_a_run_resumed_anywhere_goes_on_as_if_never_interrupted(schedule, data):
    whole = list(schedule.trainer().run(schedule.target))
    stop = data.draw(st.integers(0, len(whole)), label="events before the interruption")
    interrupted = schedule.trainer()
    before = list(itertools.islice(interrupted.run(schedule.target), stop))
    resumed = restored(schedule, interrupted)
    after = list(resumed.run(schedule.target))
    assert described(before + after) == described(whole)
    updates = Counter(event.component for event in whole if isinstance(event, UpdateDone))
    assert all(learner.updates == updates[learner.name] for learner in resumed.learners)


@given(schedule=schedules, data=st.data())
@settings(deadline=None, max_examples=150)
def test_remaining_counts_exactly_what_the_run_then_does(schedule, data):
    total = len(list(schedule.trainer().run(schedule.target)))
    running = schedule.trainer()
    stop = data.draw(st.integers(0, total), label="events before the question")
    list(itertools.islice(running.run(schedule.target), stop))
    remaining, epochs_left = running.remaining(schedule.target), running.epochs_left(schedule.target)
    done = dict.fromkeys(remaining, 0)
    epochs_done = 0
    for event in running.run(schedule.target):
        if isinstance(event, StepTaken):
            done["collect"] += len(event.step.dones)
        elif isinstance(event, UpdateDone):
            done[event.component] += 1
        epochs_done += isinstance(event, EpochEnded)
    assert remaining == done
    assert epochs_left == epochs_done
    assert running.epochs_left(schedule.target) == 0
    assert not any(running.remaining(schedule.target).values())


# Metrics


def test_mean_metrics_average_by_name_over_as_many_values_as_there_were():
    metrics = MeanMetrics()
    for value in (1.0, 2.0, 6.0):
        metrics.add("world_model", {"loss": torch.tensor(value)})
    metrics.add("actor_critic", {"loss": torch.tensor(5.0)})
    assert metrics.summary() == {"world_model/loss": 3.0, "actor_critic/loss": 5.0}


def test_token_counts_become_the_usage_of_the_codebook_over_the_epoch():
    metrics = MeanMetrics()
    metrics.add("autoencoder", {"token_counts": torch.tensor([4.0, 0.0, 0.0])})
    metrics.add("autoencoder", {"token_counts": torch.tensor([0.0, 4.0, 0.0])})
    assert metrics.summary() == pytest.approx({"codebook/perplexity": 2.0, "codebook/active_codes": 2.0})


def test_metrics_of_a_resumed_epoch_go_on_where_the_models_are():
    """What was saved of it is on the host; a tensor without values stands for one of a GPU."""
    metrics = MeanMetrics({"autoencoder/token_counts": torch.zeros(3)}, {"autoencoder/token_counts": 1})
    metrics.add("autoencoder", {"token_counts": torch.zeros(3, device="meta")})
    assert metrics.sums["autoencoder/token_counts"].device.type == "meta"


def test_a_metric_that_is_written_to_later_is_not_changed_by_it():
    metrics, value = MeanMetrics(), torch.tensor(1.0)
    metrics.add("a", {"loss": value})
    value.fill_(9.0)
    assert metrics.summary() == {"a/loss": 1.0}


def test_an_epoch_without_updates_has_no_metrics():
    assert MeanMetrics().summary() == {}


def test_skipped_updates_are_counted_and_take_no_part_in_the_means():
    metrics = MeanMetrics()
    for loss, skipped in [(2.0, 0.0), (0.0, 1.0), (4.0, 0.0)]:
        metrics.add("a", {"loss": torch.tensor(loss), "skipped_updates": torch.tensor(skipped)})
    metrics.add("b", {"loss": torch.tensor(0.0), "skipped_updates": torch.tensor(1.0)})
    assert metrics.summary() == {"a/loss": 3.0, "a/skipped_updates": 1.0, "b/skipped_updates": 1.0}
