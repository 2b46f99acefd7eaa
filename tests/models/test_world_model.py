import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_gym.models.world_model import WorldModel

VOCAB, ACTIONS, K, TIMESTEPS = 7, 3, 4, 3


def world_model(**changes) -> WorldModel:
    """A tiny model with weights large enough that every input matters."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "num_actions": ACTIONS, "tokens_per_frame": K, "timesteps": TIMESTEPS}
    model = WorldModel(**(sizes | {"embed_dim": 8, "layers": 2, "heads": 2} | changes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def constant_world_model(token_probabilities, reward_probabilities, end_probabilities, **changes) -> WorldModel:
    """A model that gives these probabilities whatever it reads."""
    model = world_model(**changes)
    for head, probabilities in (
        (model.frame_head, token_probabilities),
        (model.reward_head, reward_probabilities),
        (model.end_head, end_probabilities),
    ):
        nn.init.zeros_(head[-1].weight)
        head[-1].bias.data.copy_(torch.tensor(probabilities).log())
    return model


LAYOUTS = pytest.mark.parametrize("outcomes", [False, True], ids=["frame_action", "frame_action_reward_end"])


def tails(model: WorldModel, data: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.tails(data["actions"], data["rewards"].sign().long() + 1, data["ends"].long())


class Forced:
    """Stands in for sampling: gives these classes, one call after the other, and keeps the logits it saw."""

    def __init__(self, *classes: torch.Tensor) -> None:
        self.classes, self.logits = list(classes), []

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        self.logits.append(logits)
        return self.classes.pop(0)


def segment(batch: int = 2, length: int = TIMESTEPS, seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {
        "frame_tokens": torch.randint(VOCAB, (batch, length, K), generator=source),
        "actions": torch.randint(ACTIONS, (batch, length), generator=source),
        "rewards": torch.randn(batch, length, generator=source).round(),
        "ends": torch.rand(batch, length, generator=source) < 0.3,
        "mask": torch.ones(batch, length, dtype=torch.bool),
    }


def test_the_paper_size_has_8_447_493_parameters():
    model = WorldModel(
        vocab_size=512, num_actions=4, tokens_per_frame=16, timesteps=20, embed_dim=256, layers=10, heads=4, dropout=0.1
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_447_493
    assert model.num_actions == 4
    assert model.tokens_per_step == 17
    assert model.transformer.position_embedding.num_embeddings == 340


def test_with_outcomes_in_the_sequence_a_timestep_has_two_tokens_more():
    model = WorldModel(
        vocab_size=512,
        num_actions=4,
        tokens_per_frame=16,
        timesteps=20,
        embed_dim=256,
        layers=10,
        heads=4,
        outcomes_in_sequence=True,
    )
    assert model.tokens_per_step == 19
    assert model.transformer.position_embedding.num_embeddings == 380
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_447_493 + (40 + 3 + 2) * 256


def test_weights_start_with_deviation_0_02_and_biases_at_zero():
    model = WorldModel(
        vocab_size=64, num_actions=ACTIONS, tokens_per_frame=K, timesteps=20, embed_dim=32, layers=2, heads=2
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.numel() > 500:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
        if isinstance(module, nn.Linear):
            assert not module.bias.any(), name


@LAYOUTS
@pytest.mark.parametrize("length", [1, 2, TIMESTEPS])
def test_predictions_have_an_entry_for_every_target(length, outcomes):
    model, data = world_model(outcomes_in_sequence=outcomes), segment(2, length)
    predictions = model(data["frame_tokens"], tails(model, data))
    assert predictions.frame_tokens.shape == (2, length * K, VOCAB)
    assert predictions.rewards.shape == (2, length, 3)
    assert predictions.ends.shape == (2, length, 2)


# What predicts what


def changed_entries(model: WorldModel, data, frame_tokens, tail) -> tuple[list[bool], list[bool], list[bool]]:
    """Which predictions of frame tokens, rewards and ends differ from those of the unchanged data."""
    before, after = model(data["frame_tokens"], tails(model, data)), model(frame_tokens, tail)
    return tuple(
        (getattr(after, name) != getattr(before, name)).any(-1)[0].tolist()
        for name in ("frame_tokens", "rewards", "ends")
    )


@LAYOUTS
@torch.no_grad()
def test_an_entry_changes_with_exactly_the_tokens_before_its_target(outcomes):
    """Written out: entry i predicts frame token i + 1, so it sees frame tokens up to i, and the tails before it.

    In a tail the reward's prediction sees the action; the end's the action, and the reward where it is there.
    """
    model, data = world_model(outcomes_in_sequence=outcomes), segment(1)
    tail, entries, timesteps = tails(model, data), range(TIMESTEPS * K), range(TIMESTEPS)
    for token in entries:
        changed = data["frame_tokens"].clone()
        changed.view(-1)[token] = (changed.view(-1)[token] + 1) % VOCAB
        frames, rewards, ends = changed_entries(model, data, changed, tail)
        assert frames == [entry >= token for entry in entries], token
        assert rewards == ends == [timestep >= token // K for timestep in timesteps], token
    for place, classes in enumerate((ACTIONS, 3, 2)[: model.tail_length]):
        for t in timesteps:
            changed = tail.clone()
            changed[0, t, place] = (changed[0, t, place] + 1) % classes
            frames, rewards, ends = changed_entries(model, data, data["frame_tokens"], changed)
            # the first entry that a tail changes is the one that predicts the first token of the next frame
            assert frames == [entry >= t * K + K - 1 for entry in entries], (place, t)
            assert rewards == [timestep >= t + (place > 0) for timestep in timesteps], (place, t)
            assert ends == [timestep >= t + (place > 1) for timestep in timesteps], (place, t)


@given(frames=st.integers(1, TIMESTEPS - 1), steps=st.integers(1, 2), batch=st.integers(1, 3), outcomes=st.booleans())
@settings(deadline=None, max_examples=30)
@torch.no_grad()
def test_step_by_step_reading_predicts_what_reading_at_once_does(frames, steps, batch, outcomes):
    steps = min(steps, TIMESTEPS - frames)
    model, data = world_model(outcomes_in_sequence=outcomes), segment(batch)
    tokens, tail = data["frame_tokens"], tails(model, data)
    rewards, ends = data["rewards"].sign().long() + 1, data["ends"].long()
    expected = model(tokens, tail)
    cache = model.transformer.empty_cache(batch)
    model.read_frames(tokens[:, :frames], tail[:, : frames - 1], cache)
    assert cache.lengths.tolist() == [frames * model.tokens_per_step - model.tail_length - 1] * batch
    for timestep in range(frames - 1, frames - 1 + steps):
        forced = Forced(rewards[:, timestep], ends[:, timestep])
        answer = model.step(tokens[:, timestep, -1], data["actions"][:, timestep], cache, forced)
        assert torch.equal(answer.reward, rewards[:, timestep])
        assert torch.equal(answer.end, ends[:, timestep])
        logits = [answer.first_token]
        logits += [model.next_token(tokens[:, timestep + 1, index], cache) for index in range(K - 1)]
        first = timestep * K + K - 1
        torch.testing.assert_close(torch.stack(logits, 1), expected.frame_tokens[:, first : first + K])
        torch.testing.assert_close(forced.logits[0], expected.rewards[:, timestep])
        torch.testing.assert_close(forced.logits[1], expected.ends[:, timestep])


@given(read=st.integers(0, TIMESTEPS * (K + 1) - 2), batch=st.integers(1, 3), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_reading_last_token_and_action_in_one_pass_equals_two(read, batch, seed):
    """The pass that only writes the last frame token is merged with the next action's."""
    model, source = world_model(), torch.Generator().manual_seed(seed)
    before = torch.randint(VOCAB, (batch, read), generator=source)
    token, action = torch.randint(VOCAB, (batch,), generator=source), torch.randint(ACTIONS, (batch,), generator=source)
    merged, apart = model.transformer.empty_cache(batch), model.transformer.empty_cache(batch)
    if read:
        for cache in (merged, apart):
            model.transformer.forward_cached(model.frame_embedding(before), cache)
    forced, nothing = Forced(action, action), model.next_token(token, apart)
    answer = model.step(token, action, merged, forced)
    hidden = model.transformer.forward_cached(model.action_embedding(action)[:, None], apart)[:, -1]
    assert nothing.shape == (batch, VOCAB)
    torch.testing.assert_close(answer.first_token, model.frame_head(hidden))
    torch.testing.assert_close(forced.logits, [model.reward_head(hidden), model.end_head(hidden)])
    torch.testing.assert_close(merged.keys_values, apart.keys_values)
    assert torch.equal(merged.lengths, apart.lengths)


