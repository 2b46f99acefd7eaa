"""Finding and making registered environments, with errors that say what would do."""

import difflib
import sys
from importlib import import_module
from typing import Any

import ale_py
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from iris_gym.errors import UsageError, one_line
from iris_gym.untrusted.documents import shown

# ALE prints a banner to stderr with its first game; its Gymnasium environment asks for errors only, but too late.
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
gym.register_envs(ale_py)


def find_spec(env_id: str) -> EnvSpec:
    """The registered spec of `env_id`, which may be written `module:Id-v0` to import a module first.

    MiniGrid and MinAtar ids import and register their packages.

    Raises:
        UsageError: the module or package cannot be imported, or nothing is registered under the id; the message
            names close matches.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, env_id, f"install the package that has the module {module!r}, or correct the id")
    if name.startswith("MiniGrid-"):
        _import("minigrid", env_id, 'run: pip install "iris-gym[minigrid]"')
    if name.startswith("MinAtar/"):
        _register_minatar(env_id)
    if name not in gym.registry:
        raise UsageError(f"env: {shown(env_id)} is not a registered environment{_close_matches(name)}")
    return gym.registry[name]


def is_known(env_id: str) -> bool:
    """Whether `find_spec` runs no code but that of packages which this one names, or which were imported already."""
    module = env_id.rpartition(":")[0]
    return not module or module in sys.modules


def make(spec: EnvSpec, *, render_mode: str | None = None, **options: Any) -> gym.Env:
    """`gymnasium.make`, with whatever goes wrong (an unusable option, a missing dependency) in one clear line.

    Raises:
        UsageError: Gymnasium cannot make the environment.
    """
    if render_mode is not None:  # an environment that never renders need not know the argument
        options["render_mode"] = render_mode
    try:
        return gym.make(spec, **options)
    except (OSError, UsageError):
        raise
    except Exception as error:  # of any kind, for an environment's own code runs
        what = "" if isinstance(error, gym.error.Error | ImportError) else f"{type(error).__name__}: "
        raise UsageError(f"env: {spec.id!r} cannot be made: {what}{one_line(error)}") from error


def _import(module: str, env_id: str, advice: str) -> Any:
    try:
        return import_module(module)
    except Exception as error:  # of any kind, for a module's own code runs
        raise UsageError(f"env: {shown(env_id)} cannot be used, for {one_line(error)[:300]}; {advice[:300]}") from error


def _register_minatar(env_id: str) -> None:
    """MinAtar registers nothing by itself: it relies on a plugin mechanism that Gymnasium no longer has."""
    module = _import("minatar.gym", env_id, 'run: pip install "iris-gym[minatar]"')
    if "MinAtar/Breakout-v1" not in gym.registry:  # others may have registered games of their own by such a name
        module.register_envs()


def _close_matches(name: str) -> str:
    known = {registered.lower(): registered for registered in gym.registry}
    matches = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=3)]
    return (
        f"; did you mean {' or '.join(matches)}?" if matches else "; gymnasium.pprint_registry() lists those that are"
    )
