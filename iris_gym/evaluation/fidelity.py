"""How far a dream can be trusted: it is held against real games that the agent had not seen.

Letters as in `stretches`; N real steps in all, V codes. A measure is NaN where there is nothing to compare.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.evaluation.codes import Codebook, look_at_codes
from iris_gym.evaluation.prediction import Dream, Forecast, dream_of_actions, dream_of_policy, forecast
from iris_gym.evaluation.real_episodes import RealEpisode
from iris_gym.evaluation.similarity import squared_error, structural_similarity
from iris_gym.evaluation.stretches import Stretches, choose_starts, cut_stretches, decode, encode
from iris_gym.functional import unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.imagination.policy import Policy
from iris_gym.models.tokenizer import Tokenizer

MOVING = 0.1
"""How far a pixel has to be from the usual picture, in [0, 1], to count as part of something that moves."""

BACKGROUND_FRAMES = 200
"""Frames whose median is the usual picture."""


@dataclass(frozen=True, slots=True)
class Steps:
    """All real steps, each with what the world model said of it after it had read the steps before."""

    game: NDArray[np.int64]  # (N,)
    game_step: NDArray[np.int64]  # (N,), counted from 0 in each game
    token_accuracy: NDArray[np.float64]  # (N,), of the next frame; NaN where the episode has none
    nats: NDArray[np.float64]  # (N,), minus the log-likelihood of the next frame, a token
    unchanged: NDArray[np.float64]  # (N,), share of the tokens that are the same in the next frame
    reward: NDArray[np.int64]  # (N,), its sign
    reward_probabilities: NDArray[np.float64]  # (N, 3), of -1, 0 and 1
    end: NDArray[np.bool_]  # (N,)
    end_probability: NDArray[np.float64]  # (N,)


@dataclass(frozen=True, slots=True)
class Strip:
    """A start in pictures, (H + 1, 3, 64, 64) uint8 each, the frame at the start first."""

    error: float  # of the dream, squared, averaged over the horizon
    game: int
    game_step: int
    real: Tensor
    reconstruction: Tensor
    dream: Tensor
    real_rewards: list[int]
    dream_rewards: list[int]
    dream_end: int | None  # the step after which the dream said that it was over


@dataclass(frozen=True, slots=True)
class Fidelity:
    """All that was measured."""

    episodes: list[RealEpisode]
    starts: Stretches
    by_horizon: dict[str, NDArray[np.float64]]  # name → (S, H)
    steps: Steps
    real_rewards: NDArray[np.int64]  # (S, H), 0 after an end
    dream_rewards: NDArray[np.int64]  # (S, H), of the policy's own dream; 0 after its end
    real_lifetime: tuple[NDArray[np.int64], NDArray[np.bool_]]  # (S,) steps watched, and whether an end came then
    dream_lifetime: tuple[NDArray[np.int64], NDArray[np.bool_]]
    codebook: Codebook
    strips: dict[str, Strip]  # best, median, worst


def measure(
    dynamics: Dynamics,
    policy: Policy,
    episodes: Sequence[RealEpisode],
    *,
    starts: int,
    horizon: int,
    context: int = 1,
    burn_in: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    on_stage: Callable[[str], object] = lambda _: None,
) -> Fidelity:
    """Hold dreams against `episodes`.

    Args:
        dynamics: what dreams; it samples with its own temperature.
        policy: who played the episodes. In its own dreams it acts at `temperature`, and its memory begins with the
            `burn_in` frames before the start, as in training.
        starts: dreams at most. They start at steps drawn uniformly.
        horizon: steps that each is compared for.
        context: real frames that a dream has read when it starts; 1 in training.
        seed: of the choice of starts and of the dreams.
        on_stage: called with a word or two at the start of each part of the work.

    Raises:
        UsageError: no episode is long enough.
    """
    device = dynamics.device
    tokenizer, world_model = dynamics.tokenizer, dynamics.world_model
    on_stage("encoding")
    chosen = choose_starts(episodes, starts, horizon=horizon, context=context, generator=np.random.default_rng(seed))
    tokens = [encode(tokenizer, episode.frames, device) for episode in episodes]
    stretches = cut_stretches(episodes, tokens, chosen, horizon=horizon, context=context)
    generator = torch.Generator(device).manual_seed(seed)
    on_stage("told the truth")
    steps = measure_steps(dynamics, episodes, tokens)
    told = forecast(
        world_model,
        stretches.tokens,
        stretches.actions,
        stretches.rewards,
        stretches.ends,
        overflow_context=dynamics.overflow_context,
    )
    on_stage("dreaming")
    dream = dream_of_actions(dynamics, stretches, generator=generator)
    own = dream_of_policy(
        dynamics,
        policy,
        stretches,
        memories=_memories(policy, episodes, stretches, burn_in, device),
        temperature=temperature,
        generator=generator,
    )
    on_stage("comparing pictures")
    usual = usual_picture(episodes)
    pictures = compare_frames(tokenizer, stretches, dream.tokens, usual, device)
    dream_lifetime = lifetime(own.ends)
    return Fidelity(
        list(episodes),
        stretches,
        compare_tokens(stretches, told, dream) | pictures,
        steps,
        stretches.after_start(stretches.rewards).numpy(),
        own.rewards * (np.arange(horizon) < dream_lifetime[0][:, None]),
        _real_lifetime(stretches),
        dream_lifetime,
        look_at_codes(tokenizer, episodes, tokens, dream.tokens, device),
        _strips(tokenizer, episodes, stretches, dream, pictures["pixel_error_dream"], device),
    )


def measure_steps(dynamics: Dynamics, episodes: Sequence[RealEpisode], tokens: Sequence[Tensor]) -> Steps:
    """What the world model says of every step of the episodes, whose frames have the `tokens` (T, K)."""
    columns: list[tuple[NDArray, ...]] = []
    for episode, own in zip(episodes, tokens, strict=True):
        padded = torch.cat((own, torch.zeros_like(own[:1])))[None]  # the last step leads to a frame that nobody kept
        rewards, ends = episode.rewards.sign().long(), episode.ends
        told = forecast(
            dynamics.world_model,
            padded,
            episode.actions[None],
            rewards[None],
            ends[None],
            overflow_context=dynamics.overflow_context,
        )
        unchanged = (padded[0, 1:] == padded[0, :-1]).double().mean(-1).numpy()
        followed = np.arange(1, len(episode) + 1) < len(episode)
        columns.append(
            (
                np.full(len(episode), episode.game),
                episode.game_step + np.arange(len(episode)),
                *(np.where(followed, values, np.nan) for values in (told.token_accuracy[0], told.nats[0], unchanged)),
                rewards.numpy(),
                told.reward_probabilities[0],
                ends.numpy(),
                told.end_probability[0],
            )
        )
    return Steps(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def compare_tokens(stretches: Stretches, told: Forecast, dream: Dream) -> dict[str, NDArray[np.float64]]:
    """Measures (S, H) on tokens, rewards and ends."""
    first = stretches.context - 1
    real = stretches.tokens[:, stretches.context :]
    at_start = stretches.tokens[:, first : first + 1]
    rewards = stretches.after_start(stretches.rewards).numpy()
    ends = stretches.after_start(stretches.ends).numpy()

    def share(guess: Tensor) -> NDArray[np.float64]:
        return (guess == real).double().mean(-1).numpy()

    of_frames = {
        "token_accuracy_told": told.token_accuracy[:, first:],
        "token_accuracy_dream": share(dream.tokens),
        "token_accuracy_start_kept": share(at_start),
        "token_accuracy_last_kept": share(stretches.tokens[:, first:-1]),
        "nats_real": told.nats[:, first:],
        "nats_dream": dream.nats,
    }
    of_steps = {
        "reward_right": (dream.rewards == rewards).astype(np.float64),
        "end_right": (dream.ends == ends).astype(np.float64),
    }
    return {name: np.where(stretches.frame_known, values, np.nan) for name, values in of_frames.items()} | {
        name: np.where(stretches.step_known, values, np.nan) for name, values in of_steps.items()
    }


@inference
def compare_frames(
    tokenizer: Tokenizer, stretches: Stretches, dream_tokens: Tensor, usual: Tensor, device: torch.device
) -> dict[str, NDArray[np.float64]]:
    """Measures (S, H) on pixels: squared error, the same on what moves, and SSIM.

    Each of the dream, of the reconstruction, and of the frame at the start, held against the real frame. `usual`
    (3, 64, 64) in [0, 1] is the picture from which moving things differ.
    """
    measures: dict[str, list[Tensor]] = {}
    usual = usual.to(device)
    for step in range(stretches.horizon):
        at = stretches.context + step
        real = unit_frames(stretches.frames[:, at].to(device))
        moving = ((real - usual).abs().amax(1, keepdim=True) > MOVING).float()
        guesses = {
            "dream": tokenizer.decode(dream_tokens[:, step].to(device)),
            "reconstruction": tokenizer.decode(stretches.tokens[:, at].to(device)),
            "start_kept": unit_frames(stretches.frames[:, stretches.context - 1].to(device)),
        }
        for name, guess in guesses.items():
            error = (guess - real).square().mean(1, keepdim=True)
            on_moving = (error * moving).sum((1, 2, 3)) / moving.sum((1, 2, 3))  # NaN where nothing moves
            measures.setdefault(f"pixel_error_{name}", []).append(squared_error(guess, real).cpu())
            measures.setdefault(f"moving_error_{name}", []).append(on_moving.cpu())
            measures.setdefault(f"ssim_{name}", []).append(structural_similarity(guess, real).cpu())
    return {
        name: np.where(stretches.frame_known, torch.stack(values, dim=1).double().numpy(), np.nan)
        for name, values in measures.items()
    }


def usual_picture(episodes: Sequence[RealEpisode]) -> Tensor:
    """The median of frames spread over the episodes: (3, 64, 64) in [0, 1]."""
    total = sum(map(len, episodes))
    stride = -(-total // BACKGROUND_FRAMES)
    frames = torch.cat([episode.frames[::stride] for episode in episodes])
    return unit_frames(frames.float().median(0).values)


def lifetime(ends: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """From ends (S, H): steps (S,) up to the first one, or H, and whether there was one (S,)."""
    ended = np.any(ends, axis=1)
    return np.where(ended, ends.argmax(1) + 1, ends.shape[1]), ended


def _real_lifetime(stretches: Stretches) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    ended = stretches.after_start(stretches.ends).any(1).numpy()
    return stretches.step_known.sum(1), ended


def _memories(
    policy: Policy, episodes: Sequence[RealEpisode], stretches: Stretches, burn_in: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the policy remembers before the start: the last `burn_in` frames before it, as in training."""
    state = policy.initial_state(len(stretches.starts))
    for row, start in enumerate(stretches.starts):
        seen = episodes[start.episode].frames[max(start.step - burn_in, 0) : start.step]
        if len(seen):
            mask = torch.ones(1, len(seen), dtype=torch.bool, device=device)
            hidden, cell = policy.burn_in(seen[None].to(device), mask)
            state[0][row], state[1][row] = hidden[0], cell[0]
    return state


