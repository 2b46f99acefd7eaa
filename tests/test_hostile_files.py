"""A pickle in every place where Stable-Baselines3 or torch would have run it: here nothing runs."""

import base64
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
import torch
import yaml
from mutations import Still
from stable_baselines3.common.save_util import load_from_pkl, load_from_zip_file

from iris_gym import IRISAgent, IRISConfig, UsageError
from iris_gym.benchmark_table import read_result
from iris_gym.evaluation.scores import read_scores
from iris_gym.policy import IRISPolicy
from iris_gym.published import read_published
from iris_gym.training.checkpoint import FILES


class Malicious:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w').close()",)


def as_torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a checkpoint, a replay of 20 rows, and scores."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    config = IRISConfig.tiny(total_epochs=1, eval_interval=0)
    agent = IRISAgent(Still(), config, seed=0, device="cpu", run_dir=folder)
    with pytest.warns(UserWarning, match="learning ends"):
        agent.learn(20)
    agent.save(folder.parent / "agent.zip")
    agent.save_pretrained(folder.parent / "shared")
    return folder


@pytest.fixture
def trace(tmp_path):
    """Where malicious code leaves its trace; the test has to show, by `armed`, that it would have run elsewhere."""
    return tmp_path / "trace"


def armed(load: Callable[[], object], trace: Path) -> None:
    """The reader that everybody uses would have run the code."""
    assert not trace.exists(), "code of a stranger ran"
    load()
    assert trace.exists(), "the file is harmless, and the test shows nothing"
    trace.unlink()


def refused(load: Callable[[], object], trace: Path) -> None:
    with pytest.raises(UsageError) as error:
        load()
    assert "\n" not in str(error.value)
    assert not trace.exists(), "code of a stranger ran"


# ------------------------------------------------------------------ zips


@pytest.mark.parametrize("member", ["data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth", *FILES])
@pytest.mark.parametrize("beside", ["alone", "in a saved agent"])
def test_a_zip_with_a_pickle_runs_nothing(member, beside, run, tmp_path, trace):
    path, evil = tmp_path / "agent.zip", Malicious(trace)
    content = as_torch_file(evil) if member.endswith(".pth") else pickle.dumps(evil)
    if beside == "alone":
        zipfile.ZipFile(path, "w").writestr(member, content)
    else:
        with zipfile.ZipFile(run.parent / "agent.zip") as saved, zipfile.ZipFile(path, "w") as archive:
            for info in saved.infolist():
                if info.filename != member:
                    archive.writestr(info, saved.read(info))
            archive.writestr(member, content)
    loaders = [
        lambda: IRISAgent.load(path, device="cpu"),
        lambda: IRISAgent.load(path, Still(), device="cpu"),
        lambda: IRISAgent(Still(), IRISConfig.tiny(), device="cpu").set_parameters(path),
        lambda: gymnasium.make("IrisGym/Dream-v0", checkpoint=str(path), device="cpu"),
        lambda: gymnasium.make_vec("IrisGym/Dream-v0", num_envs=1, checkpoint=str(path), device="cpu"),
    ]
    for load in loaders:
        refused(load, trace)


def test_stable_baselines3_would_have_run_it(tmp_path, trace):
    """The member "data", read by the reader that `BaseAlgorithm.load` calls."""
    serialized = base64.b64encode(pickle.dumps(Malicious(trace))).decode()
    with zipfile.ZipFile(tmp_path / "ppo.zip", "w") as archive:
        data = {"policy_class": {":type:": "<class 'object'>", ":serialized:": serialized}}
        archive.writestr("data", json.dumps(data))
        archive.writestr("_stable_baselines3_version", "2.7.0")
    armed(lambda: load_from_zip_file(tmp_path / "ppo.zip"), trace)
    refused(lambda: IRISAgent.load(tmp_path / "ppo.zip", device="cpu"), trace)


# ------------------------------------------------------------------ folders


@pytest.mark.parametrize("name", FILES)
def test_a_run_folder_with_a_pickle_runs_nothing(name, run, tmp_path, trace):
    folder = shutil.copytree(run, tmp_path / "run")
    for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
        (checkpoint / name).write_bytes(pickle.dumps(Malicious(trace)))
    refused(lambda: IRISAgent.load(folder, device="cpu"), trace)
    refused(lambda: IRISAgent.resume(folder, Still(), device="cpu"), trace)
    refused(lambda: gymnasium.make("IrisGym/Dream-v0", checkpoint=str(folder), device="cpu"), trace)
    armed(lambda: pickle.loads((next((folder / "checkpoints").glob("[0-9]*")) / name).read_bytes()), trace)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "start_frames.safetensors"])
def test_a_shared_folder_with_a_pickle_runs_nothing(name, run, tmp_path, trace):
    folder = shutil.copytree(run.parent / "shared", tmp_path / "shared")
    (folder / name).write_bytes(as_torch_file(Malicious(trace)))
    refused(lambda: IRISAgent.from_pretrained(folder, device="cpu"), trace)
    refused(lambda: gymnasium.make("IrisGym/Dream-v0", checkpoint=str(folder), device="cpu"), trace)
    shutil.copy(folder / name, tmp_path / "same.pt")  # torch goes by the name
    armed(lambda: torch.load(tmp_path / "same.pt", weights_only=False), trace)


def test_a_pickle_beside_the_files_of_a_shared_folder_is_not_looked_at(run, tmp_path, trace):
    folder = shutil.copytree(run.parent / "shared", tmp_path / "shared")
    (folder / "pytorch_model.bin").write_bytes(as_torch_file(Malicious(trace)))
    IRISAgent.from_pretrained(folder, device="cpu")
    armed(lambda: torch.load(folder / "pytorch_model.bin", weights_only=False), trace)


