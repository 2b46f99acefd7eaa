import pytest
import torch

from iris_gym.training.hard_examples import CANDIDATES, mine_hard_examples

BATCH, HARD = 4, 2
DRAWN = BATCH + HARD * (CANDIDATES - 1)


class Halves(torch.nn.Module):
    """Reconstructs at half the brightness: the brighter a frame, the worse. Notes how many frames it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.given: list[int] = []

    def reconstruct(self, frames):
        self.given.append(len(frames))
        return frames * self.weight


def frames_of(levels: list[int]) -> torch.Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 64, 64) / 255


def mined(tokenizer: Halves, frames: torch.Tensor, at_once: int = BATCH) -> torch.Tensor:
    return mine_hard_examples(tokenizer, frames, BATCH, at_once=at_once)


@pytest.mark.parametrize("count", [1, BATCH, BATCH + CANDIDATES - 2])
def test_without_candidates_all_frames_are_learned_from_and_none_is_looked_at(count: int):
    tokenizer, frames = Halves(), frames_of(list(range(count)))
    assert mined(tokenizer, frames) is frames
    assert not tokenizer.given


def test_the_first_frames_stay_and_of_the_others_the_worst_follow():
    levels = [1, 200, *torch.randperm(DRAWN - 2, generator=torch.Generator().manual_seed(0)).add(10).tolist()]
    taken = mined(Halves(), frames_of(levels))
    brightest = sorted(levels[2:])[-2:]
    assert (taken[:, 0, 0, 0] * 255).round().tolist() == [1, 200, *reversed(brightest)]


def test_candidates_are_looked_at_a_few_at_a_time_and_without_gradient():
    tokenizer = Halves()
    taken = mined(tokenizer, frames_of(list(range(DRAWN))).requires_grad_(), at_once=3)
    assert tokenizer.given == [3, 3, 3, 3, 2]
    assert not taken.requires_grad


def test_a_whole_batch_may_be_of_hard_examples():
    taken = mined(Halves(), frames_of(list(range(BATCH * CANDIDATES))))
    assert (taken[:, 0, 0, 0] * 255).round().tolist() == [27, 26, 25, 24]
