import ast
import dataclasses
import inspect
import json
import re

import pytest
import yaml

from iris_gym import IRISConfig, UsageError
from iris_gym.config import NON_NEGATIVE, POSITIVE, PRESETS, UNIT_INTERVAL, preset, read_mapping

FIELDS = {field.name: getattr(IRISConfig(), field.name) for field in dataclasses.fields(IRISConfig)}

OTHER_SHAPES = {
    "preprocessing": "ale",
    "slow_autoencoder_after": 30,
    "stop_autoencoder_after": 40,
    "tokens_per_frame": 64,
    "encoder_downsamplings": 3,
    "encoder_channels": 128,
    "transformer_embed_dim": 512,
    "transformer_heads": 8,
    "max_env_steps": 7,
    "atari_100k": False,
    "codebook_decay": 0.5,
    "discount": 0.9,
    "env": "MiniGrid-Empty-5x5-v0",
    "autoencoder": "vqgan",
    "codebook": "gradient",
    "reconstruction_loss": "l1",
    "precision": "float32",
    "sequence_layout": "frame_action_reward_end",
    "sample_uniformly": "steps",
    "transformer_optimizer": "muon",
    "autoencoder_first_updates": 5,
    "transformer_first_updates": 6,
    "actor_critic_first_updates": 7,
    "imitation_share": 0.5,
}


def changed() -> IRISConfig:
    """A valid config in which no field has its default."""
    values = {}
    for name, value in FIELDS.items():
        if name in OTHER_SHAPES:
            values[name] = OTHER_SHAPES[name]
        elif isinstance(value, bool):
            values[name] = not value
        else:
            values[name] = value + 1 if isinstance(value, int) else value / 2 + 1e-7
    return IRISConfig(**values)


def test_every_field_says_what_it_is_for():
    (body,) = (node.body for node in ast.parse(inspect.getsource(IRISConfig)).body)
    documented = [
        field.target.id
        for field, after in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]
    assert documented == list(FIELDS)


def test_the_published_numbers_are_the_default():
    config = IRISConfig()
    config.validate()
    assert (config.vocab_size, config.tokens_per_frame, config.token_embedding_dim) == (512, 16, 512)
    assert (config.transformer_layers, config.transformer_heads, config.transformer_embed_dim) == (10, 4, 256)
    assert (config.start_autoencoder_after, config.start_transformer_after, config.start_actor_critic_after) == (
        5,
        15,
        35,
    )
    assert (config.total_epochs, config.env_steps_per_epoch, config.max_env_steps) == (600, 200, 100_000)
    assert (config.imagination_horizon, config.discount, config.td_lambda, config.entropy_weight) == (
        20,
        0.995,
        0.95,
        0.001,
    )
    assert (config.epsilon, config.collect_temperature, config.eval_temperature) == (0.01, 1.0, 0.5)


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_every_field_survives_a_file(suffix, tmp_path):
    config = changed()
    assert not {name for name, value in FIELDS.items() if getattr(config, name) == value}
    config.save(tmp_path / f"config.{suffix}")
    assert IRISConfig.load(tmp_path / f"config.{suffix}") == config


@pytest.mark.parametrize("written, number", [("1e-4", 1e-4), ("2.5E-3", 2.5e-3), ("+1e-2", 1e-2), ("1.0e-4", 1e-4)])
def test_numbers_in_yaml_as_everybody_writes_them(written, number, tmp_path):
    """YAML 1.1 wants a point and a sign."""
    (tmp_path / "config.yaml").write_text(f"actor_critic_learning_rate: {written}\n")
    assert IRISConfig.load(tmp_path / "config.yaml").actor_critic_learning_rate == number


def test_very_small_numbers_survive_yaml(tmp_path):
    IRISConfig(actor_critic_learning_rate=1e-7).save(tmp_path / "config.yaml")
    assert IRISConfig.load(tmp_path / "config.yaml").actor_critic_learning_rate == 1e-7


def test_a_file_may_hold_any_part_of_the_fields(tmp_path):
    (tmp_path / "part.yaml").write_text("transformer_layers: 4\nstop_autoencoder_after: null\ndiscount: 1\n")
    assert IRISConfig.load(tmp_path / "part.yaml") == IRISConfig(transformer_layers=4, discount=1)


