import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.training.hard_examples import CANDIDATES, with_hardest

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


@pytest.mark.parametrize("count", [1, BATCH, BATCH + CANDIDATES - 2])
def test_without_candidates_all_frames_are_learned_from_and_none_is_looked_at(count: int):
    tokenizer, frames = Halves(), frames_of(list(range(count)))
    assert with_hardest(tokenizer, frames, BATCH) is frames
    assert not tokenizer.given


def test_the_first_frames_stay_and_of_the_others_the_worst_follow():
    levels = [1, 200, *torch.randperm(DRAWN - 2, generator=torch.Generator().manual_seed(0)).add(10).tolist()]
    taken = with_hardest(Halves(), frames_of(levels), BATCH)
    brightest = sorted(levels[2:])[-2:]
    assert (taken[:, 0, 0, 0] * 255).round().tolist() == [1, 200, *reversed(brightest)]


def test_candidates_are_looked_at_a_batch_at_a_time_and_without_gradient():
    tokenizer = Halves()
    taken = with_hardest(tokenizer, frames_of(list(range(DRAWN))).requires_grad_(), BATCH)
    assert tokenizer.given == [4, 4, 4, 2]
    assert not taken.requires_grad


def test_a_whole_batch_may_be_of_hard_examples():
    taken = with_hardest(Halves(), frames_of(list(range(BATCH * CANDIDATES))), BATCH)
    assert (taken[:, 0, 0, 0] * 255).round().tolist() == [27, 26, 25, 24]


def test_what_autocast_made_of_the_weights_to_look_at_frames_does_not_serve_learning():
    tokenizer = build_models(IRISConfig.tiny(), 3, "cpu").tokenizer
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = tokenizer.loss(with_hardest(tokenizer, torch.rand(1 + CANDIDATES, 3, 64, 64), 2))
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tokenizer.parameters())