# The loss


@LAYOUTS
def test_loss_of_constant_predictions(outcomes):
    probabilities = [0.5, 0.25] + [0.05] * 5, [0.2, 0.5, 0.3], [0.9, 0.1]
    model = constant_world_model(*probabilities, outcomes_in_sequence=outcomes)
    loss, metrics = model.loss(
        frame_tokens=torch.tensor([[[6, 0, 0, 0], [0, 0, 0, 1]]]),  # the first token, a rare one, is never a target
        actions=torch.zeros(1, 2, dtype=torch.int64),
        rewards=torch.tensor([[-7.0, 0.25]]),  # classes 0 and 2
        ends=torch.tensor([[False, True]]),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    frame_loss = -(6 * math.log(0.5) + math.log(0.25)) / 7
    reward_loss = -(math.log(0.2) + math.log(0.3)) / 2
    end_loss = -(math.log(0.9) + math.log(0.1)) / 2
    assert metrics["frame_loss"].item() == pytest.approx(frame_loss)
    assert metrics["reward_loss"].item() == pytest.approx(reward_loss)
    assert metrics["end_loss"].item() == pytest.approx(end_loss)
    assert loss.item() == pytest.approx(frame_loss + reward_loss + end_loss)
    assert metrics["loss"].item() == loss.item()
    assert metrics["token_accuracy"].item() == pytest.approx(6 / 7)
    assert metrics["commonest_token_share"].item() == pytest.approx(6 / 7)
    assert metrics["reward_accuracy"].item() == 0  # the constant guess is class 1
    assert not any(value.requires_grad for value in metrics.values())


def test_means_are_over_unpadded_targets():
    model = constant_world_model([0.5, 0.25] + [0.05] * 5, [0.2, 0.5, 0.3], [0.9, 0.1])
    metrics = model.loss(
        frame_tokens=torch.tensor([[[1, 1, 1, 1], [0, 0, 0, 0]], [[1, 1, 1, 1], [1, 1, 0, 0]]]),
        actions=torch.zeros(2, 2, dtype=torch.int64),
        rewards=torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
        ends=torch.tensor([[False, True], [False, True]]),
        mask=torch.tensor([[True, False], [True, True]]),
    )[1]
    # targets: 3 + 3 ones of the first frames, 2 ones and 2 zeros of the second row's second frame
    assert metrics["frame_loss"].item() == pytest.approx(-(8 * math.log(0.25) + 2 * math.log(0.5)) / 10)
    assert metrics["reward_loss"].item() == pytest.approx(-(2 * math.log(0.5) + math.log(0.3)) / 3)
    assert metrics["end_loss"].item() == pytest.approx(-(2 * math.log(0.9) + math.log(0.1)) / 3)
    assert metrics["commonest_token_share"].item() == pytest.approx(0.8)
    assert metrics["token_accuracy"].item() == pytest.approx(0.2)


def test_first_frames_are_no_targets_where_they_are_not_to_be_learned():
    model = constant_world_model([0.5, 0.25] + [0.05] * 5, [0.2, 0.5, 0.3], [0.9, 0.1], learn_first_frames=False)
    data = dict(
        frame_tokens=torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]]),
        actions=torch.zeros(2, 2, dtype=torch.int64),
        rewards=torch.tensor([[0.0, 1.0], [0.0, 1.0]]),
        ends=torch.tensor([[False, True], [False, True]]),
    )
    metrics = model.loss(**data, mask=torch.tensor([[True, True], [True, False]]))[1]
    assert metrics["frame_loss"].item() == pytest.approx(-(2 * math.log(0.25) + 2 * math.log(0.5)) / 4)
    assert metrics["token_accuracy"].item() == 0.5
    assert metrics["reward_loss"].item() == pytest.approx(-(2 * math.log(0.5) + math.log(0.3)) / 3)
    loss, metrics = model.loss(**data, mask=torch.tensor([[True, False], [True, False]]))  # episodes of one step
    assert metrics["frame_loss"] == metrics["token_accuracy"] == metrics["commonest_token_share"] == 0
    assert loss.item() == pytest.approx(-math.log(0.5) - math.log(0.9))