def test_presets_are_valid_and_by_their_names():
    for name in PRESETS:
        preset(name).validate()
    assert preset("default") == IRISConfig()
    assert preset("small") == IRISConfig.small()
    assert preset("tiny") == IRISConfig.tiny()
    assert preset("auto", "cpu") == IRISConfig.small()
    assert preset("auto", "cuda") == IRISConfig()


def test_hard_cases_change_any_preset():
    """Freeway as published (Micheli et al. 2023, appendix); little memory with batches as large as before."""
    assert preset("paper+freeway") == IRISConfig.paper(collect_temperature=0.01)
    assert preset("auto+low-memory") == IRISConfig.small(accumulate_gradients=8, gradient_checkpointing=True)
    assert preset("auto+freeway", "cuda") == IRISConfig(collect_temperature=0.01)
    both = preset("tiny+freeway+low-memory")
    both.validate()
    assert (both.collect_temperature, both.accumulate_gradients) == (0.01, 8)


@pytest.mark.parametrize("name", ["paper+", "paper+big", "freeway", "+freeway", "paper+paper"])
def test_an_unknown_hard_case_is_refused_with_those_there_are(name: str):
    with pytest.raises(UsageError, match=r"is unknown; choose .*, and after it .* of \+freeway, \+low-memory"):
        preset(name)


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="preset='big' is unknown; choose one of auto, default, paper, small, tiny"):
        preset("big")


def test_presets_take_changes():
    assert IRISConfig.small(vocab_size=99).vocab_size == 99
    assert IRISConfig.tiny(transformer_layers=7).transformer_layers == 7
    assert IRISConfig.tiny().vocab_size == IRISConfig.tiny(transformer_layers=7).vocab_size


def test_fields_can_be_assigned():
    config = IRISConfig()
    config.transformer_layers = 3
    assert config == IRISConfig(transformer_layers=3)


def test_replace_copies():
    config = IRISConfig()
    assert config.replace(vocab_size=8).vocab_size == 8
    assert config == IRISConfig()
    assert config.replace() is not config


@pytest.mark.parametrize("make", [IRISConfig().replace, lambda **values: IRISConfig.from_dict(values)])
def test_unknown_fields_are_refused_with_the_nearest_name(make):
    with pytest.raises(
        UsageError, match="'transformer_layer' is no field of IRISConfig; did you mean 'transformer_lay"
    ):
        make(transformer_layer=3)
    with pytest.raises(UsageError, match="'xyzzy' is no field of IRISConfig$"):
        make(xyzzy=3)


def fits(name: str, value: object) -> bool:
    kind = type(FIELDS[name])
    if name in ("slow_autoencoder_after", "stop_autoencoder_after"):
        return value is None
    if name == "preprocessing":
        return False
    return type(value) is kind or (kind is float and type(value) is int)


@pytest.mark.parametrize("name", FIELDS)
def test_values_of_a_wrong_type_are_refused_by_name(name):
    for value in ([1], {"a": 1}, b"x", "some text", 1.5, True, None):
        if not fits(name, value):
            for refuse in (IRISConfig(**{name: value}).validate, lambda v=value: IRISConfig().replace(**{name: v})):
                with pytest.raises(UsageError, match=f"^{name}="):
                    refuse()


@pytest.mark.parametrize("name", [name for name, value in FIELDS.items() if isinstance(value, float)])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
def test_numbers_are_finite(name, value):
    with pytest.raises(UsageError, match=f"^{name}=.* must be finite"):
        IRISConfig(**{name: value}).validate()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in POSITIVE for value in (0, -1)]
    + [(name, -1) for name in NON_NEGATIVE]
    + [(name, value) for name in UNIT_INTERVAL for value in (-0.5, 1.5)],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"^{name}={value}"):
        IRISConfig(**{name: value}).validate()


