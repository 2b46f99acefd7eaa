"""A tiny world model to dream in, whose ends and rewards a test chooses by its actions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from iris_gym.dream import DreamVectorEnv
from iris_gym.functional import unit_frames
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.models.tokenizer import Tokenizer
from iris_gym.models.world_model import WorldModel
from iris_gym.nn.convnet import strided_decoder, strided_encoder
from iris_gym.nn.quantizer import EMAQuantizer

VOCAB, ACTIONS, K, DIM, TIMESTEPS = 9, 4, 4, 6, 4


class Scripted(Dynamics):
    """Real frames; but action 3 ends the dream and earns 1, 0 costs 1, the others nothing."""

    def advance(self, state, action, **keywords):
        state, outcome = super().advance(state, action, **keywords)
        reward = (action == 3).float() - (action == 0).float()
        return state, replace(outcome, reward=reward, end=action == 3)


def build_dynamics(
    kind: type[Dynamics] = Scripted,
    *,
    outcomes: bool = False,
    vocab: int = VOCAB,
    timesteps: int = TIMESTEPS,
    layers: int = 2,
    heads: int = 2,
) -> Dynamics:
    """Tiny networks whose codebook comes from frames, and whose weights are large enough that dreams differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = Tokenizer(strided_encoder(8, 5, DIM), strided_decoder(8, 5, DIM), EMAQuantizer(vocab, DIM))
        world_model = WorldModel(
            vocab_size=vocab,
            num_actions=ACTIONS,
            tokens_per_frame=K,
            timesteps=timesteps,
            embed_dim=16,
            layers=layers,
            heads=heads,
            outcomes_in_sequence=outcomes,
        )
        for name, parameter in world_model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=2.0 if "embedding" in name else 1.0)
        tokenizer.train().loss(unit_frames(frames(32).permute(0, 3, 1, 2)))
    return kind(tokenizer.eval(), world_model.eval())


def frames(count: int, seed: int = 0) -> torch.Tensor:
    """Blocks of colour (count, 64, 64, 3) uint8, so that their tokens differ."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(256, (count, 2, 2, 3), dtype=torch.uint8, generator=generator)
    return blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)


@pytest.fixture(scope="session")
def dynamics() -> Dynamics:
    return build_dynamics()


@pytest.fixture(scope="session")
def dynamics_of():
    """A function from other sizes to the scripted dynamics of networks that have them."""
    return build_dynamics


@pytest.fixture(scope="session")
def unscripted() -> Dynamics:
    return build_dynamics(Dynamics)


@pytest.fixture(scope="session")
def with_outcomes() -> Dynamics:
    """Its world model reads rewards and ends, too."""
    return build_dynamics(outcomes=True)


@pytest.fixture(scope="session")
def some_frames():
    return frames


@pytest.fixture
def make_dream(dynamics):
    """make_dream(num_envs, **keywords of DreamVectorEnv)"""

    def make(num_envs: int = 3, dynamics: Dynamics = dynamics, **keywords) -> DreamVectorEnv:
        return DreamVectorEnv(dynamics, num_envs, **({"start_frames": frames(32)} | keywords))

    return make
