"""Configs, as mappings and as files, and what is built of those that are taken."""

import json

import pytest
import torch
import yaml
from hypothesis import strategies as st
from mutations import spoiled_bytes, spoiled_json, values

from iris_gym import IRISConfig
from iris_gym.assembly import create_models

TINY = IRISConfig.tiny().to_dict()


def build(config: IRISConfig) -> None:
    """The networks of a config that was taken can be told, and are not too large."""
    with torch.device("meta"):
        models = create_models(config, 4)
    assert sum(value.numel() for module in models.by_name().values() for value in module.parameters()) < 4e9


def test_mapping(fuzz):
    fuzz(spoiled_json(TINY) | values, lambda value: build(IRISConfig.from_dict(value)), share=2)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_file_of_values(fuzz, tmp_path, suffix):
    path = tmp_path / f"config.{suffix}"

    def load(value: object) -> None:
        text = json.dumps(value) if suffix == "json" else yaml.safe_dump(value)
        path.write_text(text, errors="surrogatepass")
        build(IRISConfig.load(path))

    fuzz(spoiled_json(TINY), load)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_file_of_bytes(fuzz, tmp_path, suffix):
    path = tmp_path / f"config.{suffix}"
    IRISConfig.tiny().save(path)

    def load(content: bytes) -> None:
        path.write_bytes(content)
        build(IRISConfig.load(path))

    fuzz(spoiled_bytes(path.read_bytes()) | st.binary(max_size=100), load)


YAML = [
    "- ",
    "? ",
    ": ",
    "&a ",
    "*a",
    "!!int ",
    "!!float ",
    "!!bool ",
    "!!timestamp ",
    "!!binary ",
    "!!set ",
    "!!omap ",
]
YAML += [
    "!!python/object:os.system ",
    "<<: ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'",
    '"',
    "|\n",
    ">\n",
    "%YAML 9.9\n",
    "---\n",
    "\n",
]
YAML += [
    "\t",
    " ",
    "vocab_size",
    "1",
    "0x",
    "1:2",
    "2001-13-45",
    ".inf",
    "~",
    "#",
    "\x00",
    "é",
    "[" * 2000,
    "{a: " * 500,
]


def test_yaml_of_pieces(fuzz, tmp_path):
    path = tmp_path / "config.yaml"

    def load(pieces: list[str]) -> None:
        path.write_text("".join(pieces))
        build(IRISConfig.load(path))

    fuzz(st.lists(st.sampled_from(YAML), max_size=12), load)
