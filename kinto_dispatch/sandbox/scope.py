"""Names and what they stand for while a template is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import nodes

from kinto_dispatch.sandbox.values import Fault, Fields, Missing, kind, used


class Scope:
    """Names and what they stand for. A loop opens one; ``if`` does not, as in Jinja."""

    __slots__ = ("names", "outer")

    def __init__(self, names: dict[str, Any], outer: Scope | None = None) -> None:
        self.names = names
        self.outer = outer

    def look_up(self, name: str) -> Any:
        """What the name stands for here or further out, else ``Missing``."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return Missing(name)


def bind(target: nodes.Node, value: Any, scope: Scope) -> None:
    """Give ``value`` the name, or each of its items one of the names. Raises ``Fault``."""
    if isinstance(target, nodes.Name):
        scope.names[target.name] = value
        return
    assert isinstance(target, nodes.Tuple)
    if not isinstance(used(value), list | tuple) or len(value) != len(target.items):
        raise Fault(f"expected {len(target.items)} values, found {kind(value)}", target.lineno)
    for name, item in zip(target.items, value, strict=True):
        bind(name, item, scope)


def loop_fields(items: Sequence[Any], index: int) -> Fields:
    """What ``loop`` is in one round."""
    length = len(items)
    last = index == length - 1
    return Fields(
        "loop",
        {
            "index": index + 1,
            "index0": index,
            "revindex": length - index,
            "revindex0": length - index - 1,
            "first": index == 0,
            "last": last,
            "length": length,
            "previtem": items[index - 1] if index else Missing("loop.previtem"),
            "nextitem": Missing("loop.nextitem") if last else items[index + 1],
        },
    )
