"""An author begins with a plugin that works."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.builders import make_channel


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

ROOT = Path(__file__).parents[3]


@pytest.fixture
def package(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``new-plugin`` wrote."""
    from click.testing import CliRunner

    from kinto_dispatch.cli import cli

    arguments = ["new-plugin", "smoke-signal", "--directory", str(site.directory)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    directory = Path(result.stdout.strip())
    assert directory.name == "kinto-dispatch-smoke-signal"
    monkeypatch.syspath_prepend(directory / "src")
    return directory


def test_its_own_tests_pass(package: Path) -> None:
    """The contract of channel plugins included, on a real server, with nothing to download."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout


def test_it_has_both_hooks(package: Path) -> None:
    """So it can be tried in the worker and in the request."""
    from importlib.metadata import EntryPoint

    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["kinto_dispatch"].items()
    assert name == "smoke-signal"
    plugin = EntryPoint(name, value, "kinto_dispatch").load()
    channel = make_channel(plugin, {"url": "https://example.com/in"})
    assert channel.hooks == ("on_event", "on_event_async")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--config", str(ROOT / "pyproject.toml"), "."],
        ["ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "."],
        ["mypy", "--strict", "src", "tests"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_it_keeps_the_style_of_the_house(package: Path, command: list[str]) -> None:
    """Formatted, without complaints, with strict types."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=package,
        env={**os.environ, "MYPYPATH": str(package / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_nothing_is_overwritten(package: Path, site: Site) -> None:
    """A second time is refused, and says why."""
    from click.testing import CliRunner

    from kinto_dispatch.cli import cli

    readme = package / "README.md"
    readme.write_text("mine")
    arguments = ["new-plugin", "kinto-dispatch-smoke-signal", "--directory", str(site.directory)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert readme.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Smoke", "smoke_signal", "-x", "a--b", "../x", "1st", "ü"])
def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    """With what a name looks like."""
    from click.testing import CliRunner

    from kinto_dispatch.cli import cli

    result = CliRunner().invoke(cli, ["new-plugin", "--directory", str(tmp_path), "--", name])
    assert result.exit_code == 2
    assert "small letters" in result.stderr
    assert list(tmp_path.iterdir()) == []
