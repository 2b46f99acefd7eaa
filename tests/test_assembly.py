from contextlib import closing

import numpy as np
import pytest
import torch
from torch import nn

from iris_gym import IRISAgent, IRISConfig, UsageError, accelerate, assembly, build_models
from iris_gym.assembly import (
    Models,
    build_acting,
    build_dynamics,
    build_learners,
    build_replay,
    build_trainer,
    choose_device,
    freeze,
    training_dtype,
)
from iris_gym.config import preset
from iris_gym.data.replay import Replay
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.nn import perceptual
from iris_gym.nn.quantizer import EMAQuantizer, GradientQuantizer
from iris_gym.training.muon import Muon
from iris_gym.training.randomness import RandomStreams
from iris_gym.training.trainer import EpochEnded, UpdateDone
from iris_gym.types import Segment

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


@pytest.mark.parametrize(
    "config", [IRISConfig.paper(), IRISConfig.small(), IRISConfig.tiny()], ids=["paper", "small", "tiny"]
)
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


@pytest.mark.parametrize("device", ["hpu", "cuda:99", "gpu", "", "meta", "mps:4"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UsageError, match=f"device='{device}' is not there; this machine has cpu"):
        choose_device(device)


def test_a_device_of_another_kind_is_refused_though_it_is_there(monkeypatch):
    """As on Apple's, whose GPU knows no float64."""
    monkeypatch.setattr(torch, "empty", lambda size, device: torch.zeros(size))
    with pytest.raises(UsageError, match="device='mps' is of a kind that iris_gym does not support; say cpu, cuda"):
        choose_device("mps")


def test_learners_have_the_numbers_of_the_config():
    config = IRISConfig.tiny(
        stop_autoencoder_after=4,
        autoencoder_learning_rate=0.1,
        transformer_learning_rate=0.2,
        actor_critic_learning_rate=0.3,
        transformer_weight_decay=0.4,
        max_gradient_norm=0.5,
        autoencoder_first_updates=5,
        transformer_first_updates=6,
        actor_critic_first_updates=7,
        dreams_before_rewards=0.5,
        hard_examples=0.25,
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
    assert [learner.plan.first_updates for learner in trainer.learners] == [5, 6, 7]
    assert [learner.plan.before_rewards for learner in trainer.learners] == [0, 0, 0.5]
    assert [learner.plan.hard_share for learner in trainer.learners] == [0.25, 0, 0]
    assert actor_critic.plan.lead == config.imagination_horizon


def test_every_parameter_has_one_optimizer():
    with Replay(None, chunk_rows=32) as replay:
        trainer = new_trainer(IRISConfig.tiny(), replay)
    for learner in trainer.learners:
        owned = [id(value) for group in learner.optimizer.param_groups for value in group["params"]]
        assert sorted(owned) == sorted(id(value) for value in learner.module.parameters())


@pytest.mark.parametrize("orthogonal_init", [False, True])
def test_the_actor_critic_begins_as_the_config_says(orthogonal_init):
    first = build_models(IRISConfig.tiny(orthogonal_init=orthogonal_init), 3, "cpu").actor_critic.convolutions[0]
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    assert first.bias.any() != orthogonal_init


def test_muon_moves_the_matrices_of_the_transformers_blocks():
    with Replay(None, chunk_rows=32) as replay:
        trainers = [new_trainer(IRISConfig.tiny(transformer_optimizer=name), replay) for name in ("muon", "adamw")]
    muon, adamw = ({learner.name: learner.optimizer for learner in trainer.learners} for trainer in trainers)
    assert isinstance(muon["world_model"], Muon) and not isinstance(muon["actor_critic"], Muon)
    assert not any(isinstance(optimizer, Muon) for optimizer in adamw.values())
    world_model = trainers[0].learners[1].module
    names = {name for name, value in world_model.named_parameters() if value in muon["world_model"].matrices}
    parts = "attention.query_key_value", "attention.projection", "mlp.0", "mlp.2"
    assert names == {f"transformer.blocks.{block}.{part}.weight" for block in range(2) for part in parts}


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
        dict(transformer_optimizer="muon", learn_first_frames=False),
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


# The published agent

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
    return build_learners(config, models, streams)


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
    assert parameters(tokenizer) == 4_027_523


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


@pytest.mark.parametrize(("timesteps", "kept"), [(5, 2), (4, 2), (2, 1)])
def test_a_horizon_beyond_the_context_goes_on_from_half_of_it(timesteps, kept):
    config = IRISConfig.tiny(transformer_timesteps=timesteps, imagination_horizon=2 * timesteps + 1)
    models = build_models(config, 3, "cpu")
    assert build_dynamics(models, freeze(config, models)).overflow_context == kept
    actor_critic = learners(config, models)[2]
    assert actor_critic.update(segment(config.burn_in + 1), epoch=1)["loss"].isfinite()


# Precision and the fast path

AT_ONCE = dict(start_autoencoder_after=0, start_transformer_after=0, start_actor_critic_after=0, total_epochs=2)


def trained(**changes) -> Models:
    """Tiny models after two epochs in which every component learned."""
    config = IRISConfig.tiny(**(AT_ONCE | changes))
    torch.manual_seed(0)
    models = build_models(config, 3, "cpu")
    with filled_replay() as replay:
        trainer = build_trainer(config, models, replay, RandomStreams(0, CPU))
        trainer.env_steps = config.max_env_steps
        events = list(trainer.run(config.max_env_steps))
    assert sum(isinstance(event, UpdateDone) for event in events) == 14
    return models


def states(models: Models) -> dict[str, torch.Tensor]:
    modules = models.by_name().items()
    return {f"{name}.{key}": value for name, module in modules for key, value in module.state_dict().items()}


def test_plain_and_fast_path_train_the_same_weights():
    plain, fast = (states(trained(accelerate=accelerate, precision="float32")) for accelerate in (False, True))
    torch.testing.assert_close(plain, fast, rtol=0, atol=1e-4)  # layouts round differently; updates move 4e-4


@pytest.mark.parametrize(
    ("layout", "codebook"), [("frame_action", "gradient"), ("frame_action_reward_end", "ema")], ids=str
)
def test_training_in_bf16_keeps_float32_weights(layout, codebook):
    changes = dict(sequence_layout=layout, codebook=codebook)
    low, high = (states(trained(precision=precision, **changes)) for precision in ("bf16", "float32"))
    for name, value in low.items():
        assert value.dtype == high[name].dtype, name
        assert value.isfinite().all(), name
    assert any(not torch.equal(low[name], high[name]) for name in low)


def test_the_autoencoder_settles_at_the_share_of_its_rate_that_the_config_says():
    config = IRISConfig.tiny(stop_autoencoder_after=2, settled_autoencoder_updates=1, settled_autoencoder_factor=0.3)
    learner = learners(config, build_models(config, 3, "cpu"))[0]
    learner.update(segment(1), epoch=3)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * config.autoencoder_learning_rate)


def test_the_actor_critic_and_all_losses_are_float32_where_training_is_in_bf16():
    models, seen = build_models(IRISConfig.tiny(), 3, "cpu"), []
    for module in models.actor_critic.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    for learner in learners(IRISConfig.tiny(precision="bf16", perceptual_weight=0.0), models):
        loss, metrics = learner._backward(learner._prepared(segment(learner.plan.segment_length)))
        assert {loss.dtype, *(value.dtype for value in metrics.values())} == {torch.float32}, learner.name
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    "config", [IRISConfig.tiny(), IRISConfig.small(), IRISConfig()], ids=["tiny", "small", "default"]
)
def test_in_float32_the_fast_path_dreams_the_tokens_of_the_plain_one(config):
    models = build_models(config, 3, "cpu")
    frozen = assembly.freeze(config.replace(precision="float32"), models)
    assert frozen.tokenizer and frozen.tokenizer.copy is not models.tokenizer
    frames, dreamt = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    for dynamics in (assembly.build_dynamics(models, frozen), Dynamics(models.tokenizer, models.world_model)):
        greedy = dynamics.with_options(overflow_context=1, temperature=0.0)
        state = greedy.start(frames)
        dreamt.append([state.frame_tokens])
        for action in range(3):
            state, _ = greedy.step(state, torch.full((2,), action))
            dreamt[-1].append(state.frame_tokens)
    assert all(map(torch.equal, *dreamt))


