"""Saved, shared and published agents: their bytes, the members of their zips, their headers, states and replays."""

import io
import json
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from mutations import TEXTS, Game, spoiled_bytes, spoiled_json

from iris_gym import IRISAgent, IRISConfig, build_models
from iris_gym.benchmark_table import ratios, read_result
from iris_gym.data.replay import Replay
from iris_gym.evaluation.curves import choose_metrics, common_clock, mean_curve, read_progress
from iris_gym.evaluation.score_table import read_run, score_table
from iris_gym.evaluation.scores import read_scores
from iris_gym.published import published_names, read_published
from iris_gym.registration import make_dream
from iris_gym.training.checkpoint import FILES, STATE_FILE, module_tensors

OBSERVATION = np.zeros((64, 64, 3), np.uint8)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def act(path: Path) -> None:
    """An agent that was taken plays."""
    agent = IRISAgent.load(path, device="cpu")
    action, _ = agent.predict(np.zeros(agent.observation_space.shape, np.uint8))
    assert agent.action_space.contains(action)


def dream(path: Path) -> None:
    env = make_dream(str(path), device="cpu")
    env.reset(seed=0)
    env.step(0)


def go_on(path: Path) -> None:
    """A run that was taken learns."""
    agent = IRISAgent.resume(path, Game(), device="cpu")
    agent.learn(1, reset_num_timesteps=False)


def checkpoint_of(run: Path) -> Path:
    return max((run / "checkpoints").glob("[0-9]*"))


# ------------------------------------------------------------------ zips


def test_zip_of_bytes(fuzz, saved, tmp_path):
    path, valid = tmp_path / "agent.zip", (saved / "agent.zip").read_bytes()
    start = valid.index(b"PK\x01\x02")

    def load(content: bytes) -> None:
        path.write_bytes(content)
        act(path)

    fuzz(spoiled_bytes(valid, (slice(start, None), slice(0, 80), slice(-22, None))), load, share=2)


@st.composite
def archives(draw: Any, members: dict[str, bytes]) -> bytes:
    """A zip of known and unknown names, stored or compressed, some twice, with what is said of sizes changed."""
    buffer = io.BytesIO()
    names = st.sampled_from(
        [*FILES, *FILES, *FILES, "data", "policy.pth", "../state.json", "/state.json", "state.json/"]
    )
    with zipfile.ZipFile(buffer, "w", allowZip64=True) as archive:
        archive.comment = draw(st.binary(max_size=3))
        for name in draw(st.lists(names | st.sampled_from(TEXTS), max_size=8) | st.permutations(FILES)):
            info = zipfile.ZipInfo(name.replace("\ud800", "?") or "x")
            info.compress_type = draw(st.sampled_from([0, 0, 0, 0, 8, 12, 14]))
            info.external_attr = draw(st.sampled_from([0, 0, 0o120777 << 16, 0o40755 << 16, 0x10]))
            info.extra = draw(st.sampled_from([b"", b"", struct.pack("<HHQQQ", 1, 24, 2**40, 2**40, 2**60)]))
            content = members.get(name, b"x") if draw(st.booleans()) else draw(st.binary(max_size=30))
            archive.writestr(info, content)
    content = buffer.getvalue()
    if not draw(st.booleans()):
        return content
    start = content.rfind(b"PK\x05\x06") if b"PK\x01\x02" not in content else content.index(b"PK\x01\x02")
    return draw(spoiled_bytes(content, (slice(start, None),)))


