import numpy as np
import pytest
import torch

from iris_gym import IRISConfig, UsageError, build_models
from iris_gym.assembly import build_trainer, choose_device
from iris_gym.data.replay import Replay
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.trainer import EpochEnded, UpdateDone

CPU = torch.device("cpu")


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def new_trainer(config: IRISConfig, replay: Replay):
    return build_trainer(config, build_models(config, 3, "cpu"), replay, RandomStreams(0, CPU))


def filled_replay(steps: int = 12) -> Replay:
    replay = Replay(None, chunk_rows=32)
    rng = np.random.default_rng(0)
    for step in range(steps):
        frame = rng.integers(0, 256, (3, 64, 64), dtype=np.uint8)
        replay.append(frame, step % 3, float(step % 2), terminated=step % 5 == 4, truncated=False)
    return replay


def test_the_default_has_the_published_sizes():
    models = build_models(IRISConfig(), 4, "cpu")
    assert parameters(models.world_model) == 8_447_493
    assert parameters(models.actor_critic) == 3_217_957


@pytest.mark.parametrize("config", [IRISConfig.small(), IRISConfig.tiny()], ids=["small", "tiny"])
def test_presets_build(config):
    models = build_models(config, 6, "cpu")
    assert models.tokenizer.encode(torch.zeros(2, 3, 64, 64)).shape == (2, 16)
    assert not any(module.training for module in models.by_name().values())


@pytest.mark.parametrize("downsamplings", [1, 2, 3, 5])
def test_tokens_follow_the_downsamplings(downsamplings):
    tokens = (64 // 2**downsamplings) ** 2
    config = IRISConfig.tiny(encoder_downsamplings=downsamplings, tokens_per_frame=tokens)
    models = build_models(config, 3, "cpu")
    assert models.tokenizer.encode(torch.zeros(1, 3, 64, 64)).shape == (1, tokens)
    assert models.tokenizer.reconstruct(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_a_contradictory_config_is_not_built():
    with pytest.raises(UsageError, match="tokens_per_frame"):
        build_models(IRISConfig(tokens_per_frame=7), 4, "cpu")


def test_auto_is_a_device_that_is_there():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device(CPU) == CPU


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "meta", "mps:4"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UsageError, match=f"device='{device}' is not there; this machine has cpu"):
        choose_device(device)


def test_learners_have_the_numbers_of_the_config():
    config = IRISConfig.tiny(
        stop_autoencoder_after=4,
        autoencoder_learning_rate=0.1,
        transformer_learning_rate=0.2,
        actor_critic_learning_rate=0.3,
        transformer_weight_decay=0.4,
        max_gradient_norm=0.5,
    )
    with Replay(None, chunk_rows=32) as replay:
        trainer = new_trainer(config, replay)
    autoencoder, world_model, actor_critic = trainer.learners
    assert [learner.name for learner in trainer.learners] == ["autoencoder", "world_model", "actor_critic"]
    assert [learner.optimizer.param_groups[0]["lr"] for learner in trainer.learners] == [0.1, 0.2, 0.3]
    assert {group["weight_decay"] for group in world_model.optimizer.param_groups} == {0.0, 0.4}
    assert [learner.max_gradient_norm for learner in trainer.learners] == [0.5] * 3
    assert (autoencoder.plan.start_after, autoencoder.plan.stop_after, autoencoder.plan.segment_length) == (0, 4, 1)
    assert (world_model.plan.start_after, world_model.plan.segment_length, world_model.plan.align) == (1, 4, "start")
    assert (actor_critic.plan.start_after, actor_critic.plan.segment_length, actor_critic.plan.align) == (2, 4, "end")


def test_every_parameter_has_one_optimizer():
    with Replay(None, chunk_rows=32) as replay:
        trainer = new_trainer(IRISConfig.tiny(), replay)
    for learner in trainer.learners:
        owned = [id(value) for group in learner.optimizer.param_groups for value in group["params"]]
        assert sorted(owned) == sorted(id(value) for value in learner.module.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(burn_in=0),
        dict(imagination_horizon=2),
        dict(imagination_horizon=7),
        dict(transformer_timesteps=2),
        dict(vocab_size=2),
        dict(gradient_checkpointing=True),
        dict(foreground_weight=1.0),
        dict(transformer_dropout=0.0),
        dict(dead_code_threshold=0),
        dict(dead_code_threshold=1),
        dict(encoder_downsamplings=3, tokens_per_frame=64),
        dict(autoencoder_batch_size=1, transformer_batch_size=1, actor_critic_batch_size=1),
        dict(discount=1, td_lambda=0, entropy_weight=0),
    ],
    ids=str,
)
def test_one_epoch_of_every_component_runs(changes):
    start = dict(start_autoencoder_after=0, start_transformer_after=0, start_actor_critic_after=0, total_epochs=1)
    config = IRISConfig.tiny(**start, **changes)
    config.validate()
    with filled_replay() as replay:
        trainer = new_trainer(config, replay)
        trainer.env_steps = config.max_env_steps
        events = list(trainer.run(config.max_env_steps))
    assert sum(isinstance(event, UpdateDone) for event in events) == 7
    assert isinstance(events[-1], EpochEnded)
    assert all(np.isfinite(value) for value in events[-1].metrics.values())
    assert {"autoencoder", "world_model", "actor_critic"} <= {name.split("/")[0] for name in events[-1].metrics}
