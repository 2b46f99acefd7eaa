import time

import pytest
import torch

from iris_gym import IRISConfig, UsageError
from iris_gym.assembly import create_models
from iris_gym.config_limits import LARGEST, LARGEST_REAL, MAX_PARAMETERS, estimated_parameters
from iris_gym.training.checkpoint import module_tensors

FIELDS = IRISConfig.tiny().to_dict()


def test_every_number_has_a_limit():
    own = {name for name, value in FIELDS.items() if type(value) is int}
    own -= {"tokens_per_frame", "encoder_downsamplings"}  # which are told their values by each other
    assert own <= set(LARGEST) <= set(FIELDS)


@pytest.mark.parametrize("name", sorted(LARGEST))
@pytest.mark.parametrize("factor", [1, 10**30, 10**400])
def test_a_whole_number_beyond_its_limit_is_refused(name, factor):
    value = LARGEST[name] * factor + 1
    with pytest.raises(UsageError, match=f"^{name}=.* must be at most {LARGEST[name]:,}$"):
        IRISConfig(**(FIELDS | {name: value})).validate()


@pytest.mark.parametrize("name", [name for name, value in FIELDS.items() if type(value) is float])
@pytest.mark.parametrize("value", [2e9, 10**30, 10**400])
def test_a_real_number_beyond_its_limit_is_refused(name, value):
    assert value > LARGEST_REAL
    with pytest.raises(UsageError, match=f"^{name}="):
        IRISConfig(**(FIELDS | {name: value})).validate()


def test_a_name_without_end_is_refused():
    with pytest.raises(UsageError, match="env='xxx.* has 1,000,000 characters; at most 200"):
        IRISConfig.tiny(env="x" * 1_000_000).validate()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"transformer_layers": 256, "transformer_embed_dim": 16_384},
            "transformer_layers=256, transformer_embed_dim=16384",
        ),
        (
            {"vocab_size": 65_536, "transformer_embed_dim": 8_192, "transformer_layers": 1},
            "vocab_size=65536, transformer_embed_dim=8192",
        ),
        ({"encoder_channels": 4_096}, "encoder_channels=4096"),
        ({"encoder_channels": 4_096, "autoencoder": "vqgan"}, "encoder_channels=4096"),
    ],
)
def test_networks_beyond_any_machine_are_refused_by_the_fields_that_make_them_so(changes, words):
    begun = time.process_time()
    with pytest.raises(UsageError, match=words + ".* parameters; 2,000,000,000 at most are built"):
        IRISConfig.tiny(**changes).validate()
    assert time.process_time() - begun < 0.1, "nothing was built"


@pytest.mark.parametrize(
    "config",
    [
        IRISConfig(),
        IRISConfig.paper(),
        IRISConfig.small(),
        IRISConfig(encoder_channels=256),
        IRISConfig.paper(encoder_channels=256, encoder_output_channels=2048),
        IRISConfig(lstm_dim=4096),
        IRISConfig(vocab_size=65_536),
        IRISConfig(transformer_layers=100, transformer_timesteps=1000),
    ],
)
def test_the_estimate_is_near_what_is_built(config):
    with torch.device("meta"):
        models = create_models(config, 18)
    built = sum(tensor.numel() for tensor in module_tensors(models.by_name()).values())
    assert 0.8 * built < sum(estimated_parameters(vars(config)).values()) < 2 * built < MAX_PARAMETERS
