import errno
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from iris_gym.errors import UsageError
from iris_gym.training import checkpoint
from iris_gym.training.checkpoint import (
    Snapshot,
    complete_checkpoints,
    load_modules,
    load_optimizers,
    module_tensors,
    optimizer_tensors,
    read_newest_checkpoint,
    read_zip,
    write_checkpoint,
    write_zip,
)


def snapshot(number: int) -> Snapshot:
    return Snapshot(
        {"number": number, "nested": {"list": [1, 2.5, None]}},
        {"actor.weight": torch.full((2, 3), float(number)), "actor.count": torch.tensor(number)},
        {"random.global": torch.arange(5, dtype=torch.uint8)},
    )


def number_in(root: Path) -> int | None:
    newest = read_newest_checkpoint(root)
    return newest and newest.state["number"]


class Crash(BaseException):
    """As good as a kill: nobody catches it by accident."""


# ------------------------------------------------------------------ one file


def test_a_zip_gives_back_what_was_written(tmp_path):
    write_zip(snapshot(3), tmp_path / "agent.zip")
    read = read_zip(tmp_path / "agent.zip")
    assert read.state == snapshot(3).state
    torch.testing.assert_close(read.weights, snapshot(3).weights, rtol=0, atol=0)
    torch.testing.assert_close(read.training, snapshot(3).training, rtol=0, atol=0)