def test_auto_is_bf16_where_networks_are_wide_and_the_path_is_fast(monkeypatch):
    monkeypatch.setattr(accelerate, "gains_from_bf16", lambda device: True)
    assert training_dtype(IRISConfig(), CPU) == torch.bfloat16
    assert training_dtype(IRISConfig.small(), CPU) == torch.float32
    assert training_dtype(IRISConfig(accelerate=False), CPU) == torch.float32
    assert training_dtype(IRISConfig(accelerate=False, precision="bf16"), CPU) == torch.bfloat16


@torch.no_grad()
def reconstruct(tokenizer) -> torch.Tensor:
    return tokenizer.reconstruct(segment(1).frames[:, 0].float() / 255)


def test_collecting_sees_what_the_autoencoder_has_learned_after_a_refresh():
    config = IRISConfig.tiny(precision="bf16", autoencoder_learning_rate=0.01)
    models = build_models(config, 3, "cpu")
    policy, before = build_acting(config, models), reconstruct(models.tokenizer)
    assert policy.tokenizer is not models.tokenizer
    for _ in range(3):
        learners(config, models)[0].update(segment(1), epoch=1)
    expected = reconstruct(models.tokenizer.inference_copy(torch.bfloat16))
    assert not torch.equal(reconstruct(models.tokenizer), before)
    assert not torch.equal(reconstruct(policy.tokenizer), expected), "without a refresh it acts on what it was"
    policy.refresh()
    assert torch.equal(reconstruct(policy.tokenizer), expected)


@pytest.mark.parametrize("on", [False, True])
def test_the_config_turns_the_mirror_of_the_replay_off(on, monkeypatch):
    asked = []
    monkeypatch.setattr(assembly, "Replay", lambda *_, mirror, **__: asked.append(mirror))
    build_replay(IRISConfig.tiny(accelerate=on), None)
    assert asked == [None if on else False]


def test_what_is_done_outside_of_training_is_float32_whatever_the_precision():
    agent = IRISAgent("MinAtar/Breakout-v1", IRISConfig.tiny(precision="bf16"), seed=0, device="cpu").learn(60)
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str):
        return lambda _, __, output: seen.setdefault(name, set()).add(output.dtype)

    for name, module in (
        ("encoder", agent.models.tokenizer.encoder[0]),
        ("decoder", agent.models.tokenizer.decoder[-1]),
        ("world_model", agent.models.world_model.frame_head),
    ):
        module.register_forward_hook(watch(name))
    agent.predict(np.zeros((64, 64, 3), np.uint8))
    assert seen == {"encoder": {torch.float32}, "decoder": {torch.float32}}
    seen.clear()
    with closing(agent.make_dream_env(2)) as dream:
        dream.reset(seed=0)
        dream.step(np.zeros(2, np.int64))
    assert seen == {name: {torch.float32} for name in ("encoder", "decoder", "world_model")}
    seen.clear()
    agent.evaluate(episodes=1, seed=0)
    assert seen == {"encoder": {torch.float32}, "decoder": {torch.float32}}
