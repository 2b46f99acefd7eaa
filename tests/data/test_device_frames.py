import numpy as np
import pytest
import torch

from iris_gym.data import device_frames
from iris_gym.data.device_frames import DeviceFrames

CPU = torch.device("cpu")


def noise(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (rows, 3, 64, 64), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small_uploads(monkeypatch):
    monkeypatch.setattr(device_frames, "UPLOAD_ROWS", 4)


@pytest.fixture
def uploads(monkeypatch):
    """How many rows go over at a time."""
    sent, on_device = [], device_frames.on_device

    def counting(values, device):
        if values.dtype == np.uint8:
            sent.append(len(values))
        return on_device(values, device)

    monkeypatch.setattr(device_frames, "on_device", counting)
    return sent


def test_padded_places_are_zero():
    frames, mirror = noise(6), DeviceFrames(CPU)
    assert mirror.follow(frames, 6)
    rows = np.array([[5, 5, 0], [2, 3, 3]])
    mask = np.array([[False, True, True], [True, True, False]])
    gathered = mirror.gather(rows, mask)
    assert gathered.dtype == torch.uint8
    np.testing.assert_array_equal(gathered, frames[rows] * mask[..., None, None, None])
    np.testing.assert_array_equal(mirror.gather(np.array([[5]]), np.array([[True]])), frames[[[5]]])


def test_each_row_goes_over_once(uploads):
    frames, mirror = noise(12), DeviceFrames(CPU)
    for rows in (0, 3, 3, 12):
        assert mirror.follow(frames, rows)
    assert uploads == [3, 4, 4, 1]
    all_rows = np.arange(12)[None]
    np.testing.assert_array_equal(mirror.gather(all_rows, np.ones((1, 12), bool))[0], frames)


def test_it_grows_by_a_quarter(monkeypatch):
    frames, mirror = noise(50), DeviceFrames(CPU)
    capacities = set()
    for rows in range(1, 51):
        mirror.follow(frames, rows)
        capacities.add(len(mirror._frames))
    assert len(capacities) < 15
    assert max(capacities) < 50 * 5 / 4 + 1
    np.testing.assert_array_equal(mirror.gather(np.arange(50)[None], np.ones((1, 50), bool))[0], frames)


def test_it_does_not_grow_where_the_old_and_the_new_would_not_fit(monkeypatch):
    frames, mirror = noise(6), DeviceFrames(CPU)
    monkeypatch.setattr(device_frames, "free_bytes", lambda device: 2 * 4 * 12_288)
    assert mirror.follow(frames, 4)
    assert not mirror.follow(frames, 5)
    np.testing.assert_array_equal(mirror.gather(np.arange(4)[None], np.ones((1, 4), bool))[0], frames[:4])
    assert mirror.follow(frames, 4)


def test_it_does_not_grow_where_what_is_free_lies_in_pieces(monkeypatch):
    frames, mirror = noise(6), DeviceFrames(CPU)
    assert mirror.follow(frames, 4)

    def refuse(*_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", refuse)
        assert not mirror.follow(frames, 5)
    assert mirror.follow(frames, 6)
    np.testing.assert_array_equal(mirror.gather(np.arange(6)[None], np.ones((1, 6), bool))[0], frames)


def test_what_torch_keeps_of_a_gpu_without_using_it_is_free(monkeypatch):
    for name, value in dict(mem_get_info=(100, 1000), memory_reserved=70, memory_allocated=30).items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert device_frames.free_bytes(torch.device("cuda", 1)) == 140
    assert device_frames.free_bytes(CPU) == float("inf")
