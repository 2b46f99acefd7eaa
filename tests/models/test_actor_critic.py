import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_gym.models.actor_critic import ActorCritic
from iris_gym.types import Trajectory

UNREAD = torch.empty(0)
"""Tokens, of which the loss reads nothing."""


def actor_critic(num_actions: int = 3, lstm_dim: int = 8) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(num_actions, lstm_dim=lstm_dim)


def frames(*leading: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*leading, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def constant_actor_critic(probabilities: list[float], value: float) -> ActorCritic:
    """A network with this policy and value whatever it sees."""
    model = actor_critic(len(probabilities))
    nn.init.zeros_(model.actor.weight)
    nn.init.zeros_(model.critic.weight)
    model.actor.bias.data.copy_(torch.tensor(probabilities).log())
    nn.init.constant_(model.critic.bias, value)
    return model


def tiny_trajectory(last_action: int = 0, last_reward: float = 0.0, last_end: bool = False) -> Trajectory:
    return Trajectory(
        frames=frames(1, 3),
        actions=torch.tensor([[0, 1, last_action]]),
        rewards=torch.tensor([[1.0, 0.0, last_reward]]),
        ends=torch.tensor([[False, True, last_end]]),
        tokens=UNREAD,
        log_probabilities=UNREAD,
    )


def loss_of(model: ActorCritic, trajectory: Trajectory, **changes):
    state = model.initial_state(len(trajectory.actions))
    return model.loss(trajectory, state, **({"discount": 0.5, "lambda_": 0.5, "entropy_weight": 0.1} | changes))


def test_the_paper_size_has_3_217_957_parameters():
    assert sum(parameter.numel() for parameter in ActorCritic(4).parameters()) == 3_217_957


def test_with_zero_heads_the_policy_is_uniform_and_no_value_expected_but_both_learn():
    model = ActorCritic(3, lstm_dim=8, zero_heads=True)
    logits, values, _ = model(frames(2, 4), model.initial_state(2))
    assert not logits.any() and not values.any()
    loss_of(model, tiny_trajectory())[0].backward()
    assert all(head.weight.grad.any() for head in (model.actor, model.critic))


@torch.no_grad()
def test_with_feature_norm_the_lstm_reads_features_of_one_size_however_small_those_of_the_convolutions_are():
    model = ActorCritic(3, lstm_dim=8, feature_norm=True)
    features = model._features(frames(2, 3))
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(-1, correction=0), torch.ones(2, 3), atol=0.02, rtol=0)
    last = model.convolutions[9]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    last.weight.div_(2)
    last.bias.div_(2)
    torch.testing.assert_close(model._features(frames(2, 3)), features, atol=0.05, rtol=0.02)


def test_what_is_normalised_is_learned_too_and_without_it_nothing_is_added():
    model = ActorCritic(3, lstm_dim=8, feature_norm=True)
    loss_of(model, tiny_trajectory())[0].backward()
    assert model.norm.weight.grad.any() and model.norm.bias.grad.any()
    assert not list(actor_critic().norm.parameters())


def test_with_orthogonal_init_the_convolutions_begin_as_rotations_that_keep_the_size_of_what_relu_halves():
    model = ActorCritic(3, lstm_dim=8, channels=16, orthogonal_init=True)
    for layer in (layer for layer in model.convolutions if isinstance(layer, nn.Conv2d)):
        rows = layer.weight.flatten(1)
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)), atol=1e-5, rtol=0)
        assert layer.bias is not None and not layer.bias.any()


@torch.no_grad()
def test_with_orthogonal_init_what_tells_two_frames_apart_does_not_fade_from_convolution_to_convolution():
    screen = torch.zeros(2, 3, 64, 64)
    screen[0, :, 30:36, 30:36] = screen[1, :, 30:36, 42:48] = 1
    difference = {}
    for orthogonal_init in (False, True):
        torch.manual_seed(0)
        model = ActorCritic(3, lstm_dim=8, channels=16, orthogonal_init=orthogonal_init)
        one, other = model.convolutions(2 * screen - 1)
        difference[orthogonal_init] = (one - other).abs().max()
    assert difference[True] > 0.5 > 0.2 > difference[False]


