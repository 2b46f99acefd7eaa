import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_gym.errors import UsageError
from iris_gym.imagination.dynamics import REREAD_ROWS, DreamState, Dynamics
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.quantizer import EMAQuantizer

VOCAB, ACTIONS, K, TIMESTEPS = 9, 3, 4, 3


LAYOUTS = pytest.mark.parametrize("outcomes", [False, True], ids=["frame_action", "frame_action_reward_end"])


def dynamics(*, timesteps: int = TIMESTEPS, temperature: float = 0.0, outcomes: bool = False, **changes) -> Dynamics:
    """A tiny dream, greedy unless asked, whose weights are large enough that frames differ."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(
        strided_encoder(8, 5, 6), strided_decoder(8, 5, 6), EMAQuantizer(VOCAB, 6), commitment_weight=0.25
    )
    world_model = WorldModel(
        vocab_size=VOCAB,
        num_actions=ACTIONS,
        tokens_per_frame=K,
        timesteps=timesteps,
        embed_dim=16,
        layers=2,
        heads=2,
        dropout=0.5,
        outcomes_in_sequence=outcomes,
    )
    for name, parameter in world_model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2.0 if "embedding" in name else 1.0)
    return Dynamics(tokenizer.eval(), world_model.eval(), temperature=temperature, **changes)


def first_tokens(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, K), generator=torch.Generator().manual_seed(seed))


def some_actions(steps: int, batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(ACTIONS, (steps, batch), generator=torch.Generator().manual_seed(seed))


def dream(model: Dynamics, state: DreamState, actions: torch.Tensor, **arguments):
    """Tokens (S, B, K), rewards (S, B) and ends (S, B) of a dream through actions (S, B), and the last state."""
    tokens, rewards, ends = [], [], []
    for action in actions:
        state, step = model.step(state, action, **arguments)
        tokens.append(state.frame_tokens[:, -1])
        rewards.append(step.reward)
        ends.append(step.end)
    return (torch.stack(tokens), torch.stack(rewards), torch.stack(ends)), state


@torch.no_grad()
def greedy_dream_without_cache(model: Dynamics, tokens: torch.Tensor, actions: torch.Tensor):
    """The same as `dream` with temperature 0, but everything in the context is read again for every single token."""
    world_model = model.world_model
    frames, tails, outputs = [tokens], [], ([], [], [])
    for action in actions:
        if len(frames) == world_model.timesteps:
            keep = model.overflow_context
            frames, tails = frames[-keep:], tails[len(tails) - (keep - 1) :]
        at_action, next_frame, unread = len(frames) - 1, torch.zeros_like(tokens), torch.zeros_like(action)

        def predict(reward, end, frames=frames, tails=tails, action=action, next_frame=next_frame, unread=unread):
            tail = [*tails, world_model.tails(action, reward, end), world_model.tails(unread, unread, unread)]
            return world_model(torch.stack([*frames, next_frame], 1), torch.stack(tail, 1))

        reward = predict(unread, unread).rewards[:, at_action].argmax(-1)
        end = predict(reward, unread).ends[:, at_action].argmax(-1)
        for index in range(K):
            logits = predict(reward, end).frame_tokens[:, len(frames) * K - 1 + index]
            next_frame[:, index] = logits.argmax(-1)
        frames, tails = [*frames, next_frame], [*tails, world_model.tails(action, reward, end)]
        for column, output in zip(outputs, (next_frame, reward.float() - 1, end.bool()), strict=True):
            column.append(output)
    return tuple(torch.stack(column) for column in outputs)


def assert_same_dream(actual, expected) -> None:
    for name, one, other in zip(("tokens", "rewards", "ends"), actual, expected, strict=True):
        assert torch.equal(one, other), name


@LAYOUTS
@pytest.mark.parametrize(("timesteps", "overflow_context"), [(3, 1), (3, 2), (5, 1), (5, 2), (5, 4)])
def test_a_cached_dream_equals_one_that_reads_everything_again(timesteps, overflow_context, outcomes):
    model = dynamics(timesteps=timesteps, overflow_context=overflow_context, outcomes=outcomes)
    tokens, actions = first_tokens(3), some_actions(12, 3)
    actual, _ = dream(model, model.start_from_tokens(tokens), actions)
    assert_same_dream(actual, greedy_dream_without_cache(model, tokens, actions))
    assert len(actual[0].flatten(0, 1).unique(dim=0)) > 10  # a dream that stands still would prove nothing


@given(steps=st.integers(0, 9), overflow_context=st.integers(1, 3), seed=st.integers(0, 99), outcomes=st.booleans())
@settings(deadline=None, max_examples=30)
def test_after_an_overflow_the_dream_is_one_started_from_the_kept_frames(steps, overflow_context, seed, outcomes):
    model = dynamics(timesteps=4, overflow_context=overflow_context, outcomes=outcomes)
    _, state = dream(model, model.start_from_tokens(first_tokens(2, seed)), some_actions(3 + steps, 2, seed))
    while state.cache.longest + model.world_model.tokens_per_step <= state.cache.capacity:
        state, _ = model.step(state, torch.zeros(2, dtype=torch.int64))
    assert state.frame_tokens.shape == (2, overflow_context, K)
    assert state.between.shape == (2, overflow_context - 1, model.world_model.tail_length)
    cache = model.world_model.transformer.empty_cache(2)
    with torch.no_grad():
        model.world_model.read_frames(state.frame_tokens, state.between, cache)
    fresh = DreamState(state.frame_tokens, state.between, cache)
    actions = some_actions(3, 2, seed + 1)
    assert_same_dream(dream(model, state, actions)[0], dream(model, fresh, actions)[0])


def test_a_larger_overflow_context_keeps_the_last_frames_and_what_stood_between_them():
    model = dynamics(timesteps=4, overflow_context=3, outcomes=True)
    state, actions = model.start_from_tokens(first_tokens(2)), some_actions(7, 2)
    (tokens, rewards, ends), state = dream(model, state, actions)
    assert torch.equal(state.frame_tokens, tokens[-3:].transpose(0, 1))
    between = torch.stack((actions, rewards.long() + 1, ends.long()), dim=-1)
    assert torch.equal(state.between, between[-2:].transpose(0, 1))


@pytest.mark.parametrize("overflow_context", [1, 2, 3])
def test_an_overflow_forgets_all_but_what_it_keeps(overflow_context):
    model = dynamics(timesteps=4, overflow_context=overflow_context)
    _, full = dream(model, model.start_from_tokens(first_tokens(2)), some_actions(3, 2))
    garbled, actions = full.clone(), some_actions(5, 2, seed=1)
    garbled.cache.keys_values.normal_()
    assert_same_dream(dream(model, full, actions)[0], dream(model, garbled, actions)[0])


def test_the_cache_holds_all_but_the_current_frames_last_token_and_starts_over_when_full():
    model = dynamics(overflow_context=2)
    state, lengths = model.start_from_tokens(first_tokens(2)), []
    for action in some_actions(6, 2):
        lengths.append(state.cache.lengths.tolist())
        state, _ = model.step(state, action)
    # frames read: 1, 2, 3, and then 2 kept and 1 new, again and again
    assert lengths == [[length] * 2 for length in (3, 8, 13, 13, 13, 13)]


@pytest.mark.parametrize("rows", [3, REREAD_ROWS, REREAD_ROWS + 1])
def test_rows_that_are_known_to_be_equally_long_overflow_as_any_others(rows):
    """One dream over several overflows, and the same asked before each step which of its rows are full."""
    model = dynamics(timesteps=4, overflow_context=2)
    known = model.start_from_tokens(first_tokens(rows))
    asked = known.clone()
    for action in some_actions(8, rows):
        asked.cache.even = False
        known, asked = (model.step(state, action)[0] for state in (known, asked))
        assert known.cache.even and known.cache.lengths.tolist() == [known.cache.longest] * rows
        assert torch.equal(known.frame_tokens, asked.frame_tokens)
        assert known.cache.longest == asked.cache.longest
        assert torch.equal(known.cache.keys_values, asked.cache.keys_values)


def test_rows_at_different_lengths_overflow_independently():
    model = dynamics(timesteps=4, overflow_context=2)
    old, fresh, actions = first_tokens(3, seed=1), first_tokens(1, seed=2), some_actions(10, 3)
    first, state = dream(model, model.start_from_tokens(old), actions[:3])
    late = model.start_from_tokens(fresh)
    state.cache.put(torch.tensor([1]), late.cache)
    state.frame_tokens[1, -1] = fresh[0]
    rest, _ = dream(model, state, actions[3:])
    whole = [torch.cat(parts) for parts in zip(first, rest, strict=True)]
    alone, _ = dream(model, model.start_from_tokens(old), actions)
    assert_same_dream([column[:, [0, 2]] for column in whole], [column[:, [0, 2]] for column in alone])
    anew, _ = dream(model, late, actions[3:, 1:2])
    assert_same_dream([column[:, [1]] for column in rest], anew)


@given(before=st.integers(0, 7), mask=st.lists(st.booleans(), min_size=3, max_size=3), outcomes=st.booleans())
@settings(deadline=None, max_examples=25)
def test_a_row_that_restarts_is_a_fresh_row_and_the_others_do_not_notice(before, mask, outcomes):
    model = dynamics(timesteps=4, overflow_context=2, outcomes=outcomes)
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(before))
    chosen, restarts = torch.tensor([0, 1, 1]), torch.tensor(mask)
    actions, after = some_actions(before, 3), some_actions(6, 3, seed=1)
    state = model.start_from_tokens(first_tokens(3))
    if before:
        _, state = dream(model, state, actions)
    undisturbed, _ = dream(model, state.clone(), after)
    fresh, _ = dream(model, model.start(frames[chosen]), after)
    rest, _ = dream(model, model.restart(state, restarts, model.prepare(frames), chosen), after)
    for actual, alone, anew in zip(rest, undisturbed, fresh, strict=True):
        assert torch.equal(actual[:, ~restarts], alone[:, ~restarts])
        assert torch.equal(actual[:, restarts], anew[:, restarts])


def test_a_clone_branches_a_dream():
    model = dynamics()
    _, state = dream(model, model.start_from_tokens(first_tokens(2)), some_actions(2, 2))
    branch = state.clone()
    left, right = some_actions(5, 2, seed=5), some_actions(5, 2, seed=6)
    expected = [
        dream(model, dream(model, model.start_from_tokens(first_tokens(2)), some_actions(2, 2))[1], actions)[0]
        for actions in (left, right)
    ]
    assert_same_dream(dream(model, state, left)[0], expected[0])
    assert_same_dream(dream(model, branch, right)[0], expected[1])


@LAYOUTS
def test_a_step_takes_one_transformer_pass_a_token(monkeypatch, outcomes):
    model = dynamics(timesteps=6, outcomes=outcomes)
    state, passes = model.start_from_tokens(first_tokens(2)), []
    transformer = model.world_model.transformer
    read = transformer.forward_cached
    monkeypatch.setattr(transformer, "forward_cached", lambda x, cache: (passes.append(x.shape[1]), read(x, cache))[1])
    for action in some_actions(2, 2):
        state, _ = model.step(state, action)
    # the last frame token and the action, reward and end where they are read, then K - 1 tokens
    assert passes == ([2, 1, 1] + [1, 1, 1] if outcomes else [2, 1, 1, 1]) * 2


def test_a_dream_starts_at_the_reconstruction_of_its_frames():
    model = dynamics()
    frames = torch.rand(2, 3, 64, 64)
    state = model.start(frames)
    assert torch.equal(state.frame_tokens[:, 0], model.tokenizer.encode(frames))
    assert torch.equal(model.decode(state), model.tokenizer.reconstruct(frames))


def test_a_step_answers_with_a_frame_a_reward_class_and_an_end():
    model = dynamics(temperature=1.0)
    state, seen = model.start_from_tokens(first_tokens(4)), []
    for action in some_actions(6, 4):
        state, step = model.step(state, action)
        seen += step.reward.tolist()
        assert step.frame.shape == (4, 3, 64, 64)
        assert 0 <= step.frame.min() <= step.frame.max() <= 1
        assert step.reward.dtype == torch.float32
        assert step.end.dtype == torch.bool
        assert torch.equal(step.frame, model.decode(state))
    assert set(seen) == {-1.0, 0.0, 1.0}


def test_dreams_have_no_gradient():
    model = dynamics()
    state, step = model.step(model.start_from_tokens(first_tokens(1)), torch.tensor([0]))
    assert not step.frame.requires_grad
    assert not state.cache.keys_values.requires_grad


def test_a_seed_repeats_a_sampled_dream_and_the_global_generator_is_untouched():
    model, actions = dynamics(temperature=1.0), some_actions(6, 3)
    state, dreams = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        source = torch.Generator().manual_seed(seed)
        dreams.append(dream(model, model.start_from_tokens(first_tokens(3)), actions, generator=source)[0])
    assert_same_dream(dreams[0], dreams[1])
    assert not torch.equal(dreams[0][0], dreams[2][0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("overflow_context", [0, TIMESTEPS])
def test_an_overflow_context_that_leaves_no_room_is_refused(overflow_context):
    with pytest.raises(UsageError, match=f"overflow_context={overflow_context} must lie between 1 and 2"):
        dynamics(overflow_context=overflow_context)


@pytest.mark.parametrize(("timesteps", "kept"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_of_the_context_is_kept_unless_told(timesteps, kept):
    assert dynamics(timesteps=timesteps).overflow_context == kept


def test_rows_restart_from_prepared_starts_and_the_others_dream_on():
    model = dynamics(timesteps=4, overflow_context=2)
    frames, actions, mask = torch.rand(5, 3, 64, 64), some_actions(12, 3), torch.tensor([False, True, True])
    first, state = dream(model, model.start_from_tokens(first_tokens(3)), actions[:3])
    branch = state.clone()
    starts, chosen = model.prepare(frames), torch.tensor([0, 4, 2])
    rest, _ = dream(model, model.restart(state, mask, starts, chosen), actions[3:])
    alone, _ = dream(model, branch, actions[3:])
    anew, _ = dream(model, model.start(frames[chosen]), actions[3:])
    assert_same_dream([column[:, :1] for column in rest], [column[:, :1] for column in alone])
    assert_same_dream([column[:, 1:] for column in rest], [column[:, 1:] for column in anew])


def test_a_blank_dream_restarted_is_a_new_one_in_the_same_memory():
    model, frames, actions = dynamics(), torch.rand(2, 3, 64, 64), some_actions(6, 2)
    expected, used = dream(model, model.start(frames), actions)
    blank = model.blank(2, used.cache)
    assert blank.cache.keys_values is used.cache.keys_values
    state = model.restart(blank, torch.tensor([True, True]), model.prepare(frames), torch.tensor([0, 1]))
    assert_same_dream(dream(model, state, actions)[0], expected)


def test_what_is_prepared_has_no_room():
    state = dynamics().prepare(torch.rand(2, 3, 64, 64))
    assert state.cache.capacity == K - 1 == state.cache.longest


def test_the_log_probability_is_asked_for_and_changes_nothing():
    model, actions = dynamics(temperature=1.0), some_actions(4, 3)
    states = [model.start_from_tokens(first_tokens(3)) for _ in range(2)]
    sources = [torch.Generator().manual_seed(0) for _ in range(2)]
    for action in actions:
        answers = [
            model.advance(state, action, generator=source, log_probs=asked)
            for state, source, asked in zip(states, sources, (False, True), strict=True)
        ]
        states = [state for state, _ in answers]
        assert torch.equal(states[0].frame_tokens, states[1].frame_tokens)
        assert answers[0][1].log_prob is None
        assert answers[1][1].log_prob.shape == (3,) and (answers[1][1].log_prob < 0).all()


@pytest.mark.parametrize("temperature", [-0.5, float("inf"), float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(UsageError, match="temperature="):
        dynamics(temperature=temperature)


def test_other_options_share_the_networks():
    model = dynamics()
    other = model.with_options(overflow_context=2, temperature=0.5)
    assert (other.overflow_context, other.temperature) == (2, 0.5) and model.temperature == 0
    assert other.world_model is model.world_model and other.tokenizer is model.tokenizer
