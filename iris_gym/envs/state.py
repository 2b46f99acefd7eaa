"""The states of Atari games, so that a stopped run goes on in the very game in which it stood.

Other environments have no state that can be asked for. They are brought back by their actions; see
`training.collector`.
"""

import base64
from typing import Any

import gymnasium as gym
from ale_py import Action, ALEState
from ale_py.env import AtariEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, NoopResetEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from iris_gym.envs.atari import EpisodicLife, RepeatAction
from iris_gym.envs.factory import CheckedObservations, ResizedImages
from iris_gym.errors import UsageError
from iris_gym.untrusted.documents import shown

WRAPPERS: dict[type[gym.Env], tuple[str, ...]] = {
    AtariEnv: (),
    CheckedObservations: (),
    EpisodicLife: ("lives", "was_real_done"),
    EpisodicLifeEnv: ("lives", "was_real_done"),
    Monitor: ("rewards", "needs_reset", "total_steps"),
    NoopResetEnv: (),
    OrderEnforcing: ("_has_reset",),
    PassiveEnvChecker: (),
    RepeatAction: (),
    ResizedImages: (),
    TimeLimit: ("_elapsed_steps",),
}
"""What may lie around a game, and the attributes of each that change as it is played."""

WARM_UP = 5
"""Frames to emulate before a state is restored. Without them Qbert goes on otherwise than the game it was taken of."""


def get_state(env: VecEnv) -> list[dict[str, Any]] | None:
    """The state of each row, ready for JSON; None where `has_state` is False."""
    return [_row_state(row) for row in env.envs] if has_state(env) else None  # pyright: ignore[reportAttributeAccessIssue]


def set_state(env: VecEnv, states: list[dict[str, Any]]) -> None:
    """Put the rows of an environment of the same kind where `get_state` found them.

    Raises:
        UsageError: these are no states of such an environment.
    """
    assert type(env) is DummyVecEnv and has_state(env), "an environment without states"
    try:
        for row, state in zip(env.envs, states, strict=True):
            _set_row_state(row, state)
    except (ValueError, KeyError, TypeError, SystemError) as error:
        raise UsageError(f"the states of the games are none of this environment: {shown(str(error))}") from error
    env._reset_seeds()  # they are for a first reset, which these games have had


def has_state(env: VecEnv) -> bool:
    """Whether every row is an Atari game in wrappers that are known, without sticky actions.

    With those, the next action may be the last one that was taken, and that is not part of ALE's state.
    """
    return type(env) is DummyVecEnv and all(_row_has_state(row) for row in env.envs)


def _row_has_state(env: gym.Env) -> bool:
    game = env.unwrapped
    if not isinstance(game, AtariEnv) or any(type(layer) not in WRAPPERS for layer in _layers(env)):
        return False
    return game.ale.getFloat("repeat_action_probability") == 0


def _layers(env: gym.Env) -> list[gym.Env]:
    """The wrappers from the outermost to the environment itself."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _row_state(env: gym.Env) -> dict[str, Any]:
    game = env.unwrapped
    assert isinstance(game, AtariEnv)
    return {
        "emulator": base64.b85encode(game.clone_state(include_rng=True).serialize()).decode(),
        "random": game.np_random.bit_generator.state,
        "layers": [{name: getattr(layer, name) for name in WRAPPERS[type(layer)]} for layer in _layers(env)],
    }


def _check_emulator(given: bytes, own: bytes) -> None:
    """Raise `ValueError` for bytes that are no state of this game; ALE believes them, and may read on for ever.

    Six numbers come first, then the length of the machine's state, which ends so many bytes before the end, then the
    cartridge's checksum. What the machine's chips hold is not looked at: resume only runs that you trust.
    """
    own_rest, rest = (len(state) - int.from_bytes(state[24:28], "little") for state in (own, given))
    if rest != own_rest or given[28:64] != own[28:64] or abs(len(given) - len(own)) > 1_000:
        raise ValueError("an emulator's state that is none of this game")


def _set_row_state(env: gym.Env, state: dict[str, Any]) -> None:
    game = env.unwrapped
    assert isinstance(game, AtariEnv)
    game.reset()
    for _ in range(WARM_UP):
        game.ale.act(Action.NOOP)
    emulator = base64.b85decode(state["emulator"])
    _check_emulator(emulator, game.clone_state(include_rng=True).serialize())
    layers = list(zip(_layers(env), state["layers"], strict=True))
    attributes = [[(name, stored[name]) for name in WRAPPERS[type(layer)]] for layer, stored in layers]
    game.restore_state(ALEState(emulator))
    game.np_random.bit_generator.state = state["random"]
    for (layer, _), values in zip(layers, attributes, strict=True):
        for name, value in values:
            setattr(layer, name, value)
        if isinstance(layer, PassiveEnvChecker):  # which looks at the first reset and steps only; those are over
            layer.checked_reset = layer.checked_step = layer.checked_data_reuse = True
