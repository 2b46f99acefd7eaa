import pytest
import torch
from torch import nn

from iris_gym.assembly import Models, build_learners, build_models
from iris_gym.config import IRISConfig, preset
from iris_gym.errors import UsageError
from iris_gym.imagination.policy import Policy
from iris_gym.nn import perceptual
from iris_gym.nn.quantizer import EMAQuantizer, GradientQuantizer
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import Segment

TINY_PAPER = dict(
    vocab_size=16,
    token_embedding_dim=8,
    encoder_channels=32,
    encoder_output_channels=12,
    transformer_layers=1,
    transformer_embed_dim=16,
    transformer_heads=2,
    transformer_timesteps=4,
    lstm_dim=8,
    imagination_horizon=3,
    burn_in=2,
)


def tiny_paper(**changes) -> tuple[IRISConfig, Models]:
    torch.manual_seed(0)
    config = IRISConfig.paper(**(TINY_PAPER | changes))
    return config, build_models(config, 3, "cpu")


def segment(length: int) -> Segment:
    source = torch.Generator().manual_seed(0)
    return Segment(
        frames=torch.randint(256, (2, length, 3, 64, 64), generator=source).to(torch.uint8),
        actions=torch.randint(3, (2, length), generator=source),
        rewards=torch.zeros(2, length),
        ends=torch.zeros(2, length, dtype=torch.bool),
        mask=torch.ones(2, length, dtype=torch.bool),
    )


def learners(config: IRISConfig, models: Models):
    streams = RandomStreams(0, torch.device("cpu"))
    return build_learners(config, models, Policy(models.tokenizer, models.actor_critic), streams)


def test_the_paper_preset_is_the_published_agent():
    config = IRISConfig.paper()
    assert config == preset("paper")
    config.validate()
    assert (config.start_autoencoder_after, config.start_transformer_after, config.start_actor_critic_after) == (
        5,
        25,
        50,
    )
    tokenizer = build_models(config, 4, "cpu").tokenizer
    assert isinstance(tokenizer.quantizer, GradientQuantizer)
    assert (tokenizer.commitment_weight, tokenizer.perceptual_weight, tokenizer.foreground_weight) == (1.0, 1.0, 0.0)
    assert tokenizer.pixel_error(torch.tensor(-3.0)) == 3
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == 4_027_523


def test_network_codebook_and_errors_are_chosen_apart():
    _, models = tiny_paper(codebook="ema", autoencoder="strided", reconstruction_loss="mse")
    assert isinstance(models.tokenizer.quantizer, EMAQuantizer)
    assert models.tokenizer.pixel_error(torch.tensor(-3.0)) == 9
    assert not hasattr(models.tokenizer.encoder, "middle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_channels": 24}, "encoder_channels=24 must be a multiple of 32"),
        ({"encoder_output_channels": 0}, "encoder_output_channels=0 must be greater than 0"),
        ({"perceptual_weight": -1.0}, "perceptual_weight=-1.0 must be 0 or greater"),
        ({"autoencoder": "big"}, "autoencoder='big' must be one of strided, vqgan"),
        ({"codebook": "none"}, "codebook='none' must be one of ema, gradient"),
        ({"reconstruction_loss": "l2"}, "reconstruction_loss='l2' must be one of mse, l1"),
        (
            {"sequence_layout": "reward"},
            "sequence_layout='reward' must be one of frame_action, frame_action_reward_end",
        ),
    ],
)
def test_values_that_cannot_be_used_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        IRISConfig.paper(**changes).validate()


class Zero(nn.Module):
    def forward(self, images, targets):
        return 0 * (images - targets).mean((1, 2, 3), keepdim=True)


def test_only_an_autoencoder_update_asks_for_lpips(monkeypatch):
    loads = []
    monkeypatch.setattr(perceptual, "load_lpips", lambda: loads.append(None) or Zero())
    config, models = tiny_paper()
    autoencoder, world_model, actor_critic = learners(config, models)
    Policy(models.tokenizer, models.actor_critic).act(segment(1).frames[:, 0], models.actor_critic.initial_state(2))
    world_model.update(segment(4), epoch=1)
    actor_critic.update(segment(3), epoch=1)
    assert not loads
    autoencoder.update(segment(1), epoch=1)
    metrics = autoencoder.update(segment(1), epoch=1)
    assert len(loads) == 1
    assert "perceptual_loss" in metrics


def test_without_its_weight_nothing_is_asked_for(monkeypatch):
    def unavailable():
        raise UsageError("not here")

    monkeypatch.setattr(perceptual, "load_lpips", unavailable)
    learners(*tiny_paper(perceptual_weight=0.0))[0].update(segment(1), epoch=1)
    with pytest.raises(UsageError, match="not here"):
        learners(*tiny_paper())[0].update(segment(1), epoch=1)


@pytest.mark.parametrize("layout", ["frame_action", "frame_action_reward_end"])
def test_all_components_learn_in_either_layout(layout):
    config, models = tiny_paper(sequence_layout=layout, perceptual_weight=0.0)
    assert models.world_model.tokens_per_step == (19 if layout.endswith("end") else 17)
    for learner, length in zip(learners(config, models), (1, 4, 3), strict=True):
        before = [parameter.clone() for parameter in learner.module.parameters()]
        assert learner.update(segment(length), epoch=1)["loss"].isfinite()
        moved = [not torch.equal(one, other) for one, other in zip(before, learner.module.parameters(), strict=True)]
        assert all(moved[-4:])