@pytest.mark.parametrize("name", ["replay.json", "steps.bin", "frames.bin"])
def test_a_replay_that_is_a_pickle_runs_nothing(name, run, tmp_path, trace):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "replay" / name).write_bytes(pickle.dumps(Malicious(trace)))
    refused(lambda: IRISAgent.resume(folder, Still(), device="cpu"), trace)
    armed(lambda: load_from_pkl(folder / "replay" / name), trace)


def test_a_replay_buffer_of_stable_baselines3_has_no_way_in(run, tmp_path, trace):
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(Malicious(trace)))
    assert not hasattr(IRISAgent, "load_replay_buffer")
    refused(lambda: IRISAgent.load(tmp_path / "buffer.pkl", device="cpu"), trace)
    armed(lambda: load_from_pkl(tmp_path / "buffer.pkl"), trace)


def test_a_run_folder_of_links_is_not_written_through(run, tmp_path):
    """A stranger's run whose replay is a link to a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_bytes(bytes(10_000_000))
    for name in ("replay/frames.bin", "replay/steps.bin", "replay/replay.tmp", "logs/progress.csv", "config.json"):
        folder = shutil.copytree(run, tmp_path / name.replace("/", "-"))
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(mine if name != "config.json" else shutil.copy(run / name, tmp_path / "c.json"))
        with pytest.raises(UsageError, match="is a link or no file; copy the run again whole"):
            IRISAgent.resume(folder, Still(), device="cpu")
    assert mine.read_bytes() == bytes(10_000_000)


# ------------------------------------------------------------------ one file


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".zip", ""])
def test_a_published_checkpoint_with_code_runs_nothing(suffix, tmp_path, trace):
    path = tmp_path / f"last{suffix}"
    path.write_bytes(as_torch_file({"tokenizer.embedding.weight": torch.zeros(2), "x": Malicious(trace)}))
    refused(lambda: read_published(path), trace)
    refused(lambda: IRISAgent.from_published(path, "ALE/Pong-v5", device="cpu"), trace)
    shutil.copy(path, tmp_path / "same.pt")
    armed(lambda: torch.load(tmp_path / "same.pt", weights_only=False), trace)


def test_a_policy_is_neither_pickled_nor_unpickled(run, tmp_path, trace):
    path = tmp_path / "policy.pth"
    path.write_bytes(as_torch_file({"state_dict": {}, "data": Malicious(trace)}))
    policy = IRISAgent.load(run, device="cpu").policy
    for load in (IRISPolicy.load, policy.load):
        refused(lambda load=load: load(str(path)), trace)
    with pytest.raises(UsageError, match="use IRISAgent.save"):
        policy.save(str(tmp_path / "other.pth"))
    assert not (tmp_path / "other.pth").exists()
    armed(lambda: torch.load(path, weights_only=False), trace)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_a_config_with_a_python_object_runs_nothing(tag, tmp_path, trace):
    (tmp_path / "config.yaml").write_text(f"vocab_size: {tag} [{str(trace)!r}]\n")
    refused(lambda: IRISConfig.load(tmp_path / "config.yaml"), trace)
    assert not trace.exists()
    yaml.unsafe_load((tmp_path / "config.yaml").read_text())
    assert trace.exists()


@pytest.mark.parametrize("read", [IRISConfig.load, read_result, read_scores])
@pytest.mark.parametrize("name", ["file.json", "file.yaml", "file.pkl"])
def test_a_document_that_is_a_pickle_runs_nothing(read, name, tmp_path, trace):
    (tmp_path / name).write_bytes(pickle.dumps(Malicious(trace)))
    refused(lambda: read(tmp_path / name), trace)


def test_a_module_that_a_file_names_is_not_imported_by_loading_or_dreaming(run, tmp_path, monkeypatch, trace):
    """The id of a run's environment may name a module, which is imported where the environment is made."""
    (tmp_path / "stranger.py").write_text(f"open({str(trace)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    agent = IRISAgent.load(run, device="cpu")
    agent.env_id, agent.start_frames = "stranger:Game-v0", torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    agent.save(tmp_path / "agent.zip")
    loaded = IRISAgent.load(tmp_path / "agent.zip", device="cpu")
    with pytest.warns(UserWarning, match="no update"):
        loaded.make_dream_env(1).close()
        gymnasium.make("IrisGym/Dream-v0", checkpoint=str(tmp_path / "agent.zip"), device="cpu").close()
    assert not trace.exists()
    with pytest.raises(UsageError):
        loaded.evaluate(1)
    assert trace.exists()
    sys.modules.pop("stranger")


# ------------------------------------------------------------------ what is no file


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "null byte", "long name"])
def test_what_is_no_file_is_refused_at_once(kind, run, tmp_path):
    paths = {
        "pipe": tmp_path / "pipe.zip",
        "device": Path("/dev/zero"),
        "folder": tmp_path / "folder.zip",
        "null byte": Path("a\0b.zip"),
        "long name": Path("x" * 5000),
    }
    os.mkfifo(paths["pipe"])
    paths["folder"].mkdir()
    path = paths[kind]
    for load in (
        lambda: IRISAgent.load(path, device="cpu"),
        lambda: IRISAgent.resume(path, Still(), device="cpu"),
        lambda: IRISAgent.from_published(path, "ALE/Pong-v5", device="cpu"),
        lambda: IRISConfig.load(path),
        lambda: read_result(path),
        lambda: read_scores(path),
    ):
        with pytest.raises(UsageError):
            load()


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "training.safetensors"])
def test_a_pipe_in_a_checkpoint_is_refused_at_once(name, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
        (checkpoint / name).unlink()
        os.mkfifo(checkpoint / name)
    with pytest.raises(UsageError):
        IRISAgent.load(folder, device="cpu")