def test_every_number_has_a_range():
    ranged = {*POSITIVE, *NON_NEGATIVE, *UNIT_INTERVAL}
    by_rules_of_their_own = {
        "tokens_per_frame",
        "encoder_downsamplings",
        "transformer_timesteps",
        "imagination_horizon",
        "slow_autoencoder_after",
        "stop_autoencoder_after",
    }
    numbers = {name for name, value in FIELDS.items() if type(value) in (int, float, type(None))}
    assert numbers == ranged | by_rules_of_their_own


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (dict(transformer_embed_dim=130), "transformer_embed_dim=130 .* transformer_heads=4, such as 132"),
        (dict(transformer_heads=7), "transformer_embed_dim=256 .* transformer_heads=7, such as 259"),
        (dict(tokens_per_frame=20), "tokens_per_frame=20 must be 16: encoder_downsamplings=4 .* 64×64 to 4×4"),
        (dict(encoder_downsamplings=3), "tokens_per_frame=16 must be 64"),
        (dict(encoder_downsamplings=0, tokens_per_frame=4096), "encoder_downsamplings=0 must lie between 1 and 5"),
        (dict(encoder_downsamplings=6, tokens_per_frame=1), "encoder_downsamplings=6 must lie between 1 and 5"),
        (dict(encoder_channels=60), "encoder_channels=60 must be a multiple of 8"),
        (dict(vocab_size=1), "vocab_size=1 must be at least 2"),
        (dict(transformer_timesteps=1), "transformer_timesteps=1 must be at least 2"),
        (dict(imagination_horizon=1), "imagination_horizon=1 must be at least 2"),
        (
            dict(max_env_steps=50),
            "max_env_steps=50 must be 100000 for an Atari game under atari_100k=True; set atari_100k=False",
        ),
        (dict(stop_autoencoder_after=5), "stop_autoencoder_after=5 must be greater than start_autoencoder_after=5"),
        (dict(stop_autoencoder_after=-1), "stop_autoencoder_after=-1"),
        (dict(settled_autoencoder_updates=5), "settled_autoencoder_updates=5 needs stop_autoencoder_after"),
        (dict(transformer_first_updates=-1), "transformer_first_updates=-1 must be 0 or greater"),
        (dict(slow_autoencoder_after=8), "slow_autoencoder_after=8 must lie between 0 and stop_autoencoder_after=None"),
        (
            dict(slow_autoencoder_after=8, stop_autoencoder_after=8),
            "slow_autoencoder_after=8 must lie between 0 and stop_autoencoder_after=8",
        ),
        (dict(preprocessing="fast"), "preprocessing='fast' must be one of iris, ale"),
    ],
)
def test_contradictions_are_refused_with_what_would_do(values, words):
    with pytest.raises(UsageError, match=words) as caught:
        IRISConfig(**values).validate()
    assert "\n" not in str(caught.value)


def test_what_an_error_proposes_does():
    IRISConfig(encoder_downsamplings=3, tokens_per_frame=64).validate()
    IRISConfig(max_env_steps=50, atari_100k=False).validate()
    IRISConfig(max_env_steps=50, env="MiniGrid-Empty-5x5-v0").validate()
    IRISConfig(transformer_embed_dim=132).validate()
    IRISConfig(stop_autoencoder_after=6).validate()
    IRISConfig(stop_autoencoder_after=9, slow_autoencoder_after=8).validate()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.json", "{", "is not valid JSON"),
        ("c.yaml", "a: [", "is not valid YAML"),
        ("c.yaml", "a: !!python/object:os.system {}", "is not valid YAML"),
        ("c.json", "[1, 2]", "holds a list; it must map names of fields to values"),
        ("c.yaml", "", "holds a NoneType"),
        ("c.yaml", "3: 4", "3 is no field"),
        ("c.json", '{"vocab_sizes": 3}', "did you mean 'vocab_size'"),
        ("c.json", b"\xff\xfe", "cannot be read"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(name, text, words, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (IRISConfig.load, read_mapping):
        with pytest.raises(UsageError, match=re.escape(words)) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_files_are_for_people(tmp_path):
    IRISConfig().save(tmp_path / "c.json")
    assert list(json.loads((tmp_path / "c.json").read_text())) == list(FIELDS)
    IRISConfig().save(tmp_path / "c.yaml")
    assert list(yaml.safe_load((tmp_path / "c.yaml").read_text())) == list(FIELDS)
