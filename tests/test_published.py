"""The importer. That the numbers come out equal is tested in `parity/`."""

import json
import pickle
import re
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iris_gym import IRISAgent, IRISConfig, UsageError, build_models
from iris_gym.assembly import Models
from iris_gym.cli import main
from iris_gym.published import DROPPED, explored_frames, published_names, read_published
from iris_gym.training.checkpoint import module_tensors

MANIFEST = json.loads((Path(__file__).parent / "parity/data/manifest_paper_4actions.json").read_text())
PUBLISHED, LPIPS = MANIFEST["agent"], MANIFEST["agent_lpips_extra"]


def shape_in_manifest(name: str) -> tuple[int, ...]:
    return tuple(PUBLISHED[name]["shape"])


def is_dropped(name: str) -> bool:
    return name.endswith(("attn.mask", ".indices"))


@pytest.fixture(scope="module")
def paper():
    return module_tensors(build_models(IRISConfig.paper(), 4, "cpu").by_name())


class FourActions(Env):
    """Black images, four actions."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((64, 64, 3), np.uint8), 0.0, False, False, {}


def as_published(models: Models) -> dict[str, torch.Tensor]:
    published = {}
    for name, value in module_tensors(models.by_name()).items():
        names = published_names(name)
        published |= {part: piece.clone() for part, piece in zip(names, value.chunk(len(names)), strict=True)}
    return published


def tiny_checkpoint(**changes) -> dict[str, torch.Tensor]:
    """Random tensors under published names and shapes of a network with sizes that all differ."""
    sizes = dict(
        vocab_size=24,
        token_embedding_dim=20,
        encoder_channels=32,
        encoder_output_channels=28,
        transformer_layers=3,
        transformer_embed_dim=36,
        transformer_heads=2,
        transformer_timesteps=6,
        lstm_dim=12,
    )
    torch.manual_seed(0)
    published = as_published(build_models(IRISConfig.paper(**(sizes | changes)), 4, "cpu"))
    published["tokenizer.lpips.net.slice1.0.weight"] = torch.rand(64, 3, 3, 3)
    published["world_model.transformer.blocks.0.attn.mask"] = torch.ones(9, 9)
    published["world_model.head_rewards.indices"] = torch.arange(5)
    return published


def written(published, folder: Path) -> Path:
    torch.save(published, folder / "last.pt")
    return folder / "last.pt"


# Names


def test_the_paper_config_maps_one_to_one_onto_the_manifest(paper):
    parts = [
        (part, value, len(published_names(name))) for name, value in paper.items() for part in published_names(name)
    ]
    assert sorted(part for part, _, _ in parts) == sorted(name for name in PUBLISHED if not is_dropped(name))
    for part, value, count in parts:
        assert (value.shape[0] // count, *value.shape[1:]) == shape_in_manifest(part), part
        assert value.dtype == torch.float32


def test_parameters_and_weight_decay_are_those_of_the_manifest(paper):
    assert sorted(part for name in paper for part in published_names(name)) == sorted(MANIFEST["parameter_names"])
    models = build_models(IRISConfig.paper(), 4, "cpu")
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in models.by_name().items()}
    assert counts == {name: MANIFEST["parameters"][name] for name in counts}
    names = {id(parameter): name for name, parameter in models.world_model.named_parameters()}
    for group, key in zip(
        models.world_model.weight_decay_groups(0.01), ("adamw_decayed", "adamw_not_decayed"), strict=True
    ):
        ours = [f"world_model.{names[id(parameter)]}" for parameter in group["params"]]
        assert sorted(part for name in ours for part in published_names(name)) == sorted(MANIFEST[key])


def test_exactly_masks_indices_and_the_perceptual_network_are_dropped():
    dropped = {name for name in {**PUBLISHED, **LPIPS} if re.fullmatch("|".join(DROPPED), name)}
    assert dropped == set(LPIPS) | {name for name in PUBLISHED if is_dropped(name)}


# Sizes


def test_all_sizes_come_from_the_tensors(tmp_path):
    snapshot = read_published(written(tiny_checkpoint(), tmp_path), transformer_heads=2)
    config = IRISConfig.from_dict(snapshot.state["config"])
    assert snapshot.state["num_actions"] == 4
    assert (config.vocab_size, config.token_embedding_dim) == (24, 20)
    assert (config.encoder_channels, config.encoder_output_channels) == (32, 28)
    assert (config.transformer_layers, config.transformer_embed_dim, config.transformer_heads) == (3, 36, 2)
    assert (config.transformer_timesteps, config.lstm_dim) == (6, 12)
    assert config.replace(**{name: getattr(IRISConfig.paper(), name) for name in SIZES}) == IRISConfig.paper()


SIZES = (
    "vocab_size token_embedding_dim encoder_channels encoder_output_channels transformer_layers transformer_embed_dim "
    "transformer_heads transformer_timesteps lstm_dim"
).split()


@given(
    num_actions=st.integers(1, 18),
    vocab_size=st.integers(2, 40),
    token_embedding_dim=st.integers(1, 24),
    encoder_channels=st.sampled_from([32, 64]),
    encoder_output_channels=st.integers(1, 24),
    transformer_layers=st.integers(1, 12),
    width_of_a_head=st.integers(1, 9),
    transformer_heads=st.integers(1, 3),
    transformer_timesteps=st.integers(2, 9),
    lstm_dim=st.integers(1, 20),
)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sizes_come_back(tmp_path, num_actions, width_of_a_head, **sizes):
    sizes["transformer_embed_dim"] = width_of_a_head * sizes["transformer_heads"]
    models = build_models(IRISConfig.paper(**sizes), num_actions, "cpu")
    snapshot = read_published(written(as_published(models), tmp_path), sizes["transformer_heads"])
    assert {name: snapshot.state["config"][name] for name in sizes} == sizes
    assert snapshot.state["num_actions"] == num_actions
    ours = module_tensors(models.by_name())
    assert snapshot.weights.keys() == ours.keys()
    for name, value in ours.items():
        assert torch.equal(snapshot.weights[name], value), name


def test_another_number_of_halvings_is_another_number_of_tokens(tmp_path):
    published = tiny_checkpoint(encoder_downsamplings=3, tokens_per_frame=64)
    config = read_published(written(published, tmp_path), 2).state["config"]
    assert (config["encoder_downsamplings"], config["tokens_per_frame"], config["transformer_timesteps"]) == (3, 64, 6)


def test_half_precision_is_read_as_single(tmp_path):
    published = {name: value.half() for name, value in tiny_checkpoint().items()}
    weights = read_published(written(published, tmp_path), 2).weights
    assert {value.dtype for value in weights.values()} == {torch.float32}


# Bad input


def refused(published, tmp_path, match: str, heads: int = 2) -> None:
    path = published if isinstance(published, Path) else written(published, tmp_path)
    with pytest.raises(UsageError, match=match) as error:
        read_published(path, heads)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.encoder.conv_in.weight",
        "tokenizer.decoder.up.2.attn.1.k.bias",
        "world_model.transformer.blocks.1.attn.value.weight",
        "world_model.pos_emb.weight",
        "actor_critic.lstm.bias_hh",
    ],
)
def test_a_missing_tensor_is_named(name, tmp_path):
    published = tiny_checkpoint()
    del published[name]
    refused(published, tmp_path, f"lacks the tensor '{name}'")


@pytest.mark.parametrize("name", ["optimizer.step", "tokenizer.encoder.down.4.attn.0.q.weight", "tokenizer.lpips"])
def test_an_unknown_tensor_is_named(name, tmp_path):
    refused(
        tiny_checkpoint() | {name: torch.zeros(3)}, tmp_path, f"has a tensor '{name}', which the published agent has"
    )


def test_a_tensor_that_does_not_fit_the_others_is_named_with_both_shapes(tmp_path):
    name = "world_model.head_observations.head_module.2.weight"
    refused(tiny_checkpoint() | {name: torch.zeros(25, 36)}, tmp_path, rf"'{name}' has shape \(25, 36\).*\(24, 36\)")


def test_a_scalar_where_a_size_is_read_is_refused(tmp_path):
    refused(
        tiny_checkpoint() | {"tokenizer.embedding.weight": torch.tensor(1.0)}, tmp_path, r"embedding.weight' has shape"
    )


def test_positions_that_are_no_whole_timesteps_are_refused(tmp_path):
    refused(tiny_checkpoint() | {"world_model.pos_emb.weight": torch.zeros(101, 36)}, tmp_path, "101 positions.* of 16")


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers(tmp_path):
    refused(tiny_checkpoint(), tmp_path, "transformer_embed_dim=36 must be a multiple of transformer_heads=5", heads=5)


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], {"a": 1}, {1: torch.zeros(3)}, {}])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    refused(content, tmp_path, "is no checkpoint of the published agent")


def test_weights_of_another_network_are_refused(tmp_path):
    refused(torch.nn.Linear(2, 3).state_dict(), tmp_path, "lacks the tensor")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.pt", tmp_path, "none.pt' is no file")
    refused(tmp_path, tmp_path, "is no file")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    return written(tiny_checkpoint(), tmp_path_factory.mktemp("published")).read_bytes()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_off_anywhere_is_refused(whole_file, tmp_path, share):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole_file[: int(share * len(whole_file))])
    refused(cut, tmp_path, "is cut off, damaged, or no file that torch wrote")


class Malicious:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch in a checkpoint", "legacy torch"])
def test_code_in_a_pickle_does_not_run(kind, tmp_path):
    trace, file = tmp_path / "trace", tmp_path / "evil.pt"
    evil = Malicious(trace)
    if kind == "pickle":
        file.write_bytes(pickle.dumps(evil))
    elif kind == "torch":
        torch.save(evil, file)
    elif kind == "torch in a checkpoint":
        torch.save(tiny_checkpoint() | {"tokenizer.lpips.extra": evil}, file)
    else:
        torch.save({"a": evil}, file, _use_new_zipfile_serialization=False)
    refused(
        file,
        tmp_path,
        "could run code, it asks for '__builtin__.exec'" if kind.startswith("torch") else "no file that torch wrote",
    )
    assert not trace.exists()
    if kind == "pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert trace.exists()  # so it would have


def test_any_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "any.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(tmp_path / "any.pt", tmp_path, "no file that torch wrote")


def test_another_number_of_actions_is_refused_with_both_numbers_and_nothing_is_made(tmp_path):
    path = written(tiny_checkpoint(), tmp_path)
    with pytest.raises(UsageError, match="env='ALE/Pong-v5' has 6 actions, the agent was made for 4"):
        IRISAgent.from_published(path, "ALE/Pong-v5", 2, "cpu", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The agent


def test_an_imported_agent_is_an_ordinary_run(tmp_path):
    published = tiny_checkpoint()
    agent = IRISAgent.from_published(
        written(published, tmp_path), FourActions(), 2, "cpu", run_dir=tmp_path / "run", perceptual_weight=0.0
    )
    assert torch.equal(agent.models.tokenizer.quantizer.codebook, published["tokenizer.embedding.weight"])
    observation = np.zeros((64, 64, 3), np.uint8)
    expected = agent.predict(observation, deterministic=True)
    again = IRISAgent.load(tmp_path / "run", device="cpu")
    assert again.config == agent.config
    for actual, one in zip(again.predict(observation, deterministic=True)[1], expected[1], strict=True):
        assert np.array_equal(actual, one)
    assert not agent.models.tokenizer.training
    updates = {learner.name: learner.updates for learner in again.trainer.learners}
    assert updates == {"autoencoder": 119_000, "world_model": 115_000, "actor_critic": 110_000}  # as published
    assert (again.trainer.position.epoch, again.trainer.env_steps) == (1, 0)


def test_an_imported_agent_dreams_from_frames_of_random_play(tmp_path):
    path = written(tiny_checkpoint(), tmp_path)
    agent = IRISAgent.from_published(path, "ALE/Breakout-v5", 2, "cpu", run_dir=tmp_path / "run")
    assert agent.start_frames.shape == (256, 3, 64, 64)
    assert len(agent.start_frames.unique(dim=0)) > 100
    assert torch.equal(agent.start_frames, explored_frames("ALE/Breakout-v5"))
    loaded = IRISAgent.load(tmp_path / "run", device="cpu")
    for dreamer in (agent, loaded):
        observation, _ = dreamer.make_dream_env(3, horizon=2).reset(seed=0)
        assert observation.shape == (3, 64, 64, 3)


def test_an_import_that_was_stopped_is_no_run_to_resume(tmp_path, monkeypatch):
    """It would begin anew, from weights that nobody has trained."""
    path = written(tiny_checkpoint(), tmp_path)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(IRISAgent, "save_checkpoint", lambda agent: 1 / 0)
        IRISAgent.from_published(path, FourActions(), 2, "cpu", run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="is of an import that was stopped; remove it, and import again"):
        IRISAgent.resume(tmp_path / "run", FourActions(), device="cpu")


def test_an_imported_run_learns_on(tmp_path):
    agent = IRISAgent.from_published(
        written(tiny_checkpoint(), tmp_path), FourActions(), 2, "cpu", run_dir=tmp_path / "run", perceptual_weight=0.0
    )
    quick = dict(
        start_autoencoder_after=0,
        start_transformer_after=0,
        start_actor_critic_after=0,
        env_steps_per_epoch=8,
        autoencoder_updates_per_epoch=1,
        autoencoder_batch_size=2,
        transformer_updates_per_epoch=1,
        transformer_batch_size=2,
        actor_critic_updates_per_epoch=1,
        actor_critic_batch_size=2,
        imagination_horizon=3,
        burn_in=2,
        eval_interval=0,
    )
    agent.config = agent.config.replace(**quick)
    agent._setup_model()
    codebook = agent.models.tokenizer.quantizer.codebook.clone()
    agent.learn(8)
    assert not torch.equal(agent.models.tokenizer.quantizer.codebook, codebook)
    assert agent.num_timesteps == 8


def test_the_command_line_imports_and_evaluates(tmp_path, capsys):
    path, run = written(tiny_checkpoint(), tmp_path), tmp_path / "run"
    arguments = ["import", "--published", str(path), "--env", "ALE/Breakout-v5", "--out", str(run)]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--transformer-heads", "2"])
    assert exit_.value.code == 0
    assert "imported" in capsys.readouterr().out
    agent = IRISAgent.load(run, device="cpu")
    assert agent.env_id == "ALE/Breakout-v5"
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--transformer-heads", "2"])
    assert exit_.value.code == 2
    complaint = capsys.readouterr().err
    assert "holds a run already" in complaint
    assert complaint.count("\n") == 1


def memory(field: str) -> int:
    """Bytes of this process, as Linux tells them: `VmRSS` now, `VmHWM` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
def test_a_full_size_checkpoint_is_read_quickly_and_in_less_than_twice_its_size(tmp_path):
    integers = {name for name, entry in PUBLISHED.items() if entry["dtype"] == "int64"}
    published = {
        name: torch.zeros(entry["shape"], dtype=torch.int64) if name in integers else torch.rand(entry["shape"])
        for name, entry in {**PUBLISHED, **LPIPS}.items()
    }
    path = written(published, tmp_path)
    del published
    IRISAgent(FourActions(), IRISConfig.tiny(), device="cpu")  # what is loaded once is loaded
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = memory("VmRSS"), time.perf_counter()
    IRISAgent.from_published(path, FourActions(), device="cpu", run_dir=tmp_path / "run")
    seconds = time.perf_counter() - started
    assert memory("VmHWM") - before < 2 * path.stat().st_size
    assert seconds < 10
