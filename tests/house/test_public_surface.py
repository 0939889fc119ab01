"""Every public thing is tied to its documentation."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import kinto_dispatch
from kinto_dispatch import hookspecs


ROOT = Path(__file__).parents[2]


def test_every_exported_name_can_be_imported() -> None:
    """The table of contents names nothing that is not there."""
    for name in kinto_dispatch.__all__:
        assert getattr(kinto_dispatch, name) is not None


def test_hooks_are_documented_with_their_arguments() -> None:
    """The guide for authors shows each hook with exactly its arguments."""
    guide = (ROOT / "docs/guides/write-a-plugin.md").read_text()
    for hook in (hookspecs.on_event, hookspecs.on_event_async):
        arguments = ", ".join(inspect.signature(hook).parameters)
        assert f"{hook.__name__}({arguments})" in guide


def test_every_plugin_is_in_the_readme() -> None:
    """Somebody who reads the front page learns of every channel."""
    readme = (ROOT / "README.md").read_text()
    for plugin in (ROOT / "plugins").iterdir():
        assert f"[{plugin.name}](plugins/{plugin.name})" in readme


def test_versions_move_together() -> None:
    """A plugin is released with the core, and asks for the core of its own version."""
    core = _project(ROOT)["version"]
    for plugin in (ROOT / "plugins").iterdir():
        project = _project(plugin)
        assert project["version"] == core
        assert f"kinto-dispatch~={core}" in project["dependencies"]


def _project(directory: Path) -> dict[str, str]:
    project: dict[str, str] = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
    return project
