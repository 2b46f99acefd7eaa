"""README and the pages beside the results: where their links lead, and whether the commands are as they say."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from iris_gym import IRISConfig
from iris_gym.cli import parse

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "examples/study_results/README.md", "examples/bench_results/README.md")


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_each_link_within_the_repository_leads_somewhere(name):
    page = ROOT / name
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("https://")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def synopsis() -> dict[str, str]:
    """By command, what the README has it take."""
    block = re.search(r"```\n(iris-gym train .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    command, found = "", dict[str, str]()
    for line in block[1].splitlines():
        if line.startswith("iris-gym"):
            command = line.split()[1]
        found[command] = found.get(command, "") + line
    return found


def flags(text: str) -> set[str]:
    """Those in a text; `--no-video` is `--video`."""
    return {flag.replace("--no-", "--") for flag in re.findall(r"--[a-z][a-z0-9-]+", text)} - {"--help"}


@pytest.mark.parametrize("command", synopsis())
def test_the_synopsis_names_the_flags_that_there_are(command, capsys, monkeypatch):
    """Each of them; where the config's fields are flags they need not be named."""
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    taken, named = flags(capsys.readouterr().out), flags(synopsis()[command])
    of_fields = {"--" + field.name.replace("_", "-") for field in fields(IRISConfig)}
    every = of_fields if "[every field of IRISConfig as a flag]" in synopsis()[command] else set()
    assert every <= taken and named <= taken
    assert named | every == taken
