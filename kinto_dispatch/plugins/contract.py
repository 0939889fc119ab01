"""What the author of a plugin has to keep to, checked before anything of it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from kinto_dispatch import hookspecs
from kinto_dispatch.errors import PluginError, did_you_mean
from kinto_dispatch.plugins.options import options_of
from kinto_dispatch.settings.values import RESERVED


HOOKS = ("on_event", "on_event_async")
# What pluggy's markers of the project leave on a function.
IMPLEMENTATION = "kinto_dispatch_impl"
SPECIFICATION = "kinto_dispatch_spec"

Function = Callable[..., Any]


def check_target(plugin: str, target: Any) -> None:
    """Raises ``PluginError`` unless the plugin is a class or a module."""
    if not isinstance(target, (type, ModuleType)):
        kind = type(target).__name__
        raise PluginError(plugin, f"it is a {kind} object; name a class or a module")


def settings_model(plugin: str, target: Any) -> type[BaseModel] | None:
    """What the plugin declares as its ``Settings``. Raises ``PluginError``."""
    model = getattr(target, "Settings", None)
    if model is None:
        return None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginError(plugin, "its Settings is no class that inherits pydantic's BaseModel")
    for option in options_of(model):
        if not option.names:
            reason = f"{option.field!r} of its Settings has no alias that is one word"
            raise PluginError(plugin, reason)
        if taken := sorted({option.field, *option.typed_names} & RESERVED):
            reason = f"its Settings has {taken[0]!r}, a name of kinto-dispatch's own; rename it"
            raise PluginError(plugin, reason)
    return model


def hooks_of(plugin: str, target: Any) -> Mapping[str, Function]:
    """The hooks that a class or module implements. Raises ``PluginError``, which says what to
    write, for a hook that is not marked, not spelt or not coloured as it has to be."""
    hooks: dict[str, Function] = {}
    for name, function, is_bound in _functions(target):
        mark = getattr(function, IMPLEMENTATION, None)
        if mark is None:
            _check_unmarked(plugin, name)
        elif hook := _hook_name(plugin, name, mark):
            _check_colour(plugin, hook, function)
            _check_arguments(plugin, hook, function, is_bound)
            hooks[hook] = function
    if not hooks:
        raise PluginError(
            plugin,
            "it has no hook; write on_event_async(event, channel, delivery) or"
            " on_event(event, channel), with @hookimpl above it",
        )
    return hooks


def _functions(target: Any) -> Iterator[tuple[str, Function, bool]]:
    """Each with its name, and whether its first argument is the object or the class."""
    for name in dir(target):
        found = inspect.getattr_static(target, name, None)
        function = getattr(found, "__func__", found)  # of a static or class method
        if inspect.isroutine(function) and not hasattr(function, SPECIFICATION):
            is_bound = isinstance(target, type) and not isinstance(found, staticmethod)
            yield name, function, is_bound


def _check_unmarked(plugin: str, name: str) -> None:
    if name in HOOKS:
        raise PluginError(plugin, f"{name} is not marked; write @hookimpl above it")
    near = get_close_matches(name, HOOKS, n=1, cutoff=0.85)
    if near and not name.startswith("_"):
        raise PluginError(
            plugin,
            f"{name} is no hook. Did you mean {near[0]!r}? Mark it with @hookimpl;"
            " or write an underscore before it",
        )


def _hook_name(plugin: str, name: str, mark: Mapping[str, Any]) -> str | None:
    """The hook that a marked function implements, ``None`` for one that may be unknown here."""
    hook: str = mark.get("specname") or name
    if hook in HOOKS:
        return hook
    if mark.get("optionalhook"):
        return None
    near = did_you_mean(hook, HOOKS) or f"Hooks: {', '.join(HOOKS)}."
    raise PluginError(plugin, f"{hook} is marked with @hookimpl but is no hook. {near}")


def _check_colour(plugin: str, hook: str, function: Function) -> None:
    if hook == "on_event" and inspect.iscoroutinefunction(function):
        reason = "on_event runs in the request: write def, or async def on_event_async"
        raise PluginError(plugin, reason)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(plugin, f"{hook} yields; a hook returns its outcome")


def _check_arguments(plugin: str, hook: str, function: Function, is_bound: bool) -> None:
    """As pluggy hands them over: by name, those without a default."""
    known = tuple(inspect.signature(getattr(hookspecs, hook)).parameters)
    taken = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.default is one.empty
    ]
    for name in taken[1:] if is_bound else taken:
        if name not in known:
            reason = f"{hook} takes {name!r}; it may take {', '.join(known)}, each by its name"
            raise PluginError(plugin, reason)


def construct(plugin: str, target: Any, settings: BaseModel | None) -> Any:
    """The object whose hooks are called. Raises ``PluginError``, or what ``__init__`` raises."""
    if isinstance(target, ModuleType):
        return target
    if target.__init__ is object.__init__:
        return target()
    arguments = () if settings is None else (settings,)
    try:
        inspect.signature(target).bind(*arguments)
    except TypeError as error:
        wanted = "(self, settings)" if arguments else "(self), since the class has no Settings"
        raise PluginError(plugin, f"its __init__ does not take {wanted}: {error}") from error
    return target(*arguments)
