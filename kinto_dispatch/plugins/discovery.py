"""Finds the plugins that are installed, and imports one when it is asked for.

Entry points in the group ``kinto_dispatch`` are read without importing anything; a plugin that is
broken can hurt only who uses it.
"""

from __future__ import annotations

import importlib
import importlib.util
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from kinto_dispatch.errors import DispatchError, did_you_mean


GROUP = "kinto_dispatch"
OWN = ("apprise", "email", "redis", "slack", "webhook")


class NotFound(DispatchError):
    """Raised when the ini names a plugin that is not there, or is there twice."""

    def __init__(self, found: str, expected: str, advice: str = "") -> None:
        self.found = found
        self.expected = expected
        self.advice = advice
        super().__init__(f"{found}; expected {expected}. {advice}")


def installed_entry_points() -> tuple[EntryPoint, ...]:
    """All entry points of the group by name, then distribution. Imports nothing."""
    found = {(point.name, distribution_name(point)): point for point in entry_points(group=GROUP)}
    return tuple(found[key] for key in sorted(found))


def distribution_name(point: EntryPoint) -> str:
    """The name of the distribution that brings the entry point."""
    return point.dist.name if point.dist else "?"


def load(plugin: str) -> Any:
    """The class or module that a plugin of this name is: that of the entry point with the name,
    of ``module:Class``, or of a module on the path.

    Raises ``NotFound`` where the ini names what is not there, and whatever a plugin raises while
    it is imported.
    """
    if ":" in plugin:
        return _class_on_path(plugin)
    points = [point for point in installed_entry_points() if point.name == plugin]
    if len(points) > 1:
        owners = " and ".join(distribution_name(point) for point in points)
        raise NotFound(
            f"{plugin!r}, which comes from {owners}",
            "one distribution for the name",
            "Uninstall the others, or name module:Class.",
        )
    return points[0].load() if points else _module_on_path(plugin)


def _class_on_path(plugin: str) -> Any:
    module_name, _, attribute = (part.strip() for part in plugin.partition(":"))
    if not _is_dotted(module_name) or not _is_dotted(attribute):
        raise NotFound(repr(plugin), "module:Class, as in kinto_dispatch_email:EmailChannel")
    found = _import(module_name)
    if found is None:
        raise NotFound(
            f"module {module_name!r}, which is not there",
            "module:Class of a file on the path",
            "Add the directory of the file to PYTHONPATH.",
        )
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = did_you_mean(name, [known for known in dir(found) if known[:1] != "_"])
            raise NotFound(
                f"{name!r}, which {module_name!r} does not have", "a class in that module", near
            )
        found = getattr(found, name)
    return found


def _module_on_path(plugin: str) -> Any:
    """Many a name of a plugin is also that of a library, which must not be imported by mistake:
    only what speaks of kinto_dispatch in its source is taken for a plugin."""
    if _is_dotted(plugin) and b"kinto_dispatch" in _source(plugin):
        return importlib.import_module(plugin)
    names = list(dict.fromkeys(point.name for point in installed_entry_points()))
    raise NotFound(
        f"{plugin!r}, which is not installed",
        f"one of those installed ({', '.join(names) or 'none'}), or module:Class",
        did_you_mean(plugin, names) or _how_to_install(plugin),
    )


def _source(name: str) -> bytes:
    try:
        spec = importlib.util.find_spec(name)
        return Path(spec.origin).read_bytes() if spec and spec.origin else b""
    except (ImportError, ValueError, OSError):
        return b""


def _how_to_install(plugin: str) -> str:
    """Only for our own: nobody should be told to install what happens to have such a name."""
    near = get_close_matches(plugin, OWN, n=1, cutoff=0.7)
    return f"Install it: pip install kinto-dispatch-{near[0]}" if near else ""


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(name: str) -> Any:
    """The module, or ``None`` if there is none; what it imports itself is its own affair."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None