def test_shapes():
    model = actor_critic()
    state = model.initial_state(2)
    assert not any(part.any() for part in state)
    logits, values, (hidden, cell) = model(frames(2, 5), state)
    assert logits.shape == (2, 5, 3)
    assert values.shape == (2, 5)
    assert hidden.shape == cell.shape == (2, 8)


@torch.no_grad()
def test_pixels_are_scaled_to_minus_one_to_one():
    model, seen = actor_critic(), []
    model.convolutions.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model.act(torch.stack((torch.zeros(3, 64, 64), torch.ones(3, 64, 64))), model.initial_state(2))
    assert seen[0][0].unique().tolist() == [-1]
    assert seen[0][1].unique().tolist() == [1]


@torch.no_grad()
def test_seeing_frames_at_once_equals_acting_on_one_after_another():
    model, seen = actor_critic(), frames(2, 5)
    logits, _, (hidden, cell) = model(seen, model.initial_state(2))
    state = model.initial_state(2)
    for t in range(5):
        step_logits, state = model.act(seen[:, t], state)
        torch.testing.assert_close(step_logits, logits[:, t])
    torch.testing.assert_close(state, (hidden, cell))


@torch.no_grad()
def test_burn_in_over_unmasked_frames_is_the_state_after_seeing_them():
    model, seen = actor_critic(), frames(2, 4)
    expected = model(seen, model.initial_state(2))[2]
    torch.testing.assert_close(model.burn_in(seen, torch.ones(2, 4, dtype=torch.bool)), expected)


@given(mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3))
@settings(deadline=None, max_examples=15)
@torch.no_grad()
def test_masked_frames_leave_the_state_unchanged(mask):
    model, seen = actor_critic(), frames(len(mask), 4)
    state = model.burn_in(seen, torch.tensor(mask))
    for row, kept in enumerate(mask):
        alone = model.initial_state(1)
        for t in range(4):
            if kept[t]:
                _, alone = model.act(seen[row : row + 1, t], alone)
        torch.testing.assert_close((state[0][row : row + 1], state[1][row : row + 1]), alone)


def test_burn_in_has_no_gradient():
    model = actor_critic()
    state = model.burn_in(frames(1, 2), torch.ones(1, 2, dtype=torch.bool))
    assert not any(part.requires_grad for part in state)


def test_burn_in_on_no_frames_is_the_initial_state():
    model = actor_critic()
    state = model.burn_in(frames(2, 0), torch.ones(2, 0, dtype=torch.bool))
    torch.testing.assert_close(state, model.initial_state(2))


# The loss


def test_loss_of_a_hand_computed_trajectory():
    # V = 2 everywhere. The end cuts G1 = 0; G0 = 1 + 0.5 (0.5 · 2 + 0.5 · 0) = 1.5. Advantages -0.5 and -2.
    loss, metrics = loss_of(constant_actor_critic([0.25, 0.75], 2.0), tiny_trajectory())
    policy_loss = -(math.log(0.25) * -0.5 + math.log(0.75) * -2) / 2
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss)
    assert metrics["value_loss"].item() == pytest.approx((0.25 + 4) / 2)
    assert metrics["entropy"].item() == pytest.approx(entropy)
    assert loss.item() == pytest.approx(policy_loss + 2.125 - 0.1 * entropy)
    assert metrics["loss"].item() == loss.item()
    assert metrics["imagined_return"].item() == 1  # no value and no discount, so that real steps have the same
    assert metrics["imagined_reward"].item() == pytest.approx(0.5)
    assert metrics["value"].item() == pytest.approx(2.0)
    assert not any(value.requires_grad for value in metrics.values())


def test_the_last_step_only_bootstraps():
    model = actor_critic(2)
    expected, actual = loss_of(model, tiny_trajectory()), loss_of(model, tiny_trajectory(1, 100.0, True))
    assert expected[0].item() == actual[0].item()
    assert expected[1] == actual[1]


