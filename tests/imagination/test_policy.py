import pytest
import torch
from torch import nn

from iris_gym.imagination.policy import Policy
from iris_gym.models.actor_critic import ActorCritic


class HalvingTokenizer(nn.Module):
    """Reconstructs frames at half their brightness, and remembers what it was given."""

    def reconstruct(self, frames):
        self.given = frames
        return frames / 2


class CountingActor(nn.Module):
    """Constant logits; the hidden state counts frames, the cell state sums their brightness."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def initial_state(self, batch):
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def act(self, frame, state):
        brightness = frame.mean((1, 2, 3))[:, None]
        return self.logits.expand(len(frame), -1), (state[0] + 1, state[1] + brightness)


def policy(*logits: float) -> Policy:
    return Policy(HalvingTokenizer(), CountingActor(*logits))


def pixels(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)


def act(agent: Policy, batch: int, seed: int = 0, **arguments) -> torch.Tensor:
    frames = pixels(*[0] * batch)
    source = torch.Generator().manual_seed(seed)
    return agent.act(frames, agent.initial_state(batch), generator=source, **arguments)[0]


def shares(actions: torch.Tensor, classes: int) -> list[float]:
    return (actions.bincount(minlength=classes) / len(actions)).tolist()


def test_the_actor_sees_reconstructions_of_unit_frames():
    agent = policy(0.0, 0.0)
    _, (count, brightness) = agent.act(pixels(255, 51), agent.initial_state(2))
    assert agent.tokenizer.given.dtype == torch.float32
    assert agent.tokenizer.given.amax((1, 2, 3)).tolist() == pytest.approx([1.0, 0.2])
    assert count.flatten().tolist() == [1, 1]
    assert brightness.flatten().tolist() == pytest.approx([0.5, 0.1])


def test_the_recurrent_state_is_carried_by_the_caller():
    agent = policy(0.0, 0.0)
    state = agent.initial_state(1)
    for value in (255, 255, 51):
        _, state = agent.act(pixels(value), state)
    assert state[0].item() == 3
    assert state[1].item() == pytest.approx(1.1)


@pytest.mark.parametrize(("temperature", "odds"), [(0.5, 16.0), (1.0, 4.0), (2.0, 2.0)])
def test_the_temperature_divides_the_logits(temperature, odds):
    share = shares(act(policy(0.0, torch.tensor(4.0).log().item()), 4000, temperature=temperature), 2)[1]
    assert share == pytest.approx(odds / (1 + odds), abs=0.03)


def test_temperature_zero_takes_the_likeliest():
    assert act(policy(0.1, 0.3, 0.2), 50, temperature=0).tolist() == [1] * 50


def test_epsilon_one_is_uniform():
    assert shares(act(policy(50.0, 0.0, 0.0, 0.0), 4000, epsilon=1.0), 4) == pytest.approx([0.25] * 4, abs=0.03)


def test_epsilon_is_the_share_of_random_actions():
    # one random action in four falls on the greedy one
    assert shares(act(policy(50.0, 0.0, 0.0, 0.0), 4000, epsilon=0.4), 4)[0] == pytest.approx(0.7, abs=0.03)
    assert shares(act(policy(50.0, 0.0, 0.0, 0.0), 4000), 4)[0] == 1


def test_a_seed_repeats_the_actions_and_the_global_generator_is_untouched():
    state, agent = torch.get_rng_state(), policy(0.0, 0.0, 0.0)
    draws = [act(agent, 100, seed, epsilon=0.5) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_burn_in_reconstructs_and_skips_masked_frames():
    torch.manual_seed(0)
    agent = Policy(HalvingTokenizer(), ActorCritic(2, lstm_dim=4))
    frames = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    state = agent.burn_in(frames, torch.tensor([[False, True, True], [False, False, False]]))
    expected = agent.initial_state(1)
    for t in (1, 2):
        _, expected = agent.act(frames[:1, t], expected)
    torch.testing.assert_close((state[0][:1], state[1][:1]), expected)
    assert not state[0][1].any()
    assert not state[1][1].any()


def test_acting_has_no_gradient():
    agent = Policy(HalvingTokenizer(), ActorCritic(2, lstm_dim=4))
    _, state = agent.act(pixels(1), agent.initial_state(1))
    assert not state[0].requires_grad
