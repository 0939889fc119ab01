"""Events of other plugins of Kinto, by the dotted names of their classes.

They have what Kinto's own have: ``request``, ``payload`` and ``impacted_objects``.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from kinto.core import events as kintos

from kinto_dispatch.errors import Problem, did_you_mean
from kinto_dispatch.event import CHANGED


NEEDED = ("request", "payload", "impacted_objects")
EXPECTED = f"the classes of events with {', '.join(NEEDED)}"


def find_classes(
    names: Iterable[str], setting: str
) -> tuple[Mapping[type, str], Sequence[Problem]]:
    """The classes of these names, and what is wrong with ``setting``, which lists them. Imports
    their modules. Kinto's own event may be among the names: it is listened to anyway."""
    classes: dict[type, str] = {}
    problems: list[Problem] = []
    for name in names:
        if name == CHANGED:
            continue
        found, wrong, advice = _find(name)
        if wrong:
            problems.append(Problem(setting, f"{name}, {wrong}", EXPECTED, advice))
        else:
            classes[found] = name
    return classes, problems


def _find(name: str) -> tuple[Any, str, str]:
    """What has that name, what is wrong with it, and what to do then."""
    module_name, _, class_name = name.rpartition(".")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a plugin does when it is imported
        wrong = f"whose module cannot be imported ({type(error).__name__}: {error})"
        return None, wrong, "Install the plugin of Kinto that has it, or remove the name."
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [each for each, value in vars(module).items() if isinstance(value, type)]
        advice = did_you_mean(class_name, classes) or "Remove it, or correct its spelling."
        return None, f"and {module_name} has no such class", advice
    return found, *_judge(name, found)


def _judge(name: str, found: type) -> tuple[str, str]:
    own = f"{found.__module__}.{found.__qualname__}"
    if own != name:
        return "which is another name of a class", f"Write {own}, as hooks do."
    if found.__module__ == kintos.__name__:
        advice = f"Changes are told as {CHANGED}, once they are committed."
        return "which Kinto itself sends", f"{advice} For reads there is the setting actions."
    missing = [each for each in NEEDED if each not in _attributes(found)]
    if missing:
        return f"which has no {' and no '.join(missing)}", "Remove it."
    return "", ""


def _attributes(found: type) -> Collection[str]:
    """The names that its instances have, as far as that shows: those in the class, and those that
    it is made with. Everything that is needed, where it does not show."""
    names: set[str] = set()
    for base in found.__mro__[:-1]:
        names |= {*vars(base), *getattr(base, "__annotations__", {})}
        if "__init__" in vars(base):
            names |= set(inspect.signature(vars(base)["__init__"]).parameters)
    root = next((one for one in reversed(found.__mro__[:-1]) if "__init__" in vars(one)), None)
    kinds = inspect.signature(vars(root)["__init__"]).parameters.values() if root else ()
    is_open = any(one.kind is one.VAR_KEYWORD for one in kinds)
    return NEEDED if is_open else names
