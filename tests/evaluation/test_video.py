import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from moviepy import VideoFileClip

from iris_gym.evaluation import video
from iris_gym.evaluation.video import BAND, GREEN, RED, Recording
from iris_gym.functional import unit_frames
from iris_gym.types import DreamStep


class Counting(gym.Env):
    """Frame t is grey with level t; action a earns a; ends after six steps."""

    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.image(), {}

    def step(self, action):
        self.t += 1
        return self.image(), float(action), self.t == 6, False, {}

    def image(self):
        return np.full((64, 64, 3), self.t, np.uint8)


class CountingPolicy:
    """Takes as action how many frames it has seen before, modulo 3."""

    def initial_state(self, batch):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def act(self, frames, state, *, temperature, generator):
        assert frames.dtype == torch.uint8 and frames.shape == (1, 3, 64, 64)
        return (state[0][:, 0] % 3).long(), (state[0] + 1, state[1])


class Adder:
    """Dynamics that add the action to the grey level; action 2 ends."""

    device = torch.device("cpu")

    def start(self, frames):
        return frames

    def decode(self, state):
        return state

    def step(self, state, action, *, generator):
        state = state + action.view(-1, 1, 1, 1) / 255
        return state, DreamStep(state, action.float() - 1, action == 2, action[:, None])


def grey(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)


def levels(recording: Recording) -> list[int]:
    return recording.frames[:, 0, 0, 0].tolist()


def recording(rewards: list[float], ends: list[bool]) -> Recording:
    steps = len(rewards)
    return Recording(
        grey(*range(0, 20 * (steps + 1), 20)), torch.zeros(steps).long(), torch.tensor(rewards), torch.tensor(ends)
    )


def test_an_episode_of_the_real_environment():
    played = video.play(CountingPolicy(), Counting(), seed=0, temperature=1.0, max_steps=100)
    assert levels(played) == list(range(7))
    assert played.actions.tolist() == played.rewards.tolist() == [0, 1, 2, 0, 1, 2]
    assert played.ends.tolist() == [False] * 5 + [True]


def test_an_episode_is_cut():
    played = video.play(CountingPolicy(), Counting(), seed=0, temperature=1.0, max_steps=4)
    assert levels(played) == list(range(5)) and not played.ends.any()


def test_a_dream_of_given_actions_goes_on_past_its_ends():
    dreamt = video.dream(Adder(), grey(10)[0], seed=0, max_steps=1, actions=torch.tensor([1, 2, 0, 2, 1]))
    assert levels(dreamt) == [10, 11, 13, 13, 15, 16]
    assert dreamt.rewards.tolist() == [0, 1, -1, 1, 0]
    assert dreamt.ends.tolist() == [False, True, False, True, False]


def test_a_dream_of_the_policy_stops_at_its_end():
    class Actor:
        """Acts 0, 1, 2, …"""

        def act(self, frame, state):
            return 100.0 * torch.nn.functional.one_hot(state[0][:, 0].long() % 3, 3).float(), (state[0] + 1, state[1])

    policy = CountingPolicy()
    policy.actor_critic = Actor()
    dreamt = video.dream(Adder(), grey(10)[0], seed=0, max_steps=50, policy=policy)
    assert dreamt.actions.tolist() == [0, 1, 2] and levels(dreamt) == [10, 10, 11, 13]
    assert len(video.dream(Adder(), grey(10)[0], seed=0, max_steps=2, policy=policy).actions) == 2


def test_reconstructions_in_batches():
    class Inverter:
        def reconstruct(self, frames):
            return 1 - frames

    frames = grey(*range(10))
    kept = video.reconstruct(Inverter(), frames, torch.device("cpu"), batch=3)
    assert torch.equal(unit_frames(kept), 1 - unit_frames(frames))


def test_panels_lie_side_by_side_with_marks_under_them():
    scale, band = 4, 4 * BAND
    images = list(
        video.panels({"real": recording([0, 1], [False, True]), "dream": recording([0, -1], [False, False])}, scale)
    )
    assert [image.shape for image in images] == [(256 + 2 * band, 512, 3)] * 3
    for t, image in enumerate(images):
        assert (image[band:-band] == 20 * t).all()  # every pixel of the frame a whole square, without blur
        assert image[:band].any()  # the names
    under = [[image[-band:, :256], image[-band:, 256:]] for image in images]
    assert not has(under[1][0], RED) and not has(under[1][0], GREEN)
    assert has(under[2][0], GREEN) and has(under[2][0], RED)  # a reward and an end
    assert has(under[2][1], RED) and not has(under[2][1], GREEN)


def has(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image.astype(int) - colour).sum(-1) < 60).any())


def test_a_video_has_every_image_at_its_pace(tmp_path):
    path = tmp_path / "new" / "clip.mp4"
    images = [np.full((64, 96, 3), 10 * index, np.uint8) for index in range(20)]
    video.write_video(path, iter(images), 10)
    clip = VideoFileClip(str(path))
    assert clip.fps == 10 and clip.size == [96, 64] and clip.duration == pytest.approx(2, abs=0.15)
    for index, frame in enumerate(itertools.islice(clip.iter_frames(), 20)):
        assert abs(frame.astype(int) - 10 * index).max() <= 4
    ffmpeg = clip.reader.proc
    clip.close()
    for pipe in (ffmpeg.stdout, ffmpeg.stderr):  # left open by MoviePy where ffmpeg has ended by itself before
        pipe.close()
    ffmpeg.wait()
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


def test_a_video_is_whole_or_not_there(tmp_path):
    def images():
        yield np.zeros((64, 64, 3), np.uint8)
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        video.write_video(tmp_path / "clip.mp4", images(), 10)
    assert not list(tmp_path.iterdir())
