from functools import partial

import pytest
import torch
from torch import nn

from iris_gym.functional import stored_frames, unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.quantizer import EMAQuantizer
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.hard_examples import CANDIDATES
from iris_gym.training.losses import actor_critic_loss, autoencoder_loss, dreaming, imagine, world_model_loss
from iris_gym.types import Segment

K, HORIZON = 4, 4


def models() -> tuple[Tokenizer, WorldModel, ActorCritic]:
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        strided_encoder(8, 5, 6), strided_decoder(8, 5, 6), EMAQuantizer(9, 6), commitment_weight=0.25
    )
    world_model = WorldModel(
        vocab_size=9, num_actions=3, tokens_per_frame=K, timesteps=4, embed_dim=8, layers=1, heads=2, dropout=0.5
    )
    return tokenizer.eval(), world_model.eval(), ActorCritic(3, lstm_dim=8).eval()


def segment(length: int, batch: int = 2, seed: int = 0) -> Segment:
    source = torch.Generator().manual_seed(seed)
    return Segment(
        frames=torch.randint(256, (batch, length, 3, 64, 64), generator=source).to(torch.uint8),
        actions=torch.randint(3, (batch, length), generator=source),
        rewards=torch.randn(batch, length, generator=source),
        ends=torch.zeros(batch, length, dtype=torch.bool),
        mask=torch.ones(batch, length, dtype=torch.bool),
    )


def dream_loss(tokenizer, world_model, actor_critic, data: Segment, **changes):
    """The actor-critic's loss, always with the same random numbers."""
    objective = partial(actor_critic.loss, **({"discount": 0.9, "lambda_": 0.9, "entropy_weight": 0.01} | changes))
    generator = torch.Generator().manual_seed(3)
    imagination = imagine(Dynamics(tokenizer, world_model), actor_critic, horizon=HORIZON, generator=generator)
    dream = dreaming(FrameCache(tokenizer), imagination, actor_critic)
    return actor_critic_loss(objective)(dream(data))


def has_gradient(module: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in module.parameters())


def all_have_gradients(module: nn.Module) -> bool:
    return all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_the_autoencoder_learns_from_single_frames_in_unit_scale():
    tokenizer, world_model, actor_critic = models()
    data = segment(1)
    loss, metrics = autoencoder_loss(tokenizer, batch_size=2)(data)
    expected, _ = tokenizer.loss(data.frames[:, 0].float() / 255)
    assert loss.item() == expected.item()
    assert "reconstruction_loss" in metrics
    loss.backward()
    assert all_have_gradients(tokenizer)
    assert not has_gradient(world_model)
    assert not has_gradient(actor_critic)


def test_the_autoencoder_learns_from_the_hardest_of_more_frames_than_a_batch():
    tokenizer, _, _ = models()
    data = segment(1, batch=1 + CANDIDATES)
    loss, metrics = autoencoder_loss(tokenizer, batch_size=2)(data)
    frames = data.frames[:, 0].float() / 255
    errors = [(tokenizer.reconstruct(frame[None]) - frame).square().mean().item() for frame in frames]
    worst = max(range(1, len(errors)), key=errors.__getitem__)
    expected, _ = tokenizer.loss(frames[[0, worst]])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert metrics["token_counts"].sum() == 2 * K


def test_the_world_model_learns_from_tokens_and_nothing_flows_into_the_tokenizer():
    tokenizer, world_model, actor_critic = models()
    data = segment(4)
    loss, _ = world_model_loss(FrameCache(tokenizer), world_model)(data)
    tokens = tokenizer.encode(data.frames.float() / 255)
    assert loss.item() == world_model.loss(tokens, data.actions, data.rewards, data.ends, data.mask)[0].item()
    loss.backward()
    assert all_have_gradients(world_model)
    assert not has_gradient(tokenizer)
    assert not has_gradient(actor_critic)


def test_learning_the_world_model_does_not_move_the_codebook():
    tokenizer, world_model, _ = models()
    before = tokenizer.quantizer.codebook.clone()
    world_model_loss(FrameCache(tokenizer), world_model)(segment(4))
    assert torch.equal(tokenizer.quantizer.codebook, before)


def test_the_actor_critic_learns_in_the_dream_and_nothing_flows_out_of_it():
    tokenizer, world_model, actor_critic = models()
    loss, _ = dream_loss(tokenizer, world_model, actor_critic, segment(3))
    loss.backward()
    assert all_have_gradients(actor_critic)
    assert not has_gradient(tokenizer)
    assert not has_gradient(world_model)


def test_the_dream_starts_at_the_reconstruction_of_the_last_frame_behind_the_burnt_in_others(monkeypatch):
    tokenizer, world_model, actor_critic = models()
    data, seen = segment(3), []
    monkeypatch.setattr(actor_critic, "loss", lambda *arguments, **_: seen.append(arguments) or (None, {}))
    dream_loss(tokenizer, world_model, actor_critic, data)
    ((trajectory, state),) = seen
    assert trajectory.frames.shape == (2, HORIZON, 3, 64, 64)
    kept = unit_frames(stored_frames(tokenizer.reconstruct(data.frames.float() / 255)))
    assert torch.equal(trajectory.frames[:, 0], kept[:, -1])
    torch.testing.assert_close(state, actor_critic.burn_in(kept[:, :-1], data.mask[:, :-1]))
    assert not trajectory.frames.requires_grad


def test_a_dream_knows_how_likely_its_actions_were():
    tokenizer, world_model, actor_critic = models()
    source = torch.Generator().manual_seed(3)
    imagination = imagine(Dynamics(tokenizer, world_model), actor_critic, horizon=HORIZON, generator=source)
    trajectory, state = dreaming(FrameCache(tokenizer), imagination, actor_critic)(segment(3))
    log_policy = actor_critic(trajectory.frames, state)[0].log_softmax(-1)[:, :-1]
    expected = log_policy.gather(-1, trajectory.actions[:, :-1, None]).squeeze(-1)
    torch.testing.assert_close(trajectory.log_probabilities[:, :-1], expected)


def test_padded_frames_do_not_count():
    data, other = segment(4), segment(4, seed=1)
    data.mask[:, :2] = False
    other.frames[:, 2:] = data.frames[:, 2:]
    other.mask[:, :2] = False
    losses = [dream_loss(*models(), filled)[0].item() for filled in (data, other)]
    assert losses[0] == losses[1]
    other.mask[:, :2] = True
    assert dream_loss(*models(), other)[0].item() != losses[0]


def test_without_burn_in_a_segment_is_its_last_frame():
    loss, metrics = dream_loss(*models(), segment(1))
    assert loss.isfinite()
    assert metrics["entropy"] > 0


def test_the_same_random_numbers_give_the_same_loss():
    first, second = (dream_loss(*models(), segment(3))[0].item() for _ in range(2))
    assert first == second
