"""How often an agent's networks come to the same tokens in bf16 as in float32."""

from typing import cast

import torch
from torch import Tensor

from iris_gym.accelerate import inference
from iris_gym.assembly import Models, build_dynamics, freeze
from iris_gym.config import IRISConfig
from iris_gym.functional import unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.types import Segment


@inference
def bf16_agreement(config: IRISConfig, models: Models, segment: Segment) -> dict[str, float]:
    """Compare the copies that training with precision="bf16" computes with to the networks themselves.

    On a segment of B rows by L steps, and with the likeliest class taken everywhere:

        encode        share of its frames' tokens that are the same
        next_token    share of the tokens predicted after the segment's own (teacher forcing), where not padded
        reward, end   the same for outcomes
        dream_tokens  share of the tokens in dreams that begin at the first frames and follow the L actions
        dream_steps   steps before such a dream's first other token, L at most, on average
    """
    frozen = freeze(config.replace(precision="bf16"), models)
    assert frozen.tokenizer and frozen.world_model
    frames = unit_frames(segment.frames)
    tokens, others = models.tokenizer.encode(frames), cast(Tokenizer, frozen.tokenizer.copy).encode(frames)
    same = {"encode": _share(tokens == others, segment.mask)}
    same |= _teacher_forced(models.world_model, cast(WorldModel, frozen.world_model.copy), tokens, segment)
    plain = Dynamics(models.tokenizer, models.world_model)
    dreams = [_dream(each, tokens[:, 0], segment.actions) for each in (plain, build_dynamics(models, frozen))]
    equal = dreams[0] == dreams[1]
    same["dream_tokens"] = equal.float().mean().item()
    same["dream_steps"] = equal.all(-1).int().cumprod(1).sum(1).float().mean().item()
    return same


def _teacher_forced(plain: WorldModel, other: WorldModel, tokens: Tensor, segment: Segment) -> dict[str, float]:
    tails = plain.tails(segment.actions, segment.rewards.sign().long() + 1, segment.ends.long())
    one, two = plain(tokens, tails), other(tokens, tails)
    shown = segment.mask.repeat_interleave(tokens.shape[-1], dim=1)
    return {
        "next_token": _share(one.frame_tokens.argmax(-1) == two.frame_tokens.argmax(-1), shown),
        "reward": _share(one.rewards.argmax(-1) == two.rewards.argmax(-1), segment.mask),
        "end": _share(one.ends.argmax(-1) == two.ends.argmax(-1), segment.mask),
    }


def _dream(dynamics: Dynamics, tokens: Tensor, actions: Tensor) -> Tensor:
    """The tokens (B, L, K) of greedy dreams that begin at `tokens` (B, K) and follow `actions` (B, L)."""
    greedy = dynamics.with_options(overflow_context=dynamics.overflow_context, temperature=0.0)
    state, dreamt = greedy.start_from_tokens(tokens), []
    for action in actions.unbind(1):
        state, _ = greedy.advance(state, action)
        dreamt.append(state.frame_tokens[:, -1])
    return torch.stack(dreamt, dim=1)


def _share(equal: Tensor, mask: Tensor) -> float:
    """Of `equal` (B, L, …) where `mask` (B, L)."""
    return equal[mask].float().mean().item()
