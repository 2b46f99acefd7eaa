"""How long a whole run takes, from what its parts take and from how often the schedule asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iris_gym.training.learner import LearnerPlan

FORMULA = (
    "env steps × collect + for each component (updates × warm median + frames encoded × seconds to encode one + "
    "frames reconstructed × seconds to reconstruct one), over the whole schedule. Of U frames in a replay of N whose "
    "tokens or pictures are not known since the tokenizer last changed, an epoch of n segments of L frames computes "
    "U (1 - (1 - L / N)^n), for the world model first, whose tokens the actor-critic finds; with novelty_weight it "
    "encodes those it counts, too, and with imitation_share the segments that are lived have the best episodes' part "
    "of U and N. A first epoch's updates are taken to cost what later ones do. "
    "Not in it: evaluations, whose games may take any number of steps, checkpoints and pictures, and without "
    "cache_frames, where the medians hold all else, the counting of novelty_weight"
)


@dataclass(frozen=True, slots=True)
class Reader:
    """What a component reads of stored frames in an update."""

    component: str
    plan: LearnerPlan
    rows: int  # segments of an update
    length: int  # frames of a segment, whose tokens it needs
    pictures: int = 0  # those of them whose reconstructions it needs, too
    among: float = 1.0  # share of the stored frames that segments are drawn from
    counts: int = 0  # stored frames, evenly all over, whose tokens an epoch needs, too

    def segments(self, epoch: int) -> int:
        return self.plan.updates_in(epoch) * self.rows

    def drawn(self, length: int, stored: int, epoch: int) -> float:
        """The share of `stored` frames that is among `length` of each segment of an epoch."""
        return self.among * drawn_share(length, self.among * stored, self.segments(epoch))


@dataclass(frozen=True, slots=True)
class Computed:
    """Frames, on average over what may be drawn, that a component is the first to need."""

    encoded: float = 0.0
    reconstructed: float = 0.0

    def __add__(self, other: "Computed") -> "Computed":
        return Computed(self.encoded + other.encoded, self.reconstructed + other.reconstructed)

    def __truediv__(self, count: float) -> "Computed":
        return Computed(self.encoded / count, self.reconstructed / count)


def frames_computed(
    readers: Sequence[Reader], tokenizer: LearnerPlan, stored: Sequence[int]
) -> list[dict[str, Computed]]:
    """What each component computes in each epoch, by the plans of all, where the epochs end with `stored` frames.

    Readers are in the order in which they learn. They share what is known of a frame until the tokenizer learns again.
    Frames are taken to be drawn evenly, from episodes that are long beside a segment.
    """
    epochs, before = [], 0
    unknown_tokens = unknown_pictures = 0.0
    for epoch, frames in enumerate(stored, 1):
        if tokenizer.updates_in(epoch):
            unknown_tokens = unknown_pictures = 0.0
            before = 0
        unknown_tokens, unknown_pictures, before = (
            unknown_tokens + frames - before,
            unknown_pictures + frames - before,
            frames,
        )
        computed = dict.fromkeys((reader.component for reader in readers), Computed())
        for reader in readers:
            counted = min(reader.counts / frames, 1.0) if reader.segments(epoch) else 0.0
            encoded = unknown_tokens * (1 - (1 - reader.drawn(reader.length, frames, epoch)) * (1 - counted))
            reconstructed = unknown_pictures * reader.drawn(reader.pictures, frames, epoch)
            unknown_tokens, unknown_pictures = unknown_tokens - encoded, unknown_pictures - reconstructed
            computed[reader.component] += Computed(encoded, reconstructed)
        epochs.append(computed)
    return epochs


def drawn_share(length: int, stored: float, segments: int) -> float:
    """The share of `stored` frames that is in at least one of `segments` random stretches of `length` of them."""
    return 1 - (1 - min(length / stored, 1.0)) ** segments


def projected_seconds(
    work: Mapping[str, int], phases: Mapping[str, Mapping[str, Any]], computed: Mapping[str, Computed]
) -> dict[str, float] | None:
    """Seconds of each phase for `work`, counts by phase, and for frames that are not known yet; `FORMULA`.

    None where a phase that has work was not measured.
    """
    needed = {name: count for name, count in work.items() if count}
    if not needed.keys() <= phases.keys():
        return None
    return {name: _seconds(phases[name], count, computed.get(name, Computed())) for name, count in needed.items()}


def _seconds(entry: Mapping[str, Any], count: int, computed: Computed) -> float:
    warm = entry.get("warm_median_s", entry["median_s"])
    encoding = computed.encoded * entry.get("encode_frame_s", 0.0)
    return count * warm + encoding + computed.reconstructed * entry.get("reconstruct_frame_s", 0.0)
