import configparser
import json
from importlib import import_module, metadata, resources
from pathlib import Path
from pkgutil import walk_packages

import pytest

import iris_gym

ROOT = Path(__file__).parents[1]
MODULES = [module.name for module in walk_packages(iris_gym.__path__, "iris_gym.")]


def layers() -> list[str]:
    """The rooms that the floors in setup.cfg name."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / "setup.cfg")
    lines = contract["importlinter:contract:floors"]["layers"].split("\n")
    return [room.strip(" ()") for line in lines if line.strip() for room in line.replace(":", "|").split("|")]


def test_public_names_are_there():
    assert set(iris_gym.__all__) >= {"IRISAgent", "IRISConfig", "UsageError", "build_models", "make_env"}
    for name in iris_gym.__all__:
        assert callable(getattr(iris_gym, name)) or name == "dream"  # a package, whose classes are public too
        assert name in dir(iris_gym)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'PPO'"):
        _ = iris_gym.PPO


def test_the_version_is_that_of_the_distribution():
    assert iris_gym.__version__ == metadata.version("iris-gym")


def test_the_commands_entry_point_is_there():
    [command] = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "iris-gym"]
    assert callable(command.load())


@pytest.mark.parametrize("name", MODULES)
def test_every_module_stands_on_a_floor(name):
    assert any(name == room or name.startswith(room + ".") or room.startswith(name + ".") for room in layers())


@pytest.mark.parametrize("room", layers())
def test_every_floor_has_its_module(room):
    import_module(room)


def test_every_module_says_what_it_is_for():
    assert not [name for name in MODULES if not import_module(name).__doc__]


def test_data_files_are_packaged():
    package = resources.files("iris_gym")
    assert package.joinpath("py.typed").is_file()
    table = json.loads(package.joinpath("evaluation", "atari_100k_scores.json").read_text())
    assert len(table["human"]) == len(table["random"]) == 26
    text = (ROOT / "pyproject.toml").read_text()
    assert 'iris_gym = ["py.typed", "evaluation/*.css", "evaluation/*.json"]' in text
