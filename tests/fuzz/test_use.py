"""What callers give: the command line's arguments, and observations to act on."""

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import TEXTS, scalars, values

from iris_gym import IRISAgent, IRISConfig, UsageError, cli
from iris_gym.cli import main, parse
from iris_gym.commands.bench import Bench
from iris_gym.commands.evaluate import Evaluate
from iris_gym.commands.import_published import Import
from iris_gym.commands.plot import Plot
from iris_gym.commands.record import Record
from iris_gym.commands.report import Report
from iris_gym.commands.scores import Scores
from iris_gym.commands.train import Train

# ------------------------------------------------------------------ arguments

COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "scores": Scores,
    "plot": Plot,
    "record": Record,
    "report": Report,
    "bench": Bench,
    "import": Import,
}
FIELDS = [name.replace("_", "-") for name in IRISConfig.tiny().to_dict()]
FLAGS = "env preset total-timesteps run-dir seed device threads resume config run episodes temperature source max-steps"
FLAGS += " runs csv markdown figures metrics starts horizon context deterministic preprocessing workers video scaling"
FLAGS += " check-epochs no-published out json compare only batch repeats published transformer-heads perceptual-weight"
FLAGS += " help no-resume final-episodes"
WORDS = [
    "tiny",
    "auto",
    "cpu",
    "cuda:99",
    "meta",
    "1",
    "0",
    "-1",
    "1e3",
    "1.5",
    "9" * 5000,
    "True",
    "None",
    "nan",
    "inf",
]
WORDS += [
    "nothing.zip",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    ".",
    "no/such/file.json",
    "x" * 5000,
    "ALE/Pong-v5",
]
WORDS += [
    "NoSuch-v0",
    "a:b:c",
    "--",
    "-",
    "-h",
    "--seed=1",
    "--=",
    "dream",
    "imagine",
    "hf://a/b",
    "ａ",
    "{}",
    "%s",
    "\\",
]

flags = st.sampled_from(FLAGS.split() + FIELDS).map("--{}".format) | st.sampled_from(["--no", "--x", "---", "-x"])


def as_word(value: object) -> str:
    """A value as an argument; those of a process hold no null bytes."""
    return (hex(value) if isinstance(value, int) else str(value)).replace("\0", "")


words = st.sampled_from(WORDS) | (st.sampled_from(TEXTS) | scalars).map(as_word)
command_lines = st.tuples(
    st.sampled_from([*COMMANDS, *COMMANDS, "", "trian", "--help"]),
    st.lists(
        st.tuples(flags, words).map(list) | flags.map(lambda flag: [flag]) | words.map(lambda word: [word]), max_size=5
    ),
).map(lambda pair: [pair[0], *(part for pieces in pair[1] for part in pieces)])
sensible = ["train", "--preset", "tiny", "--device", "cpu"]
one_wrong = st.tuples(flags, words).map(lambda pair: [*sensible, *pair])


def test_parse(fuzz):
    def read(arguments: list[str]) -> None:
        try:
            parse(arguments)
        except SystemExit as error:
            assert not error.code, "only --help leaves by itself"

    fuzz(command_lines | one_wrong, read)


def test_main(fuzz, tmp_path, monkeypatch, capsys):
    """The whole command, but for the work itself: the agent does not learn, play or time anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(IRISAgent, "learn_events", lambda *_, **__: iter(()))
    monkeypatch.setattr("iris_gym.commands.train.finale", lambda *_: None)
    monkeypatch.setattr("iris_gym.agent.evaluate", _refuse)
    monkeypatch.setattr("iris_gym.commands.evaluate.evaluate", _refuse)
    monkeypatch.setattr("iris_gym.reporting._play", _refuse)
    monkeypatch.setattr("iris_gym.recording._episodes", _refuse)
    monkeypatch.setattr("iris_gym.benchmark.run.Bench", _refuse)
    monkeypatch.setattr("iris_gym.published.download", _refuse)
    IRISAgent("ALE/Pong-v5", IRISConfig.tiny(), device="cpu", run_dir="run").save("agent.zip")

    def run(arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        out, err = capsys.readouterr()
        assert exited.value.code in (None, 0, 2), err
        if exited.value.code == 2:
            said = [line for line in err.splitlines() if line and not line.startswith("iris-gym: warning: ")]
            assert len(said) == 1, err
            assert said[0].startswith("iris-gym: error: "), err
            raise UsageError(said[0][:1000])

    fuzz(command_lines | one_wrong, run)


def _refuse(*_: object, **__: object) -> None:
    raise UsageError("not in this test")


# ------------------------------------------------------------------ observations


@pytest.fixture(scope="module")
def agent(saved) -> IRISAgent:
    return IRISAgent.load(saved / "agent.zip", device="cpu")


sides = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 64, 65, 100])
shapes = st.lists(sides, max_size=5).map(tuple).filter(lambda shape: math.prod(shape) < 200_000) | st.sampled_from(
    [
        (64, 64, 3),
        (3, 64, 64),
        (2, 64, 64, 3),
        (2, 3, 64, 64),
        (64, 64),
        (64, 64, 1),
        (1, 64, 64),
        (0, 64, 64, 3),
        (8, 8),
    ]
)
dtypes = st.sampled_from(["u1", "u1", "u1", "u1", "i1", "i8", "f4", "f8", "b1", "O", "U3", "c8", "M8[s]", ">u2"])


def filled(shape: tuple[int, ...], dtype: str, value: object, order: str) -> np.ndarray:
    array = np.zeros(shape, dtype)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        array[...] = value
    return {"C": array, "F": np.asfortranarray(array), "reversed": array[::-1] if shape else array}[order]


numbers = st.sampled_from([0, 1, 255, np.nan, np.inf, -1])
observations = st.builds(filled, shapes, dtypes, numbers, st.sampled_from(["C", "F", "reversed"])) | values
images = st.sampled_from([np.zeros((64, 64, 3), np.uint8), np.zeros((2, 3, 64, 64), np.uint8)])
parts = st.builds(
    filled,
    st.sampled_from([(1, 1, 4), (1, 2, 4), (1, 1, 5), (1, 4), (), (2, 1, 4)]),
    dtypes | st.just("f4"),
    numbers,
    st.just("C"),
)
states = st.none() | st.tuples(parts, parts) | st.lists(parts, max_size=3) | values
starts = (
    st.none()
    | st.builds(filled, st.sampled_from([(), (1,), (2,), (3,), (1, 1)]), dtypes, numbers, st.just("C"))
    | values
)


@pytest.mark.filterwarnings("ignore")
def test_predict(fuzz, agent):
    def predict(value: tuple) -> None:
        observation, state, start, deterministic = value
        actions, (hidden, cell) = agent.predict(observation, state, start, deterministic)
        assert ((actions >= 0) & (actions < 3)).all()
        assert hidden.shape == cell.shape == (1, actions.size, 4)
        assert np.isfinite(hidden).all() and np.isfinite(cell).all()

    fuzz(st.tuples(observations | images, states, starts, st.booleans()), predict, share=3, fewest=100)


def test_the_commands_that_are_tried_are_all_there_are():
    assert {path.stem for path in Path(cli.__file__).parent.joinpath("commands").glob("*.py")} == {
        *("__init__", "common", "finale", "stop_signals", "import_published"),
        *(set(COMMANDS) - {"import"}),
    }