def _strips(
    tokenizer: Tokenizer,
    episodes: Sequence[RealEpisode],
    stretches: Stretches,
    dream: Dream,
    errors: NDArray[np.float64],
    device: torch.device,
) -> dict[str, Strip]:
    """The starts whose dream has the least, the middle and the greatest error (S, H), of those seen for longest."""
    length = stretches.frame_known.sum(1)
    longest = np.flatnonzero(length == length.max())
    mean = errors[longest, : length.max()].mean(1) if length.max() else np.zeros(len(longest))
    order = longest[mean.argsort(kind="stable")]
    rows = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return {name: _strip(tokenizer, episodes, stretches, dream, errors, int(row), device) for name, row in rows.items()}


def _strip(
    tokenizer: Tokenizer,
    episodes: Sequence[RealEpisode],
    stretches: Stretches,
    dream: Dream,
    errors: NDArray[np.float64],
    row: int,
    device: torch.device,
) -> Strip:
    known = int(stretches.frame_known[row].sum())
    first, start = stretches.context - 1, stretches.starts[row]
    tokens = stretches.tokens[row, first : first + 1 + known]
    (lived,), (ended,) = lifetime(dream.ends[row : row + 1])
    return Strip(
        error=float(errors[row, :known].mean()) if known else 0.0,
        game=int(stretches.games[row]),
        game_step=episodes[start.episode].game_step + start.step,
        real=stretches.frames[row, first : first + 1 + known],
        reconstruction=decode(tokenizer, tokens, device),
        dream=decode(tokenizer, torch.cat((tokens[:1], dream.tokens[row, :known])), device),
        real_rewards=stretches.after_start(stretches.rewards)[row].tolist(),
        dream_rewards=dream.rewards[row].tolist(),
        dream_end=int(lived) if ended else None,
    )
