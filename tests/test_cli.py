"""The command line, from outside in processes of its own, and in this process where only the plumbing matters."""

import dataclasses
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iris_gym import IRISAgent, IRISConfig
from iris_gym.cli import main, parse
from iris_gym.commands import common
from iris_gym.commands.train import reserved_run_dir
from iris_gym.errors import UsageError

SHORT_GAME = """
import gymnasium as gym
import numpy as np


class ShortGame(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        self.steps += 1
        return np.full((64, 64, 3), 20 * self.steps, np.uint8), 1.0, self.steps == 9, False, {}


gym.register("ShortGame-v0", ShortGame)
gym.register("ShortVector-v0", lambda: gym.make("CartPole-v1"))
"""
ENV = "short_game:ShortGame-v0"
TINY = ("--preset", "tiny", "--device", "cpu")
QUICKLY = ("--final-episodes", "0")  # how a run ends otherwise: tests/commands/test_finale.py

pytestmark = pytest.mark.filterwarnings("default:learning ends at")


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "short_game.py").write_text(SHORT_GAME)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, module_folder) -> Path:
    """An empty working directory from which the short game can be imported."""
    monkeypatch.syspath_prepend(module_folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def cli(capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        return (exited.value.code or 0, *capsys.readouterr())

    return run


def in_a_process(*arguments: str, modules: Path | None = None, **options) -> subprocess.Popen:
    path = os.pathsep.join([str(modules or ""), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "60", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "iris_gym", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def flag(field: str) -> str:
    return "--" + re.sub("_(?=.)", "-", field)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------ the main job


@pytest.mark.slow
def test_pong_from_the_command_line_to_its_scores(tmp_path):
    run = tmp_path / "a run with a long name, which no line of output may break in two" / "run"
    training = in_a_process(
        *("train", "--env", "ALE/Pong-v5", *TINY, *QUICKLY, "--total-timesteps", "100"),
        *("--seed", "0", "--run-dir", str(run)),
    )
    out, err = training.communicate(timeout=120)
    assert (training.returncode, err) == (0, "")
    assert len(re.findall(r"^epoch +\d  steps \d+  reconstruction .*/s\]  .* left$", out, re.MULTILINE)) == 5
    assert f"iris-gym evaluate --run {run}\n" in out
    assert files(run) == {".lock", "checkpoints", "config.json", "logs", "media", "replay", "run.json"}
    assert IRISConfig.load(run / "config.json") == IRISConfig.tiny()
    assert all(re.fullmatch(r"\d{10}", name) for name in files(run / "checkpoints"))
    assert {"dream_0000100.png", "reconstructions_0000100.png"} <= files(run / "media")
    assert "progress.csv" in files(run / "logs")
    assert any(name.startswith("events.out.tfevents") for name in files(run / "logs"))

    evaluation = in_a_process("evaluate", "--run", str(run), "--episodes", "1", "--device", "cpu")
    out, err = evaluation.communicate(timeout=120)
    assert (evaluation.returncode, err) == (0, "")
    assert re.match(r"ALE/Pong-v5: return -2\d\.00 over 1 games of \d+ steps, human-normalised", out)
    assert f"written to {run / 'scores.json'}\n" in out
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores) == "env episodes mean standard_error human_normalized protocol versions".split()
    [episode] = scores["episodes"]
    assert episode.keys() == {"return", "length", "seed", "truncated"}
    assert (episode["seed"], episode["truncated"]) == (0, False)
    assert scores["env"] == "ALE/Pong-v5"
    assert scores["mean"] == episode["return"]
    assert scores["standard_error"] is None
    assert scores["protocol"]["temperature"] == 0.5
    assert scores["protocol"]["env_steps_trained"] == 100


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_a_saved_run_that_goes_on(number, status, here, module_folder, cli):
    train = ("train", "--run-dir", "run", "--total-timesteps")
    process = in_a_process(
        *train, "100000", "--env", ENV, *TINY, *QUICKLY, "--seed", "1", modules=module_folder, cwd=here
    )
    for line in process.stdout:
        if line.startswith("epoch   3"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")
    assert "go on with: iris-gym train --run-dir run --resume\n" in out
    saved = IRISAgent.load(here / "run", device="cpu").num_timesteps
    assert saved >= 60

    code, out, err = cli(*train, saved + 25, "--resume", "--device", "cpu")
    assert (code, err) == (0, "")
    agent = IRISAgent.load(here / "run", device="cpu")
    assert agent.num_timesteps == saved + 25
    assert agent.trainer.position.phase == agent.trainer.position.done == 0


def test_ctrl_c_outside_of_training_leaves_no_traceback(cli, here, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(IRISAgent, "load", interrupt)
    assert cli("evaluate", "--run", "run") == (130, "", "")


# ------------------------------------------------------------------ training


def train(cli, *arguments: object) -> tuple[int, str, str]:
    return cli("train", "--env", ENV, *TINY, *QUICKLY, "--seed", 0, *arguments)


def test_the_default_folder_is_named_after_game_and_time(cli, here):
    assert train(cli, "--total-timesteps", 5)[0] == 0
    [run] = (here / "runs" / "short_game-ShortGame-v0").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    with reserved_run_dir("ALE/Pong-v5") as folder:
        assert folder.parts[:2] == ("runs", "ALE-Pong-v5")
    assert not Path("runs/ALE-Pong-v5").exists()


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(here, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "now")
    with reserved_run_dir("Game-v0") as one, reserved_run_dir("Game-v0") as two, reserved_run_dir("Game-v0") as three:
        assert [folder.name for folder in (one, two, three)] == ["now", "now_2", "now_3"]


def test_a_run_that_cannot_begin_leaves_no_folder(cli, here):
    status, _, err = cli("train", "--env", "IrisGym/Dream-v0", *TINY, "--seed", 0)
    assert status == 2 and "cannot be made: TypeError" in err
    assert not Path("runs").exists()


def test_a_run_stopped_before_its_first_step_knows_what_it_was_told(cli, here, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("iris_gym.commands.train.StopSignals", stopped)
        assert train(cli, "--total-timesteps", 7, "--run-dir", "run", "--threads", 1)[0] == 130
    assert json.loads(Path("run/run.json").read_text()) == {
        "seed": 0,
        "env": ENV,
        "total_timesteps": 7,
        "threads": 1,
        "final_episodes": 0,
    }
    assert cli("train", "--run-dir", "run", "--resume", "--device", "cpu")[0] == 0
    assert IRISAgent.load("run").num_timesteps == 7


def test_a_command_that_is_asked_to_end_leaves_nothing_temporary(here, module_folder, tmp_path, monkeypatch):
    IRISAgent(ENV, IRISConfig.tiny(atari_100k=False), seed=0, device="cpu").save("agent.zip")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    arguments = ("evaluate", "--run", "agent.zip", "--episodes", "1000000", "--workers", "1", "--device", "cpu")
    process = in_a_process(*arguments, modules=module_folder)
    until = time.monotonic() + 60
    while not list((tmp_path / "temporary").glob("iris_gym_replay_*")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not list((tmp_path / "temporary").glob("iris_gym_replay_*"))


@pytest.mark.parametrize(
    "command",
    [
        [
            "-c",
            "import sys; from iris_gym.cli import PatientConsole as C; "
            "c = C(); c.print(1), c.print(2), sys.stdout.flush()",
        ],
        ["-m", "iris_gym", "--help"],
    ],
)
def test_nobody_reads_any_more(here, command):
    """The run goes on, as it would have without anybody looking."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *command], stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_needs_no_output(here):
    """Which is closed in some daemons."""
    command = f"{shlex.quote(sys.executable)} -m iris_gym evaluate --run nowhere >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_a_component_that_never_starts_is_a_line_and_no_failure(cli, here):
    status, _, err = train(cli, "--total-timesteps", 5, "--run-dir", "run")
    lines = err.splitlines()
    assert status == 0
    assert len(lines) == 2
    assert all(line.startswith("iris-gym: warning: learning ends at 5") for line in lines)


def test_folders_with_brackets_are_no_markup(cli, here):
    status, out, _ = train(cli, "--total-timesteps", 5, "--run-dir", "[red]run[/]")
    assert status == 0
    assert "iris-gym evaluate --run [red]run[/]\n" in out


def test_a_finished_run_resumed_has_nothing_to_do(cli, here):
    train(cli, "--total-timesteps", 45, "--run-dir", "run")
    before = contents(Path("run"))
    status, out, err = cli("train", "--run-dir", "run", "--resume", "--total-timesteps", 45, "--device", "cpu")
    assert (status, err) == (0, "")
    assert "has collected 45 steps already: nothing left to do" in out
    after = contents(Path("run"))
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    assert {path.parent.name for path in changed} <= {"replay"}, "whose files get room for more, and no more rows"


def test_a_run_stopped_after_its_last_step_is_resumed_for_no_further_one(here, cli):
    agent = IRISAgent(ENV, IRISConfig.tiny(), seed=0, device="cpu", run_dir="run")
    for _ in agent.learn_events(60):
        if agent.num_timesteps == 60 and agent.trainer.position.phase == 2:
            break
    agent.save_checkpoint()
    agent.logger.close()
    resumed = ("train", "--run-dir", "run", "--resume", *QUICKLY, "--total-timesteps", 60, "--device", "cpu")
    status, _, err = cli(*resumed)
    assert (status, err) == (0, "")
    resumed = IRISAgent.load("run", device="cpu")
    assert resumed.num_timesteps == 60
    assert [learner.updates for learner in resumed.trainer.learners] == [9, 4, 2]


def test_a_run_that_died_before_its_first_checkpoint_is_begun_anew(cli, here):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    for path in Path("run/checkpoints").glob("*/complete"):
        path.unlink()
    assert train(cli, "--total-timesteps", 6, "--run-dir", "run", "--resume")[0] == 0
    assert IRISAgent.load("run", device="cpu").num_timesteps == 6


def test_resuming_where_no_run_is_yet_begins_it(cli, here):
    assert train(cli, "--total-timesteps", 6, "--run-dir", "run", "--resume")[0] == 0
    assert IRISAgent.load("run", device="cpu").num_timesteps == 6


def test_a_resumed_run_keeps_its_hyperparameters(cli, here):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    status, _, err = cli("train", "--run-dir", "run", "--resume", "--burn-in", 7, "--device", "cpu")
    assert status == 2
    assert "burn_in=7 (was 3)" in err
    Path("c.yaml").write_text("burn_in: 8")
    status, _, err = cli("train", "--run-dir", "run", "--resume", "--config", "c.yaml", "--device", "cpu")
    assert status == 2
    assert "burn_in=8 (was 3)" in err


def test_a_resumed_run_remembers_how_far_it_was_to_go_and_the_seed_that_was_drawn(cli, here):
    assert cli("train", "--env", ENV, *TINY, *QUICKLY, "--total-timesteps", 30, "--run-dir", "run")[0] == 0
    seed = json.loads(Path("run/run.json").read_text())["seed"]
    expected = IRISAgent.load("run", device="cpu").get_parameters()["policy"]
    for path in Path("run/checkpoints").glob("*/complete"):
        path.unlink()
    assert cli("train", "--run-dir", "run", "--resume", "--device", "cpu")[0] == 0
    agent = IRISAgent.load("run", device="cpu")
    assert (agent.num_timesteps, agent.seed) == (30, seed)
    found = agent.get_parameters()["policy"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_preset_beside_resume_has_to_be_the_runs(cli, here):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    resumed = ("train", "--run-dir", "run", "--resume", "--device", "cpu", "--preset")
    assert_refused(cli(*resumed, "small"), r"vocab_size=128 \(was 32\)")
    assert_refused(cli(*resumed, "tinny"), "preset='tinny'")
    assert cli(*resumed, "tiny")[0] == 0


def test_nothing_is_cleared_where_the_device_or_the_game_is_not_there(cli, here):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    for path in Path("run/checkpoints").glob("*/complete"):
        path.unlink()
    before = contents(Path("run"))
    assert_refused(cli("train", "--run-dir", "run", "--resume", "--device", "cuda:99"), "device='cuda:99'")
    assert contents(Path("run")) == before


def test_a_resumed_run_keeps_its_seed(cli, here):
    train(cli, "--total-timesteps", 5, "--run-dir", "run", "--seed", 3)
    resumed = ("--total-timesteps", 6, "--run-dir", "run", "--resume")
    assert_refused(train(cli, *resumed, "--seed", 4), "a resumed run keeps its seed=3; seed=4 is another")
    assert train(cli, *resumed, "--seed", 3)[0] == 0


def test_scores_that_cannot_be_written_are_not_played_for(cli, here, monkeypatch):
    IRISAgent(ENV, IRISConfig.tiny(), seed=0, device="cpu").save("agent.zip")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("iris_gym.commands.evaluate.evaluate", None)
    assert_refused(cli("evaluate", "--run", "agent.zip"), r"run='\.' cannot be written to")


def test_a_saved_zip_is_evaluated_beside_itself(cli, here):
    IRISAgent(ENV, IRISConfig.tiny(), seed=0, device="cpu").save("agent.zip")
    for name in ("agent.zip", "agent"):
        status, _, err = cli("evaluate", "--run", name, "--episodes", 3, "--temperature", 0, "--device", "cpu")
        assert (status, err) == (0, "")
        scores = json.loads(Path("agent.scores.json").read_text())
        assert [episode["return"] for episode in scores["episodes"]] == [9] * 3
        assert scores["protocol"]["temperature"] == 0
        assert scores["standard_error"] == 0
        assert scores["human_normalized"] is None


# ------------------------------------------------------------------ where values come from


def parsed(*arguments: str) -> IRISConfig:
    return parse(["train", "--device", "cpu", *arguments]).hyperparameters


def test_every_field_is_a_flag_that_help_explains(cli):
    status, out, _ = cli("train", "--help")
    assert status == 0
    flags = set(re.findall(r"--[a-z0-9_-]+", out))
    assert {flag(field.name) for field in dataclasses.fields(IRISConfig)} <= flags
    assert {"--preset", "--config", "--total-timesteps", "--run-dir", "--seed", "--device", "--resume"} <= flags


def test_every_number_can_be_set_by_its_flag():
    for field in dataclasses.fields(IRISConfig):
        value = getattr(IRISConfig(), field.name)
        if type(value) in (int, float):
            assert getattr(parsed(flag(field.name), str(value * 3)), field.name) == value * 3


def test_flags_of_other_kinds():
    config = parsed("--no-atari-100k", "--gradient-checkpointing", "--preprocessing", "ale", "--env", ENV)
    assert (config.atari_100k, config.gradient_checkpointing) == (False, True)
    assert (config.preprocessing, config.env) == ("ale", ENV)
    assert parsed("--stop-autoencoder-after", "9").stop_autoencoder_after == 9
    assert parsed("--stop-autoencoder-after", "None").stop_autoencoder_after is None


def test_a_flag_beats_the_file_which_beats_the_preset(here):
    Path("c.yaml").write_text("vocab_size: 99\nlstm_dim: 77\n")
    config = parsed("--preset", "tiny", "--config", "c.yaml", "--lstm-dim", "55")
    assert config == IRISConfig.tiny(vocab_size=99, lstm_dim=55)


def test_the_order_and_spelling_of_flags_do_not_matter(here):
    Path("c.json").write_text('{"vocab_size": 99}')
    for arguments in (
        ("--lstm-dim", "55", "--config", "c.json", "--preset", "tiny"),
        ("--lstm_dim=55", "--config=c.json", "--preset=tiny"),
    ):
        assert parsed(*arguments) == IRISConfig.tiny(vocab_size=99, lstm_dim=55)


def test_a_flag_may_mend_what_the_file_alone_contradicts(here):
    Path("c.json").write_text('{"encoder_downsamplings": 3}')
    assert parsed("--config", "c.json", "--tokens-per-frame", "64").tokens_per_frame == 64


def test_auto_is_small_on_a_cpu():
    assert parsed() == IRISConfig.small()
    assert parsed("--preset", "default") == IRISConfig()


def test_a_resumed_run_is_the_base_of_the_flags(here, cli):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    for spelling in ("--run-dir", "--run_dir"):
        assert parsed("--resume", spelling, "run") == IRISConfig.tiny(env=ENV)


# ------------------------------------------------------------------ bad input


BAD_TRAINING = {
    "unknown game": (("--env", "ALE/Pongg-v5"), "'ALE/Pongg-v5' .* did you mean ALE/Pong-v5"),
    "unknown module": (("--env", "nowhere:Game-v0"), "nowhere"),
    "no images": (("--env", "CartPole-v1"), "gymnasium.wrappers.AddRenderObservation"),
    "no images in a module": (("--env", "short_game:ShortVector-v0"), "gymnasium.wrappers.AddRenderObservation"),
    "continuous actions": (("--env", "Pendulum-v1"), "Discrete"),
    "fewer than no episodes": (("--final-episodes", "-1"), "final_episodes=-1 must be a whole number, at most 100,000"),
    "no steps": (("--total-timesteps", "0"), "total_timesteps=0 must be a whole number, at least 1"),
    "negative steps": (("--total-timesteps", "-5"), "total_timesteps=-5"),
    "steps that are no number": (("--total-timesteps", "many"), "--total-timesteps.*'many'"),
    "width and heads": (("--transformer-heads", "7"), "transformer_embed_dim=32 .* transformer_heads=7"),
    "tokens and downsamplings": (("--tokens-per-frame", "20"), "tokens_per_frame=20 must be 16"),
    "steps under the protocol": (("--max-env-steps", "20"), "max_env_steps=20 .* atari_100k=False"),
    "no such device": (("--device", "cuda:99"), "device='cuda:99' is not there"),
    "no device at all": (("--device", "abacus"), "device='abacus' is not there"),
    "a device that holds nothing": (("--device", "meta"), "device='meta' is not there"),
    "unknown preset": (("--preset", "huge"), "preset='huge' .* auto, default, paper, small, tiny"),
    "a preset without its name": (("--preset",), "--preset"),
    "missing file": (("--config", "missing.yaml"), "'missing.yaml' cannot be read"),
    "a seed out of range": (("--seed", "-1"), "seed=-1"),
    "no threads": (("--threads", "0"), "threads=0"),
    "unknown flag": (("--vocab-sise", "3"), "--vocab-sise"),
    "a number that is none": (("--vocab-size", "3.5"), "--vocab-size.*3.5"),
    "unknown choice": (("--preprocessing", "fast"), "'fast'"),
    "ale's path for other games": (("--env", ENV, "--preprocessing", "ale"), "'ale' is for Atari games"),
    "nothing to resume": (("--resume",), "run_dir=None cannot be resumed"),
}
BAD_COMMANDS = {
    "no command": ((), "train, evaluate"),
    "unknown command": (("frobnicate",), "frobnicate"),
    "no run": (("evaluate",), "--run"),
    "a run that is not there": (("evaluate", "--run", "absent"), "run='absent' does not exist"),
    "a folder that is no run": (("evaluate", "--run", "."), r"run='.' is no run folder: it has no config\.json"),
}


def assert_refused(outcome: tuple[int, str, str], words: str) -> None:
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert err.startswith("iris-gym: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert re.search(words, err)


@pytest.mark.parametrize(("arguments", "words"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_training_is_one_line_and_creates_nothing(arguments, words, here, cli):
    preset = () if "--preset" in arguments else ("--preset", "tiny")
    assert_refused(cli("train", *preset, *arguments), words)
    assert not files(here)


@pytest.mark.parametrize(("arguments", "words"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_commands_are_one_line_and_create_nothing(arguments, words, here, cli):
    assert_refused(cli(*arguments), words)
    assert not files(here)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.json", "{", "is not valid JSON"),
        ("c.yaml", "a: [\nb", "is not valid YAML"),
        ("c.yaml", "", "must map names of fields"),
        ("c.yaml", "- 1", "must map names of fields"),
        ("c.yaml", "1: 2", "1 is no field"),
        ("c.json", '{"vocab_sise": 3}', "did you mean 'vocab_size'"),
        ("c.json", '{"vocab_size": "many"}', "vocab_size='many' must be of type int"),
        ("c.json", '{"transformer_heads": 7}', "transformer_heads=7"),
    ],
)
def test_a_broken_config_file_is_one_line_and_creates_nothing(name, text, words, here, cli):
    Path(name).write_text(text)
    assert_refused(cli("train", *TINY, "--config", name), words)
    assert files(here) == {name}


def test_a_taken_run_folder_is_refused_and_left_as_it_is(here, cli):
    train(cli, "--total-timesteps", 5, "--run-dir", "run")
    before = contents(Path("run"))
    assert_refused(train(cli, "--total-timesteps", 5, "--run-dir", "run"), "run_dir='run' holds a run already")
    assert contents(Path("run")) == before


@pytest.mark.parametrize("flags", [(), ("--resume",)], ids=["new", "resumed"])
def test_the_folders_of_something_else_are_left_alone(flags, here, cli):
    for name in ("logs", "media", "replay", "checkpoints"):
        Path(name).mkdir()
        Path(name, "precious").touch()
    assert_refused(train(cli, "--total-timesteps", 5, "--run-dir", ".", *flags), "run(_dir)?='.' is (in use|no run)")
    assert len(list(Path().rglob("precious"))) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--episodes", "0"), "episodes: 0"),
        (("--temperature", "-1"), "temperature: -1"),
        (("--seed", "-1"), "seed: -1"),
        (("--seed", str(2**64)), "seed: 18446744073709551616 is too great"),
        (("--device", "cuda:99"), "device='cuda:99'"),
    ],
)
def test_bad_evaluations_are_one_line_and_leave_no_scores(arguments, words, here, cli):
    IRISAgent(ENV, IRISConfig.tiny(), seed=0, device="cpu").save("agent.zip")
    assert_refused(cli("evaluate", "--run", "agent.zip", *arguments), words)
    assert files(here) == {"agent.zip"}


def test_a_damaged_file_is_one_line(here, cli):
    Path("agent.zip").write_bytes(b"noise")
    assert_refused(cli("evaluate", "--run", "agent.zip"), "'agent.zip' is no saved agent")


def test_bad_input_ends_a_real_process_with_status_2(tmp_path):
    process = in_a_process("train", "--env", "ALE/Pongg-v5", *TINY, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert_refused((process.returncode, out, err), "did you mean ALE/Pong-v5")
    assert not files(tmp_path)


def test_usage_errors_are_value_errors():
    assert issubclass(UsageError, ValueError)


@pytest.mark.parametrize(
    ("threads", "width", "chosen"), [(None, 128, [1]), (None, 256, []), (3, 128, [3]), (3, 256, [3])]
)
def test_small_networks_take_one_thread(threads, width, chosen, monkeypatch):
    asked = []
    monkeypatch.setattr(common.torch, "set_num_threads", asked.append)
    common.set_threads(threads, IRISConfig(transformer_embed_dim=width))
    assert asked == chosen


@pytest.mark.slow
def test_bench_measures_a_game_and_compares_itself_with_itself(here, cli):
    flags = ("--preset", "tiny", "--device", "cpu", "--repeats", 1)
    status, out, _ = cli("bench", *flags, "--json", "bench.json")
    assert status == 0
    result = json.loads(Path("bench.json").read_text())
    assert (result["preset"], result["device"], result["config"]["env"]) == ("tiny", "cpu", "ALE/Pong-v5")
    assert all(name in out for name in result["phases"])
    status, out, _ = cli("bench", *flags, "--only", "act", "--lstm-dim", 16, "--compare", "bench.json", "--profile", 3)
    assert status == 0
    assert re.search(r"act 20 times: [\d,]+ operations in .*: aten::\w+ \d+% ", out)
    assert "× other" in out
    assert "the other result differs from this one in config" in out


@pytest.mark.slow
def test_bench_holds_its_projection_against_a_run(here, cli):
    flags = ("--preset", "tiny", "--device", "cpu", "--repeats", 1, "--no-atari-100k", "--max-env-steps", 200)
    status, out, _ = cli("bench", *flags, "--check-epochs", 1, "--json", "check.json")
    assert status == 0
    assert "1 epochs at 200 stored frames" in out
    check = json.loads(Path("check.json").read_text())
    assert check["real_s"].keys() == check["projected_s"].keys() == check["ratios"].keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "colect"), "colect"),
        (("--repeats", "0"), "repeats=0 must be greater than 0"),
        (("--batch", "0"), "batch=0"),
        (("--profile", "-1"), "profile=-1 must not be negative"),
        (("--scaling", "--profile", "3"), "profile=3 has no meaning with scaling"),
        (("--threads", "0"), "threads=0"),
        (("--compare", "none.json"), "compare='none.json' cannot be read"),
        (("--scaling", "--check-epochs", "2"), "scaling=True and check_epochs=2 are two questions"),
        (("--scaling", "--batch", "2"), "batch=2 has no meaning with scaling"),
        (("--check-epochs", "2", "--only", "act"), "has no meaning with check_epochs"),
        (("--check-epochs", "-1"), "check_epochs=-1 must lie between 1 and"),
        (("--vocab-size", "1"), "vocab_size=1"),
        (("--env", "ALE/Pongg-v5"), "did you mean ALE/Pong-v5"),
    ],
)
def test_bad_benchmarks_are_one_line_and_leave_nothing(arguments, words, here, cli):
    assert_refused(cli("bench", *TINY, *arguments), words)
    assert not files(here)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--no", "\udcff"), rb"Unrecognized options: --no, \udcff; see iris-gym --help"),
        (("evaluate", "--run", "\udcff.zip"), rb"run='\udcff.zip' does not exist; give a run folder or a saved zip"),
    ],
)
def test_a_name_in_no_encoding_is_shown_all_the_same(arguments, said, encoding, monkeypatch):
    """As a shell passes the byte 0xff on."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(SystemExit):
        main(arguments)
    stream.flush()
    assert stream.buffer.getvalue() == b"iris-gym: error: " + said + b"\n"  # type: ignore[attr-defined]


def test_a_terminal_of_plain_ascii_is_told_the_same(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    with pytest.raises(UsageError) as error:
        parse(["train", "--vocab-size", "many"])
    assert str(error.value).endswith("invalid literal for int() with base 10: 'many'; see iris-gym --help")
    assert "---" not in str(error.value)
