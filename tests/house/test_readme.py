"""What the front page and the guides show is what works."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

import pytest

from kinto_dispatch.cli import COMMANDS
from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.testing import make_channel, make_delivery, make_event


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "plugins").glob("*/README.md"))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of this language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def whole(block: str) -> bool:
    """Whether an ini block is a whole configuration rather than an excerpt."""
    return "kinto.event_listeners =" in block


INI_BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "ini"))
    if whole(block)
]


def load(block: str) -> Configuration:
    """The configuration that an ini block makes, read as Kinto reads it."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as PasteDeploy does
    parser.read_string(block if block.startswith("[") else f"[app:main]\n{block}")
    return configure(dict(parser["app:main"]), {})


@pytest.mark.parametrize("block", INI_BLOCKS)
def test_every_configuration_loads(block: str) -> None:
    """An ini that is shown has no mistakes, and all its channels are there."""
    configuration = load(block)
    assert configuration.channels
    assert all(channel.status == "loaded" for channel in configuration.channels)


def test_the_readme_shows_the_tutorial_and_a_list_of_channels() -> None:
    """The front page has the list of channels and both halves of the tutorial."""
    shown = [load(block) for block in blocks(ROOT / "README.md", "ini")]
    names = [[channel.name for channel in one.channels] for one in shown]
    assert names == [["admins", "ops"], ["send_email"], ["redis"]]


def test_the_plugin_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen lines are a channel."""
    (source,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    (tmp_path / "file_channel.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    written = tmp_path / "notes.log"
    channel = make_channel("file_channel:FileChannel", {"path": str(written)})
    channel.call_async(make_event(), make_delivery())
    del sys.modules["file_channel"]
    assert written.read_text() == "record created\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_shown_exists(page: Path) -> None:
    """Nobody types a command that is not there."""
    for command in re.findall(r"kinto-dispatch ([a-z-]+)", " ".join(blocks(page, "console"))):
        assert command in COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links between pages are not broken."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
