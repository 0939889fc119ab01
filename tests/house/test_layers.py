"""Imports point one way: a layer imports only from layers below it, third parties are fenced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[2] / "kinto_dispatch"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("forks",),
    (
        "errors",
        "encoding",
        "difference",
        "threads",
        "watchdog",
        "lines",
        "vitals",
        "deadline",
        "mailboxes",
    ),
    ("event", "outcome", "delivery", "memory", "retry", "budget", "limit", "breaker"),
    ("egress",),
    ("hookspecs", "settings", "route", "render", "groups", "digest"),
    ("subscriptions",),
    ("queue", "outbox", "plugins"),
    ("patience", "attempt", "capture"),
    ("quarantine", "relay", "router", "housekeeping"),
    ("lane", "listener"),
    ("worker",),
    ("testing",),
    ("demo",),
    ("cli",),
)
"""From the ground up. A package counts as one module; what it is made of may import each other."""

FENCES: dict[str, tuple[str, ...]] = {
    "kinto": ("groups", "capture", "listener", "outbox", "settings", "cli", "testing"),
    "pyramid": ("groups", "capture", "listener", "settings", "cli", "testing"),
    "transaction": ("capture", "listener", "outbox"),
    "pluggy": ("hookspecs", "plugins"),
    "redis": ("queue", "demo"),
    "sqlalchemy": ("outbox", "testing"),
    "psycopg2": ("outbox", "testing"),
    "jinja2": ("render", "cli"),
    "jmespath": ("route",),
    "aiohttp": ("egress",),
}
"""Who may import a third party. What is not named here may be imported anywhere."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def home(path: Path) -> str:
    """The noun that a module belongs to."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return PARTS.get(name, name)


PARTS: dict[str, str] = {
    "expression": "route",
    "globs": "route",
    "plaintext": "render",
    "sandbox": "render",
    "parsers": "settings",
    "settings_text": "settings",
}
"""Modules that are part of a noun of the table although they have a file of their own."""


def imports(path: Path) -> Iterator[str]:
    """Every module that this one imports when it runs; what only types need is left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def level(noun: str) -> int:
    """The layer of a noun, counted from the ground."""
    return next(number for number, layer in enumerate(LAYERS) if noun in layer)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports only from layers below its own, and never from its neighbours."""
    noun = home(path)
    if noun in ("__init__", "__main__", "web"):
        return
    for name in imports(path):
        if not name.startswith("kinto_dispatch."):
            continue
        other = PARTS.get(name.split(".")[1], name.split(".")[1])
        if other != noun:
            assert level(other) < level(noun), f"{noun} imports {other}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_stay_behind_their_fences(path: Path) -> None:
    """A library is imported only by the modules that are there to know it."""
    noun = home(path)
    for name in imports(path):
        library = name.split(".")[0]
        if library in FENCES:
            assert noun in FENCES[library], f"{noun} imports {library}"


def test_every_module_has_its_place() -> None:
    """Whoever adds a module says where in the ladder it stands."""
    nouns = {home(path) for path in MODULES} - {"__init__", "__main__", "web"}
    assert nouns == {noun for layer in LAYERS for noun in layer}