@pytest.mark.filterwarnings("ignore")
def test_zip_of_members(fuzz, saved, tmp_path):
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(saved / "agent.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def load(content: bytes) -> None:
        path.write_bytes(content)
        act(path)

    fuzz(archives(members), load, share=2)


# ------------------------------------------------------------------ safetensors and states


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@st.composite
def spoiled_tensors(draw: Any, valid: bytes) -> bytes:
    """A safetensors file whose header says something else, in valid JSON; or whose bytes were changed."""
    if draw(st.booleans()):
        return draw(spoiled_bytes(valid, (slice(0, 8), slice(8, 300))))
    header, numbers = header_of(valid)
    few = {name: header.pop(name) for name in draw(st.permutations(sorted(header)))[:2]}
    spoiled = draw(spoiled_json(few))
    text = json.dumps(header | spoiled if isinstance(spoiled, dict) else spoiled).encode("utf-8", "surrogatepass")
    length = len(text) if draw(st.integers(0, 3)) else draw(st.sampled_from([0, 2**63, 10**8, len(text) + 1]))
    return length.to_bytes(8, "little") + text + numbers


@st.composite
def absurd_numbers(draw: Any, valid: bytes) -> bytes:
    """A safetensors file as it should be, but for a tensor whose numbers are negative, huge or none."""
    header, numbers = header_of(valid)
    entry = header[draw(st.sampled_from(sorted(header)))]
    begin, end = entry["data_offsets"]
    patch = draw(
        st.sampled_from(
            [b"\0", b"\xff", b"\x7f", b"\x80", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x7f\x7f\x7f\xff"]
        )
    )
    changed = (patch * (end - begin))[: end - begin]
    length = int.from_bytes(valid[:8], "little")
    return valid[: 8 + length] + numbers[:begin] + changed + numbers[end:]


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("use", [act, go_on])
def test_tensors(fuzz, copy_of, name, use):
    run = copy_of("run")
    path = checkpoint_of(run) / name
    valid = path.read_bytes()

    def load(content: bytes) -> None:
        path.write_bytes(content)
        use(run if use is act else copied(run))

    def copied(run: Path) -> Path:  # learning changes a run
        other = run.with_name("other")
        _replace(run, other)
        return other

    share = 1 if use is act else 0.25
    fuzz(spoiled_tensors(valid) | absurd_numbers(valid), load, share=share, fewest=15 if use is act else 4)


def _replace(run: Path, other: Path) -> None:
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(run, other)


@pytest.mark.parametrize("use", [act, dream, go_on])
def test_state(fuzz, copy_of, use):
    run = copy_of("run")
    path = checkpoint_of(run) / STATE_FILE
    valid = json.loads(path.read_text())

    def load(state: Any) -> None:
        path.write_bytes(json.dumps(state).encode("utf-8", "surrogatepass"))
        if use is go_on:
            _replace(run, run.with_name("other"))
        use(run.with_name("other") if use is go_on else run)

    without_config = {name: value for name, value in valid.items() if name != "config"}
    trees = spoiled_json(valid) | spoiled_json(without_config).map(
        lambda tree: {"config": valid["config"], **tree} if isinstance(tree, dict) else tree
    )
    fuzz(trees, load, share=2 if use is act else 0.5, fewest=20 if use is act else 6)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "start_frames.safetensors"])
def test_shared(fuzz, copy_of, name):
    shared = copy_of("shared")
    valid = (shared / name).read_bytes()

    def load(content: bytes) -> None:
        (shared / name).write_bytes(content)
        agent = IRISAgent.from_pretrained(shared, device="cpu")
        agent.predict(np.zeros(agent.observation_space.shape, np.uint8))

    as_json = (
        spoiled_json(json.loads(valid)).map(lambda tree: json.dumps(tree).encode()) if name == "config.json" else None
    )
    fuzz(as_json | spoiled_bytes(valid) if as_json else spoiled_tensors(valid) | absurd_numbers(valid), load)


# ------------------------------------------------------------------ replays


def sample(folder: Path, rows: int | None) -> None:
    with Replay(folder, rows=rows, chunk_rows=8) as replay:
        replay.check_steps(3, 1)
        if len(replay):
            segment = replay.sample_segments(4, 3, generator=np.random.default_rng(0), align="end")
            assert 0 <= int(segment.actions.min()) <= int(segment.actions.max()) < 3


def test_replay(fuzz, copy_of):
    folder = copy_of("run") / "replay"
    header, steps = (folder / "replay.json").read_bytes(), (folder / "steps.bin").read_bytes()[: 60 * 18]
    (folder / "frames.bin").write_bytes((folder / "frames.bin").read_bytes()[: 60 * 12_288])

    def load(value: tuple[bytes, bytes, int | None]) -> None:
        (folder / "replay.json").write_bytes(value[0])
        (folder / "steps.bin").write_bytes(value[1])
        sample(folder, value[2])

    trees = spoiled_json(json.loads(header)).map(lambda tree: json.dumps(tree).encode())
    headers = st.just(header) | trees | spoiled_bytes(header)
    fuzz(st.tuples(headers, st.just(steps) | spoiled_bytes(steps), st.none() | st.integers(0, 100)), load, share=2)


def test_replay_in_a_run(fuzz, copy_of):
    run = copy_of("run")
    header, steps = (run / "replay" / "replay.json").read_bytes(), (run / "replay" / "steps.bin").read_bytes()

    def load(value: tuple[bytes, bytes]) -> None:
        (run / "replay" / "replay.json").write_bytes(value[0])
        (run / "replay" / "steps.bin").write_bytes(value[1])
        _replace(run, run.with_name("other"))
        go_on(run.with_name("other"))

    spoiled = spoiled_bytes(steps, (slice(0, 60 * 18),))
    fuzz(st.tuples(st.just(header) | spoiled_bytes(header), spoiled), load, share=0.25, fewest=4)