def test_a_zip_has_the_rights_of_any_new_file(tmp_path):
    write_zip(snapshot(3), tmp_path / "agent.zip")
    (tmp_path / "other").touch()
    assert (tmp_path / "agent.zip").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_crash_leaves_the_older_zip_and_nothing_else(function, tmp_path, monkeypatch):
    write_zip(snapshot(1), tmp_path / "agent.zip")

    def crash(*_):
        raise Crash

    monkeypatch.setattr(checkpoint.os, function, crash)
    with pytest.raises(Crash):
        write_zip(snapshot(2), tmp_path / "agent.zip")
    assert read_zip(tmp_path / "agent.zip").state["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["agent.zip"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_zip_is_refused(share, tmp_path):
    path = tmp_path / "agent.zip"
    write_zip(snapshot(1), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UsageError, match=r"agent\.zip' is no saved agent"):
        read_zip(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "agent.zip"
    write_zip(snapshot(1), path)
    content = path.read_bytes()
    place = content.index(b'"number"') + 2
    path.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with pytest.raises(UsageError, match="is no saved agent"):
        read_zip(path)


def test_a_compressed_zip_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("state.json", b" " * 10_000_000)
    with pytest.raises(UsageError, match="compressed"):
        read_zip(tmp_path / "bomb.zip")


def test_pickles_of_stable_baselines3_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "ppo.zip", "w") as archive:
        archive.writestr("data", pickle.dumps({}))
        archive.writestr("policy.pth", pickle.dumps({}))
    with pytest.raises(UsageError, match="it holds 'data', and is no file that iris_gym wrote"):
        read_zip(tmp_path / "ppo.zip")


@pytest.mark.parametrize("state", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"format_version": '])
def test_a_damaged_state_is_refused(state):
    files = snapshot(1).to_files() | {"state.json": state}
    with pytest.raises(UsageError, match=r"here is no saved agent: its state\.json"):
        Snapshot.from_files(files, "here")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(version):
    files = snapshot(1).to_files() | {"state.json": json.dumps({"format_version": version}).encode()}
    with pytest.raises(UsageError, match=f"format_version={version!r}, this iris_gym reads 1"):
        Snapshot.from_files(files, "here")


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors"])
def test_missing_or_damaged_tensors_are_refused(name):
    files = snapshot(1).to_files()
    with pytest.raises(UsageError, match="here is damaged"):
        Snapshot.from_files(files | {name: files[name][:20]}, "here")
    del files[name]
    with pytest.raises(UsageError, match="here is damaged"):
        Snapshot.from_files(files, "here")


# ------------------------------------------------------------------ checkpoint folders


def test_the_newest_checkpoint_wins_and_the_last_are_kept(tmp_path):
    assert read_newest_checkpoint(tmp_path / "checkpoints") is None
    for number in (9, 10, 100):
        path = write_checkpoint(snapshot(number), tmp_path / "checkpoints", step=number, keep=2)
        assert path.name == f"{number:010d}"
        assert number_in(tmp_path / "checkpoints") == number
    assert [path.name for path in complete_checkpoints(tmp_path / "checkpoints")] == ["0000000010", "0000000100"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_holds_weights_apart_from_the_rest(tmp_path):
    folder = write_checkpoint(snapshot(1), tmp_path, step=1, keep=1)
    assert {path.name for path in folder.iterdir()} == {
        "complete",
        "state.json",
        "training.safetensors",
        "weights.safetensors",
    }


def test_the_same_weights_are_the_same_bytes(tmp_path):
    folders = [write_checkpoint(snapshot(7), tmp_path / name, step=1, keep=1) for name in ("one", "two")]
    one, two = ((folder / "weights.safetensors").read_bytes() for folder in folders)
    assert one == two


def test_others_may_read_a_checkpoint_as_any_folder(tmp_path):
    folder = write_checkpoint(snapshot(1), tmp_path, step=1, keep=1)
    (tmp_path / "any").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_an_incomplete_folder_is_no_checkpoint(tmp_path):
    write_checkpoint(snapshot(1), tmp_path, step=1, keep=5)
    folder = write_checkpoint(snapshot(2), tmp_path, step=2, keep=5)
    (folder / "complete").unlink()
    assert number_in(tmp_path) == 1
    write_checkpoint(snapshot(3), tmp_path, step=2, keep=5)
    assert number_in(tmp_path) == 3


@pytest.mark.parametrize("step", [1, 2], ids=["same step", "next step"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_crash_at_any_moment_leaves_a_checkpoint(keep, step, tmp_path, monkeypatch):
    """The n-th call that touches the disk fails, for every n until none does; then nothing temporary is left."""
    crashes = 0
    for fatal in range(100):
        root = tmp_path / str(fatal)
        write_checkpoint(snapshot(1), root, step=1, keep=keep)
        with monkeypatch.context() as patch:
            crashed = _crash_at(patch, fatal, root, step, keep)
        assert number_in(root) in ((1, 2) if crashed else (2,))
        crashes += crashed
        write_checkpoint(snapshot(3), root, step=step, keep=keep)
        assert number_in(root) == 3
        assert all(path.name.isdigit() for path in root.iterdir())
        if not crashed:
            break
    assert crashes >= 10


def _crash_at(patch, fatal: int, root: Path, step: int, keep: int) -> bool:
    calls = iter(range(1000))

    def failing(function):
        def call(*arguments, **options):
            if dead or next(calls) == fatal:
                dead.append(True)
                raise Crash
            return function(*arguments, **options)

        return call

    dead: list[bool] = []  # a process that was killed does not tidy up either
    for module, name in (
        (os, "fsync"),
        (os, "rename"),
        (os, "chmod"),
        (checkpoint.shutil, "rmtree"),
        (checkpoint, "write_tensors"),
        (checkpoint.tempfile, "mkdtemp"),
    ):
        patch.setattr(module, name, failing(getattr(module, name)))
    try:
        write_checkpoint(snapshot(2), root, step=step, keep=keep)
    except Crash:
        return True
    return False


DAMAGED_FILES = ["state.json", "weights.safetensors", "training.safetensors", "complete"]


@pytest.mark.parametrize("name", DAMAGED_FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(name, damage, tmp_path):
    for number in (1, 2):
        folder = write_checkpoint(snapshot(number), tmp_path, number, keep=2)
    file = folder / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    if name == "complete" and damage == "missing":
        assert number_in(tmp_path) == 1, "without its mark it was never finished"
        return
    with pytest.warns(UserWarning, match="0000000002.*; using the checkpoint before it, 0000000001"):
        assert number_in(tmp_path) == 1


def test_every_flipped_byte_is_noticed(tmp_path):
    write_checkpoint(snapshot(1), tmp_path, 1, keep=2)
    weights = write_checkpoint(snapshot(2), tmp_path, 2, keep=2) / "weights.safetensors"
    content = weights.read_bytes()
    for place in range(len(content)):
        weights.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.warns(UserWarning, match="weights.safetensors changed since it was written"):
            assert number_in(tmp_path) == 1


def test_where_all_are_damaged_none_is_used(tmp_path):
    for number in (1, 2):
        (write_checkpoint(snapshot(number), tmp_path, number, keep=2) / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="no checkpoint can be used: checkpoint .*0000000002' is damaged: state.json"):
        read_newest_checkpoint(tmp_path)


def test_a_checkpoint_before_there_were_checksums_is_read(tmp_path):
    (write_checkpoint(snapshot(1), tmp_path, 1, keep=2) / "complete").write_text("")
    assert number_in(tmp_path) == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_went_back_keeps_what_it_writes_and_not_the_damaged_one(keep, tmp_path):
    for step in (10, 20):
        folder = write_checkpoint(snapshot(step), tmp_path, step, keep=2)
    (folder / "state.json").write_text("{}")
    write_checkpoint(snapshot(15), tmp_path, 15, keep=keep)
    assert [folder.name for folder in complete_checkpoints(tmp_path)] == ["0000000010", "0000000015"][-keep:]


def test_an_older_checkpoint_that_cannot_go_yet_ends_no_training(tmp_path, monkeypatch):
    """As on Windows, where another process reads it."""
    write_checkpoint(snapshot(1), tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError("in use")))
        write_checkpoint(snapshot(2), tmp_path, 2, keep=1)
    assert number_in(tmp_path) == 2 and len(complete_checkpoints(tmp_path)) == 2
    write_checkpoint(snapshot(3), tmp_path, 3, keep=1)
    assert number_in(tmp_path) == 3 and [path.name for path in tmp_path.iterdir()] == ["0000000003"]


def test_a_drive_that_flushes_no_folders_gets_its_checkpoints(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    write_checkpoint(snapshot(1), tmp_path, 1, keep=1)
    assert number_in(tmp_path) == 1


def test_the_state_of_many_long_games_is_read_again(tmp_path):
    state = {"rewards": [0.0] * 1_000_000}
    write_checkpoint(Snapshot(state, {}, {}), tmp_path, 1, keep=1)
    read = read_newest_checkpoint(tmp_path)
    assert read and read.state == state
    assert (tmp_path / "0000000001" / "state.json").stat().st_size > 8_000_000


def test_a_full_disk_leaves_the_older_checkpoint_and_no_remains(tmp_path, monkeypatch):
    write_checkpoint(snapshot(1), tmp_path, step=1, keep=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(snapshot(2), tmp_path, step=2, keep=1)
    assert number_in(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["0000000001"]


def test_tensors_that_cannot_be_written_are_an_operating_system_error_and_files_have_ordinary_permissions(tmp_path):
    checkpoint.write_tensors({"a": torch.zeros(2).expand(3, 2)}, tmp_path / "a.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint.write_tensors({"a": torch.zeros(2)}, tmp_path / "missing" / "a.safetensors")


# ------------------------------------------------------------------ modules and optimizers


def test_modules_travel_with_their_buffers():
    source, target = ({"net": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))} for _ in range(2))
    source["net"](torch.randn(4, 2))
    tensors = module_tensors(source)
    assert "net.1.running_mean" in tensors
    load_modules(target, tensors, "there")
    torch.testing.assert_close(module_tensors(target), tensors, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("net.weight"), "there lacks tensor 'net.weight'"),
        (lambda tensors: tensors.update(other=torch.zeros(1)), "there has an unexpected tensor 'other'"),
        (
            lambda tensors: tensors.update({"net.weight": torch.zeros(3, 3)}),
            r"tensor 'net.weight' has shape \(3, 3\), its config asks for \(3, 2\)",
        ),
    ],
    ids=["missing", "unexpected", "wrong shape"],
)
def test_tensors_that_do_not_fit_are_named_and_change_nothing(change, words):
    modules = {"net": nn.Linear(2, 3)}
    before = modules["net"].bias.detach().clone()
    tensors = {name: value + 1 for name, value in module_tensors(modules).items()}
    change(tensors)
    with pytest.raises(UsageError, match=words):
        load_modules(modules, tensors, "there")
    assert torch.equal(modules["net"].bias, before)


def test_an_optimizer_goes_on_as_if_nothing_had_happened():
    nets = [nn.Linear(2, 2) for _ in range(2)]
    optimizers = [torch.optim.AdamW(net.parameters(), 0.1) for net in nets]
    for _ in range(3):
        _step(nets[0], optimizers[0])
    load_modules({"net": nets[1]}, module_tensors({"net": nets[0]}), "there")
    load_optimizers({"net": optimizers[1]}, optimizer_tensors({"net": optimizers[0]}))
    for net, optimizer in zip(nets, optimizers, strict=True):
        _step(net, optimizer)
    torch.testing.assert_close(nets[1].state_dict(), nets[0].state_dict(), rtol=0, atol=0)


def test_an_optimizer_without_a_step_has_nothing_to_keep():
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters())
    assert optimizer_tensors({"net": optimizer}) == {}
    load_optimizers({"net": optimizer}, {})


def test_optimizers_are_kept_apart_though_one_name_begins_like_another():
    nets = {"net": nn.Linear(1, 1), "net2": nn.Linear(1, 1)}
    optimizers = {name: torch.optim.Adam(net.parameters()) for name, net in nets.items()}
    _step(nets["net2"], optimizers["net2"])
    tensors = optimizer_tensors(optimizers)
    fresh = {name: torch.optim.Adam(net.parameters()) for name, net in nets.items()}
    load_optimizers(fresh, tensors)
    assert not fresh["net"].state
    assert fresh["net2"].state


def _step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.ones(1, next(net.parameters()).shape[1])).sum().backward()
    optimizer.step()


def test_moments_are_laid_out_as_the_parameters(tmp_path):
    """In another layout sums are taken in another order, and may round apart."""
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(convolution.parameters())
    convolution(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    saved = {name: value.contiguous() for name, value in optimizer_tensors({"net": optimizer}).items()}
    other = torch.optim.Adam(convolution.parameters())
    load_optimizers({"net": other}, saved)
    for name, moment in other.state[convolution.weight].items():
        assert torch.equal(moment, optimizer.state[convolution.weight][name])
        assert moment.stride() == optimizer.state[convolution.weight][name].stride()