def test_a_good_action_becomes_likelier_and_the_value_moves_to_the_return():
    model = constant_actor_critic([0.5, 0.5], 0.0)
    trajectory = Trajectory(
        frames(1, 2), torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2).bool(), UNREAD, UNREAD
    )
    loss_of(model, trajectory, entropy_weight=0.0)[0].backward()
    assert model.actor.bias.grad.tolist() == pytest.approx([0.5, -0.5])
    assert model.critic.bias.grad.item() == pytest.approx(-2.0)  # d/dV (V - 1)²


def test_what_comes_behind_an_end_counts_only_where_it_is_to_be_learned():
    """The end is at step 1 of five."""
    seen, state = frames(1, 5), (torch.zeros(1, 8), torch.zeros(1, 8))
    ends = torch.tensor([[False, True, False, False, False]])

    def loss(actions: list[int], rewards: list[float], learn_after_end: bool) -> tuple[float, float]:
        model = actor_critic()
        trajectory = Trajectory(seen, torch.tensor([actions]), torch.tensor([rewards]), ends, UNREAD, UNREAD)
        settings = dict(discount=0.5, lambda_=0.5, entropy_weight=0.1)
        value, metrics = model.loss(trajectory, state, learn_after_end=learn_after_end, **settings)
        return value.item(), metrics["value_loss"].item()

    one, other = ([0, 1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0, 0.0]), ([0, 1, 2, 1, 0], [1.0, 0.0, 1.0, -1.0, 0.0])
    assert loss(*one, learn_after_end=False) == loss(*other, learn_after_end=False)
    assert loss(*one, learn_after_end=True) != loss(*other, learn_after_end=True)
    alive = (([2, 1, 0, 0, 0]), [1.0, 0.0, 0.0, 0.0, 0.0]), ([0, 1, 0, 0, 0], [1.0, -1.0, 0.0, 0.0, 0.0])
    assert all(loss(*changed, learn_after_end=False) != loss(*one, learn_after_end=False) for changed in alive)


def test_returns_and_baseline_pass_no_gradient():
    # With an advantage of 0 and no entropy bonus the policy stands still, though its loss reads V.
    model = constant_actor_critic([0.25, 0.75], 1.0)
    trajectory = Trajectory(
        frames(1, 2), torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2).bool(), UNREAD, UNREAD
    )
    loss_of(model, trajectory, entropy_weight=0.0)[0].backward()
    assert not any(parameter.grad.any() for parameter in model.parameters())


def test_the_entropy_bonus_flattens_the_policy():
    model = constant_actor_critic([0.25, 0.75], 1.0)
    trajectory = Trajectory(
        frames(1, 2), torch.tensor([[1, 0]]), torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2).bool(), UNREAD, UNREAD
    )
    loss_of(model, trajectory)[0].backward()
    assert model.actor.bias.grad[0] < 0 < model.actor.bias.grad[1]


def test_a_first_pass_moves_the_clipped_policy_as_reinforce_does():
    """Where nothing has moved yet all ratios are 1, and their gradient is that of the log-probabilities."""
    model, gradients = actor_critic(), []
    trajectory = replace(tiny_trajectory(), ends=torch.zeros(1, 3).bool())
    with torch.no_grad():
        log_policy = model(trajectory.frames, model.initial_state(1))[0].log_softmax(-1)
    trajectory = replace(trajectory, log_probabilities=log_policy.gather(-1, trajectory.actions[..., None])[..., 0])
    for clip_range in (None, 0.2):
        model.zero_grad()
        loss_of(model, trajectory, clip_range=clip_range)[0].backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("before", "reward", "moves"),
    [
        (0.45, 1.0, True),
        (0.4, 1.0, False),
        (0.4, -1.0, True),
        (0.55, -1.0, True),
        (0.65, -1.0, False),
        (0.65, 1.0, True),
    ],
)
def test_an_action_counts_no_more_once_it_has_moved_beyond_the_clip_range(before: float, reward: float, moves: bool):
    """It is taken with 0.5 now, and was with `before` in the dream; back it may always move."""
    model = constant_actor_critic([0.5, 0.5], 0.0)
    trajectory = Trajectory(
        frames(1, 2),
        torch.tensor([[1, 0]]),
        torch.tensor([[reward, 0.0]]),
        torch.zeros(1, 2).bool(),
        UNREAD,
        torch.tensor([[before, 1.0]]).log(),
    )
    _, metrics = loss_of(model, trajectory, entropy_weight=0.0, clip_range=0.2)
    ratio = 0.5 / before if moves else 1.2 if reward > 0 else 0.8
    assert metrics["policy_loss"].item() == pytest.approx(-ratio * reward)
    loss_of(model, trajectory, entropy_weight=0.0, clip_range=0.2)[0].backward()
    expected = 0.5 * ratio * reward if moves else 0
    assert model.actor.bias.grad.tolist() == pytest.approx([expected, -expected])


