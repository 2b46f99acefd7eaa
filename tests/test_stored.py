"""A saved agent whose parts do not fit one another. Nothing is built or read before that is known."""

import json
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mutations import Still
from safetensors.torch import load_file, save_file

from iris_gym import IRISAgent, IRISConfig, UsageError
from iris_gym.training.checkpoint import START_FRAMES_FILE, STATE_FILE, TRAINING_FILE, WEIGHTS_FILE

State = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The files of a saved agent that has learned, in a folder."""
    folder = tmp_path_factory.mktemp("stored")
    agent = IRISAgent(Still(), IRISConfig.tiny(total_epochs=3), seed=0, device="cpu")
    agent.learn(60)
    agent.save(folder / "agent.zip")
    zipfile.ZipFile(folder / "agent.zip").extractall(folder)
    return folder


@pytest.fixture
def changed(files, tmp_path) -> Callable[..., Path]:
    """Write the agent with a changed state, or with changed tensors of a file."""

    def write(name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
            for each in (STATE_FILE, WEIGHTS_FILE, TRAINING_FILE, START_FRAMES_FILE):
                path = files / each
                if each == name:
                    content = json.loads(path.read_text()) if name == STATE_FILE else load_file(path)
                    change(content)
                    path = tmp_path / each
                    path.write_text(json.dumps(content)) if name == STATE_FILE else save_file(content, path)
                archive.write(path, each)
        return tmp_path / "changed.zip"

    return write


def refused(path: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        IRISAgent.load(path, device="cpu")
    assert "\n" not in str(error.value)


def test_the_unchanged_agent_is_read(changed):
    IRISAgent.load(changed(STATE_FILE, lambda state: None), device="cpu")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("num_actions", 0, "num_actions=0 must be a whole number from 1 to 65536"),
        ("num_actions", 4, r"'actor_critic.actor.bias' has shape \(3,\), its config asks for \(4,\)"),
        ("num_actions", "3", "num_actions='3' must be"),
        ("observation_shape", [64, 64, 10**9], "must be the shape of an image"),
        ("env", 5, "env=5 must be a text"),
        ("env", "x" * 1000, "must be a text of at most 200"),
        ("seed", -1, "seed=-1 must be a whole number from 0 to 4294967295, or null"),
        ("num_timesteps", 1.5, "num_timesteps=1.5"),
        ("steps_before", -1, "steps_before=-1 must be a whole number from 0"),
        ("config", [], r"config=\[\] must be a mapping"),
        ("config.lstm_dim", 33, r"config asks for \(3, 33\)"),
        ("config.lstm_dim", 10**9, "lstm_dim=1000000000 must be at most"),
        ("config.vocab_size", 10**9, "vocab_size=1000000000 must be at most"),
        ("config.transformer_layers", 10**6, "transformer_layers=1000000 must be at most"),
        ("config.transformer_layers", 3, "lacks tensor 'world_model.transformer.blocks.2"),
        ("trainer.position.phase", 9, "trainer.position.phase=9 must be a whole number from 0 to 4"),
        ("trainer.position.epoch", True, "epoch=True must be"),
        ("trainer.position", {}, "trainer.position lacks 'epoch'"),
        ("trainer.position.more", 1, "trainer.position has an unexpected entry 'more'"),
        ("trainer.updates", [], r"updates=\[\] must be a mapping"),
        ("trainer.updates.world_model", -1, "updates.world_model=-1"),
        ("trainer.metric_counts", {"x": 1}, "tensor 'metric"),
        ("sampling.bit_generator", "MT19937", "bit_generator='MT19937' must be 'PCG64'"),
        ("sampling.state.state", 2**128, "sampling.state.state="),
        ("sampling.has_uint32", 2, "has_uint32=2"),
    ],
)
def test_an_entry_of_the_state_that_cannot_be_is_named(changed, path, value, words):
    def change(state: State) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            state = state[parent]
        state[name] = value

    refused(changed(STATE_FILE, change), words)


@pytest.mark.parametrize("name", ["config", "env", "num_actions", "trainer", "sampling", "replay_rows"])
def test_an_entry_that_is_missing_is_named(changed, name):
    refused(changed(STATE_FILE, lambda state: state.pop(name)), f"state.json lacks '{name}'")


MOMENT = "optimizer.world_model.0.exp_avg"


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        (
            WEIGHTS_FILE,
            {"actor_critic.actor.bias": torch.zeros(3, dtype=torch.float64)},
            "is float64 .*asks for float32",
        ),
        (WEIGHTS_FILE, {"actor_critic.actor.bias": torch.tensor([0.0, 1.0, torch.nan])}, "numbers that are not finite"),
        (WEIGHTS_FILE, {"more": torch.zeros(1)}, "has an unexpected tensor 'more'"),
        (TRAINING_FILE, {"more": torch.zeros(1)}, "has an unexpected tensor 'more'"),
        (TRAINING_FILE, {MOMENT: torch.zeros(3)}, rf"'{MOMENT}' has shape \(3,\)"),
        (TRAINING_FILE, {"optimizer.world_model.999.exp_avg": torch.zeros(3)}, "unexpected tensor"),
        (TRAINING_FILE, {"optimizer.world_model.x": torch.zeros(3)}, "unexpected tensor"),
        (TRAINING_FILE, {"optimizer.world_model.0.step": torch.tensor(-1.0)}, "has negative numbers"),
        (TRAINING_FILE, {"optimizer.world_model.0.step": torch.tensor(torch.inf)}, "not finite"),
        (TRAINING_FILE, {"random.global": torch.zeros(5056, dtype=torch.uint8)}, "random state 'global' is none"),
        (TRAINING_FILE, {"random.global": torch.zeros(10_001, dtype=torch.uint8)}, "no state of a random generator"),
        (TRAINING_FILE, {"random.collecting": torch.zeros(2)}, "no state of a random generator"),
        (TRAINING_FILE, {"metric.unheard_of": torch.zeros(())}, "unexpected tensor 'metric.unheard_of'"),
        (
            START_FRAMES_FILE,
            {"frames": torch.zeros(0, 3, 64, 64, dtype=torch.uint8)},
            "must hold from 1 to 4096 frames",
        ),
        (START_FRAMES_FILE, {"frames": torch.zeros(1, 3, 64, 65, dtype=torch.uint8)}, "has shape"),
        (START_FRAMES_FILE, {"frames": torch.zeros(1, 3, 64, 64)}, "is float32"),
        (START_FRAMES_FILE, {"others": torch.zeros(1)}, "unexpected tensor 'others'"),
    ],
)
def test_a_tensor_that_cannot_be_is_named(changed, name, tensors, words):
    refused(changed(name, lambda found: found.update(tensors)), words)


@pytest.mark.parametrize("name", ["random.global", "optimizer.world_model.0.step"])
def test_a_tensor_of_the_training_that_is_missing_is_named(changed, name):
    refused(changed(TRAINING_FILE, lambda found: found.pop(name)), f"lacks tensor '{name}'")


HEADER = {"tokenizer.quantizer.codebook": {"dtype": "F32", "shape": [10**9, 16], "data_offsets": [0, 64 * 10**9]}}


@pytest.mark.parametrize("name", [WEIGHTS_FILE, TRAINING_FILE])
def test_a_file_of_holes_takes_no_memory(files, tmp_path, name):
    """64 GB that take no room on the disk, with a header that says so; read in a process that may have little."""
    run = tmp_path / "run"
    (run / "checkpoints" / "0000000001").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    folder = run / "checkpoints" / "0000000001"
    (folder / "complete").touch()
    for each in (STATE_FILE, WEIGHTS_FILE, TRAINING_FILE):
        (folder / each).write_bytes((files / each).read_bytes())
    text = json.dumps(HEADER).encode()
    with (folder / name).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 64 * 10**9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(run, "unexpected tensor|lacks tensor")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_nothing_of_torch_is_drawn_by_looking(changed):
    """The global random state is that of the caller: a check of names and shapes changes no training."""
    path = changed(WEIGHTS_FILE, lambda found: found.update(more=torch.zeros(1)))
    before = torch.get_rng_state()
    refused(path, "unexpected")
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ what only a run has


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    IRISAgent(Still(), IRISConfig.tiny(total_epochs=3), seed=0, device="cpu", run_dir=folder).learn(60)
    return folder


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("collection.resets", [-1], "resets=.* must be a list"),
        ("collection.games", [{}], "games lacks 'emulator'"),
        ("collection.games", 5, "games=5 must be a list"),
        ("collection.open_environments", ["x"], "open_environments="),
        ("collection.open_environments", [7], "environment 7 has an open episode, but no row"),
        ("logs.lines", -1, "logs.lines=-1"),
        ("logs.events", {"x": "y"}, "logs.events must map names to sizes"),
        ("agent.episode_starts", [], "episode_starts must be 1"),
        ("agent.episodes", [{}], "episodes lacks 'r'"),
        ("agent.successes", [None], "successes="),
    ],
)
def test_an_entry_of_a_run_that_cannot_be_is_named(run, tmp_path, path, value, words):
    folder = shutil.copytree(run, tmp_path / "run")
    for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
        state = json.loads((checkpoint / STATE_FILE).read_text())
        group, name = path.split(".")
        state[group][name] = value
        (checkpoint / STATE_FILE).write_text(json.dumps(state))
        (checkpoint / "complete").write_text("")
    with pytest.raises(UsageError, match=words):
        IRISAgent.resume(folder, Still(), device="cpu")


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("collection.hidden", torch.zeros(1, 5), "'collection.hidden' has shape"),
        (
            "collection.observations",
            torch.zeros(2, 64, 64, 3, dtype=torch.uint8),
            "'collection.observations' has shape",
        ),
        ("random.global_numpy", torch.zeros(626, dtype=torch.float64), "'random.global_numpy' has shape"),
        ("random.global_numpy", torch.full((627,), 1e9, dtype=torch.float64), "random state 'global_numpy' is none"),
        ("random.global_python", torch.full((626,), -1.0, dtype=torch.float64), "random state 'global_python' is none"),
    ],
)
def test_a_tensor_of_a_run_that_cannot_be_is_named(run, tmp_path, name, tensor, words):
    folder = shutil.copytree(run, tmp_path / "run")
    for checkpoint in (folder / "checkpoints").glob("[0-9]*"):
        save_file(load_file(checkpoint / TRAINING_FILE) | {name: tensor}, checkpoint / TRAINING_FILE)
        (checkpoint / "complete").write_text("")
    with pytest.raises(UsageError, match=words):
        IRISAgent.resume(folder, Still(), device="cpu")


def test_settings_that_cannot_be_are_named(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    (folder / "run.json").write_text('{"seed": "1", "env": 5}')
    with pytest.raises(UsageError, match="env=5 must be a text"):
        IRISAgent.resume(folder, device="cpu")