# ------------------------------------------------------------------ published checkpoints


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> bytes:
    sizes = dict(
        vocab_size=8,
        token_embedding_dim=4,
        encoder_channels=32,
        encoder_output_channels=4,
        transformer_layers=1,
        transformer_embed_dim=8,
        transformer_heads=2,
        transformer_timesteps=2,
        lstm_dim=4,
        encoder_downsamplings=2,
        tokens_per_frame=256,
    )
    tensors = {}
    for name, value in module_tensors(build_models(IRISConfig.paper(**sizes), 3, "cpu").by_name()).items():
        names = published_names(name)
        tensors |= {part: piece.clone() for part, piece in zip(names, value.chunk(len(names)), strict=True)}
    path = tmp_path_factory.mktemp("published") / "last.pt"
    torch.save(tensors, path)
    return path.read_bytes()


def test_published(fuzz, published, tmp_path):
    path = tmp_path / "last.pt"
    start, pickle_start = published.index(b"PK\x01\x02"), published.index(b"data.pkl") + 8

    def load(content: bytes) -> None:
        path.write_bytes(content)
        snapshot = read_published(path, 2)
        float(sum(value.double().sum() for value in snapshot.weights.values()))  # the numbers can be read

    parts = slice(start, None), slice(pickle_start, pickle_start + 20_000), slice(0, 100)
    fuzz(spoiled_bytes(published, parts), load, share=2)


PICKLES = [
    b"cos\nsystem\n",
    b"c__builtin__\nbytearray\n",
    b"ctorch\nFloatTensor\n",
    b"\x8a\x05\x00\xe4\x0b\x54\x02",
    b"\x85R",
]
PICKLES += [
    b"}",
    b"]",
    b"(",
    b"t",
    b"l",
    b"d",
    b"0",
    b"2",
    b"q\x00",
    b"h\x00",
    b"\x93",
    b"\x81",
    b"b",
    b"s",
    b"u",
    b"a",
]
PICKLES += [
    b"X\x01\x00\x00\x00a",
    b"K\x01",
    b"N",
    b".",
    b"\x94",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"Q",
    b"\x8b\xff\xff\xff\x7f",
]
PICKLES += [
    b"ccollections\nOrderedDict\n",
    b")R",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"B\xff\xff\xff\xff",
    b"\x80\x02",
]


def test_published_pickle(fuzz, tmp_path):
    """Files of torch whose pickle is made of any operations."""
    path = tmp_path / "last.pt"

    def load(pieces: list[bytes]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + b"".join(pieces) + b".")
            archive.writestr("a/version", "3\n")
            archive.writestr("a/byteorder", "little")
            archive.writestr("a/data/0", bytes(16))
        read_published(path)

    fuzz(st.lists(st.sampled_from(PICKLES), max_size=12), load)


# ------------------------------------------------------------------ documents that commands read

SCORES = {
    "env": "ALE/Pong-v5",
    "episodes": [{"return": 1.0, "length": 10, "seed": 0, "truncated": False}],
    "mean": 1.0,
    "standard_error": None,
    "human_normalized": 0.1,
    "protocol": {},
    "versions": {},
}
BENCH = {"preset": "tiny", "phases": {"imagine": {"median_s": 0.1, "batch": 2}, "act": {"median_s": 0.2, "batch": 1}}}


def test_documents(fuzz, tmp_path):
    path = tmp_path / "document.json"

    def load(content: bytes) -> None:
        path.write_bytes(content)
        read_scores(path)

    def compare(content: bytes) -> None:
        path.write_bytes(content)
        ratios(BENCH, read_result(path))

    def tabulate(content: bytes) -> None:
        path.write_bytes(content)
        score_table([read_run(path)], ()).to_markdown()

    for valid, read in ((SCORES, load), (BENCH, compare), (SCORES, tabulate)):
        text = json.dumps(valid).encode()
        trees = spoiled_json(valid).map(lambda tree: json.dumps(tree).encode())
        fuzz(trees | spoiled_bytes(text), read)


def test_learning_curves(fuzz, copy_of):
    run = copy_of("run")
    log, config = run / "logs" / "progress.csv", run / "config.json"
    rows, fields = log.read_bytes(), config.read_bytes()

    def read(value: tuple[bytes, bytes]) -> None:
        log.write_bytes(value[0])
        config.write_bytes(value[1])
        progress = read_progress(run)
        for metric in choose_metrics([progress]):
            mean_curve([progress.curve(metric, common_clock([progress]))])

    fuzz(st.tuples(spoiled_bytes(rows) | st.just(rows), spoiled_bytes(fields) | st.just(fields)), read)


def test_warnings_are_not_errors_here():
    """The files of this folder may make numbers overflow; that is no failure."""
    warnings.warn("as said", stacklevel=1)