@pytest.mark.parametrize("clip_range", [None, 0.2])
@pytest.mark.parametrize(("value", "gradient"), [(0.25, -1.5), (1.0, 0.0), (2.0, 0.0)])
def test_of_what_was_lived_only_what_went_better_than_expected_is_learned(value, gradient, clip_range):
    """The return is 1; the second row, dreamt, is learned from in any case."""
    model = constant_actor_critic([0.5, 0.5], value)
    lived = Trajectory(
        frames(1, 2), torch.tensor([[1, 0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]), UNREAD[None],
        torch.tensor([[0.5, 1.0]]).log(), real=torch.tensor([True]),
    )  # fmt: skip
    both = replace(lived, real=torch.tensor([True, False]), **{
        name: getattr(lived, name).repeat_interleave(2, 0)
        for name in ("frames", "actions", "rewards", "ends", "log_probabilities")
    })  # fmt: skip
    for trajectory, dreamt in ((lived, 0), (both, 1)):
        model.zero_grad()
        loss_of(model, trajectory, entropy_weight=0.0, clip_range=clip_range)[0].backward()
        rows, advantage = len(trajectory.actions), 1 - value
        assert model.critic.bias.grad.item() == pytest.approx((gradient - 2 * advantage * dreamt) / rows)
        expected = 0.5 * (max(advantage, 0) + advantage * dreamt) / rows
        assert model.actor.bias.grad.tolist() == pytest.approx([expected, -expected])


def test_gradients_flow_through_the_lstm_over_time():
    model = actor_critic()
    seen = frames(1, 4).requires_grad_()
    logits, _, _ = model(seen, model.initial_state(1))
    logits[:, -1].square().sum().backward()
    assert (seen.grad.flatten(2).abs().sum(-1) > 0).all()


class StepByStep(ActorCritic):
    """The same network that sees one frame after another."""

    def forward(self, frames, state):
        if frames.shape[1] == 1:
            return super().forward(frames, state)
        logits, values = [], []
        for frame in frames.split(1, dim=1):
            step_logits, step_values, state = super().forward(frame, state)
            logits.append(step_logits)
            values.append(step_values)
        return torch.cat(logits, dim=1), torch.cat(values, dim=1), state


def test_the_batched_pass_has_the_loss_and_gradients_of_the_step_by_step_one():
    batched, stepwise = actor_critic(), StepByStep(3, lstm_dim=8)
    stepwise.load_state_dict(batched.state_dict())
    trajectory = Trajectory(
        frames=frames(2, 6),
        actions=torch.tensor([[0, 1, 2, 0, 1, 0], [2, 2, 1, 0, 0, 0]]),
        rewards=torch.tensor([[1.0, 0.0, -1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]]),
        ends=torch.tensor([[False] * 6, [False, False, True, False, False, False]]),
        tokens=UNREAD,
        log_probabilities=UNREAD,
    )
    state = batched.burn_in(frames(2, 3, seed=1), torch.ones(2, 3, dtype=torch.bool))
    losses = []
    for model in (batched, stepwise):
        loss, _ = model.loss(trajectory, state, discount=0.9, lambda_=0.9, entropy_weight=0.01)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(batched.parameters(), stepwise.parameters(), strict=True):
        assert one.grad.any()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