@LAYOUTS
def test_padding_has_no_influence_on_loss_or_gradient(outcomes):
    model, data, other = world_model(outcomes_in_sequence=outcomes), segment(seed=1), segment(seed=2)
    data["mask"] = torch.tensor([[True, True, False], [True, False, False]])
    results = []
    for filling in (data, other):
        filled = {
            name: torch.where(data["mask"].view(2, TIMESTEPS, *[1] * (value.ndim - 2)), value, filling[name])
            for name, value in data.items()
        }
        filled["mask"] = data["mask"]
        model.zero_grad()
        loss, metrics = model.loss(**filled)
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        results.append([*metrics.values(), *gradients])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_an_untrained_model_loses_about_what_a_uniform_guess_does():
    model = WorldModel(
        vocab_size=VOCAB, num_actions=ACTIONS, tokens_per_frame=K, timesteps=TIMESTEPS, embed_dim=8, layers=2, heads=2
    )
    loss, _ = model.loss(**segment(8))
    assert loss.item() == pytest.approx(math.log(VOCAB) + math.log(3) + math.log(2), rel=0.01)


# The optimizer's groups


def test_weight_decay_falls_on_weights_of_linear_layers_only_and_no_parameter_is_forgotten():
    model = world_model()
    decayed, others = model.weight_decay_groups(0.01)
    assert decayed["weight_decay"] == 0.01
    assert others["weight_decay"] == 0
    chosen = [id(parameter) for parameter in decayed["params"] + others["params"]]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {id(parameter) for parameter in model.parameters()}
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.endswith("weight") and "norm" not in name and "embedding" not in name
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == expected
    assert len(expected) == 2 * 4 + 3 * 2  # four linear layers a block, two a head
