import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from iris_gym.errors import UsageError
from iris_gym.training import run_folder
from iris_gym.training.checkpoint import Snapshot, write_checkpoint, write_zip
from iris_gym.training.run_folder import RunFolder, read_snapshot

SNAPSHOT = Snapshot({"number": 7}, {"weight": torch.zeros(1)}, {"moment": torch.zeros(1)})


def test_a_new_folder_holds_its_config(tmp_path):
    run = RunFolder(tmp_path / "runs" / "one")
    run.check_free()
    run.create({"env": "ALE/Pong-v5"})
    assert json.loads(run.config_file.read_text()) == {"env": "ALE/Pong-v5"}
    run.check_run()


def test_its_parts_have_the_names_of_the_contract(tmp_path):
    run = RunFolder(tmp_path)
    parts = (run.config_file, run.checkpoints, run.replay, run.logs, run.media, run.scores_file)
    names = "config.json checkpoints replay logs media scores.json".split()
    assert [path.relative_to(tmp_path).as_posix() for path in parts] == names


def test_checking_creates_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b").check_free()
    with pytest.raises(UsageError):
        RunFolder(tmp_path / "a" / "b").check_run()
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_free(tmp_path):
    RunFolder(tmp_path).check_free()


def test_a_relative_path_is_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunFolder(RunFolder(tmp_path).path.relative_to(tmp_path) / "new").check_free()


def test_a_run_is_not_free(tmp_path):
    RunFolder(tmp_path).create({})
    with pytest.raises(UsageError, match=r"run_dir='.*' holds a run already; resume it"):
        RunFolder(tmp_path).check_free()


def test_a_folder_with_something_else_is_not_free(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="in use by something else"):
        RunFolder(tmp_path).check_free()


def test_a_file_is_not_free_nor_can_it_hold_a_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="in use by something else"):
        RunFolder(tmp_path / "file").check_free()
    with pytest.raises(UsageError, match="is no writable folder"):
        RunFolder(tmp_path / "file" / "run").check_free()


def test_a_folder_that_cannot_be_written_is_not_free(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="is no writable folder"):
        RunFolder(tmp_path / "run").check_free()


def test_links_of_weights_and_biases_are_its_own(tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/debug.log").symlink_to(tmp_path / "somewhere")
    run.check_files()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/wandb").symlink_to(tmp_path / "somewhere")
    with pytest.raises(UsageError, match="logs/wandb' is a link or no file"):
        run.check_files()


def test_clearing_leaves_what_is_not_the_runs(tmp_path):
    run = RunFolder(tmp_path)
    run.create({}, seed=3)
    run.replay.mkdir()
    (run.replay / "frames.bin").touch()
    (tmp_path / "notes.txt").touch()
    run.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "notes.txt", "run.json"]
    assert run.settings() == {"seed": 3}


def test_a_snapshot_is_read_from_a_zip_with_or_without_its_suffix(tmp_path):
    write_zip(SNAPSHOT, tmp_path / "agent.zip")
    for name in ("agent.zip", "agent"):
        assert read_snapshot(tmp_path / name).state == {"number": 7}
        assert read_snapshot(str(tmp_path / name)).state == {"number": 7}


def test_a_snapshot_is_read_from_a_run_folder(tmp_path):
    RunFolder(tmp_path).create({})
    with pytest.raises(UsageError, match="no complete checkpoint yet"):
        read_snapshot(tmp_path)
    write_checkpoint(SNAPSHOT, RunFolder(tmp_path).checkpoints, step=1, keep=1)
    assert read_snapshot(tmp_path).state == {"number": 7}


def test_no_snapshot_is_read_from_elsewhere(tmp_path):
    with pytest.raises(UsageError, match=r"is no run folder: it has no config\.json"):
        read_snapshot(tmp_path)
    with pytest.raises(UsageError, match="does not exist; give a run folder or a saved zip"):
        read_snapshot(tmp_path / "nowhere")


def test_a_lock_keeps_other_processes_out_while_it_is_held(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create({})
    held = [run.lock(), run.lock()]
    assert held[0] is held[1], "one process may have several agents in a folder"
    take = (
        f"from pathlib import Path; from iris_gym.training.run_folder import RunFolder as R; R(Path({str(run.path)!r}))"
    )
    assert (
        b"is being trained in by another process"
        in subprocess.run([sys.executable, "-c", take + ".lock()"], stderr=subprocess.PIPE).stderr
    )
    child = os.fork()
    if not child:  # which has no part in the lock, and may outlive this process
        os._exit(len(run_folder._locks))
    assert os.waitpid(child, 0)[1] == 0
    held.clear()
    assert subprocess.run([sys.executable, "-c", take + ".lock()"]).returncode == 0


def test_a_drive_without_locks_does_without(tmp_path, monkeypatch):
    def no_locks(file, operation):
        assert file.writable(), "which a network drive wants"
        raise OSError(errno.ENOLCK, "No locks available")

    run = RunFolder(tmp_path / "run")
    run.create({})
    monkeypatch.setattr(run_folder.fcntl, "flock", no_locks)
    with pytest.warns(
        UserWarning, match="run' is on a drive without locks .No locks available.: nothing keeps another"
    ):
        assert run.lock()


def test_a_drive_without_links_gets_its_run(tmp_path, monkeypatch):
    def no_links(source, target):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    RunFolder(tmp_path / "run").create({"made": "first"}, seed=1)
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder(tmp_path / "run").create({"made": "second"})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"made": "first"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "run.json"]


def test_of_two_processes_that_make_a_folder_at_once_one_gets_it(tmp_path):
    RunFolder(tmp_path / "run").create({"made": "first"}, seed=1)
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder(tmp_path / "run").create({"made": "second"})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"made": "first"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "run.json"]


def test_what_a_process_leaves_that_is_killed_while_it_makes_a_folder_is_in_nobodys_way(tmp_path):
    run = RunFolder(tmp_path)
    run.write_settings(seed=3)
    (tmp_path / "config.77.tmp").touch()
    run.check_free()
    run.create({}, env="Pong")
    assert run.settings() == {"seed": 3, "env": "Pong"}
