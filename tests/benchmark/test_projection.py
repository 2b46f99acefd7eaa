from dataclasses import replace

import numpy as np
import pytest

from iris_gym.benchmark.projection import Computed, Reader, drawn_share, frames_computed, projected_seconds
from iris_gym.training.learner import LearnerPlan


def plan(start_after: int = 0, stop_after: int | None = None, updates: int = 5, length: int = 2) -> LearnerPlan:
    return LearnerPlan(start_after, stop_after, updates, batch_size=10, segment_length=length, align="start")


def reader(component: str, plan: LearnerPlan, **reading: float) -> Reader:
    return Reader(component, plan, plan.batch_size, plan.segment_length, **reading)


def encoded(epochs: list[dict[str, Computed]], name: str) -> list[float]:
    return [epoch[name].encoded for epoch in epochs]


def test_one_segment_is_its_length_and_many_are_everything():
    assert drawn_share(20, 1000, 1) == pytest.approx(20 / 1000)
    assert drawn_share(20, 1000, 10**6) == 1.0
    assert drawn_share(20, 5, 1) == 1.0  # shorter than a segment
    assert drawn_share(20, 1000, 0) == 0.0


def test_a_tokenizer_that_learns_has_everything_encoded_again():
    """50 segments of 2 frames an epoch, from the second on; once the tokenizer stopped, only those that were missed."""
    share, stored = drawn_share(2, 100, 50), [100, 100, 100]
    learning = frames_computed([reader("world_model", plan(1))], plan(), stored)
    assert encoded(learning, "world_model") == pytest.approx([0, 100 * share, 100 * share])
    stopped = frames_computed([reader("world_model", plan(1))], plan(stop_after=1), stored)
    assert encoded(stopped, "world_model") == pytest.approx([0, 100 * share, 100 * (1 - share) * share])


def test_new_frames_are_not_known_yet():
    epochs = frames_computed([reader("world_model", plan(updates=10**6))], plan(stop_after=1), [100, 150, 150])
    assert encoded(epochs, "world_model") == pytest.approx([100, 50, 0])


def test_the_actor_critic_finds_the_tokens_of_the_world_model_but_no_pictures():
    readers = [reader("world_model", plan(updates=3)), reader("actor_critic", plan(updates=4, length=3), pictures=2)]
    (epoch,) = frames_computed(readers, plan(), [100])
    first = 100 * drawn_share(2, 100, 30)
    assert epoch["world_model"] == Computed(pytest.approx(first), 0.0)
    assert epoch["actor_critic"].encoded == pytest.approx((100 - first) * drawn_share(3, 100, 40))
    assert epoch["actor_critic"].reconstructed == pytest.approx(100 * drawn_share(2, 100, 40))


@pytest.mark.parametrize(("counts", "share"), [(1000, 1.0), (30, 0.2)])
def test_who_counts_frames_encodes_those_that_the_others_left(counts, share):
    readers = [reader("world_model", plan(updates=3)), reader("actor_critic", plan(start_after=1), counts=counts)]
    first, second = frames_computed(readers, plan(stop_after=1), [100, 150])
    assert first["actor_critic"] == Computed(0.0, 0.0)  # nor does it count before it learns
    left = 150 - first["world_model"].encoded - second["world_model"].encoded
    assert second["actor_critic"].encoded == pytest.approx(left * (1 - (1 - share) * (1 - drawn_share(2, 150, 50))))


def test_a_component_that_draws_from_the_best_alone_learns_no_more_frames_than_these():
    """Of 100 frames a tenth, half of which dreams have asked for before."""
    dreams = Reader("actor_critic", plan(updates=1), rows=1, length=50, pictures=50)
    best = replace(dreams, rows=10**6, length=7, pictures=7, among=0.1)
    (epoch,) = frames_computed([dreams, best], plan(), [100])
    assert epoch == {"actor_critic": Computed(pytest.approx(50 + 5), pytest.approx(50 + 5))}


def test_the_average_is_what_drawing_gives():
    """The same two readers, drawn 2,000 times from a replay without ends."""
    generator, stored = np.random.default_rng(0), 100
    new = np.zeros(2)
    for _ in range(2000):
        known = np.zeros(stored, dtype=bool)
        for place, (segments, length) in enumerate([(10, 4), (10, 3)]):
            starts = generator.integers(stored, size=segments)
            drawn = np.unique((starts[:, None] + np.arange(length)) % stored)
            new[place] += (~known[drawn]).sum()
            known[drawn] = True
    readers = [
        reader("world_model", plan(updates=1, length=4)),
        reader("actor_critic", plan(updates=1, length=3), pictures=2),
    ]
    (epoch,) = frames_computed(readers, plan(), [stored])
    assert [computed.encoded for computed in epoch.values()] == pytest.approx(new / 2000, rel=0.02)


def test_a_run_is_counts_times_medians():
    phases = {"collect": {"median_s": 0.4}, "autoencoder": {"median_s": 8.0}, "act": {"median_s": 99.0}}
    work = {"collect": 10, "autoencoder": 5, "world_model": 0}
    assert projected_seconds(work, phases, {}) == {"collect": 4.0, "autoencoder": 40.0}
    assert projected_seconds(work | {"world_model": 1}, phases, {}) is None


def test_frames_that_are_computed_cost_extra():
    entry = {"median_s": 99.0, "warm_median_s": 3.0, "encode_frame_s": 0.5, "reconstruct_frame_s": 0.25}
    seconds = projected_seconds({"actor_critic": 10}, {"actor_critic": entry}, {"actor_critic": Computed(8.0, 4.0)})
    assert seconds == {"actor_critic": 30.0 + 4.0 + 1.0}
