"""Finds, loads, checks and calls channels. What is broken in a plugin hurts its own channel alone;
what is wrong in the ini stops the start."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pluggy
from pydantic import BaseModel

from kinto_dispatch import contract, discovery, hookspecs
from kinto_dispatch.delivery import Delivery
from kinto_dispatch.errors import BadRoute, BadSettings, PluginError, Problem, RenderError
from kinto_dispatch.event import Event
from kinto_dispatch.options import build, check_names, gather, options_of
from kinto_dispatch.redaction import Redactor
from kinto_dispatch.render import Message, Renderer
from kinto_dispatch.route import Route
from kinto_dispatch.settings import (
    ChannelSettings,
    DispatchSettings,
    Mode,
    channel_base,
    read,
)
from kinto_dispatch.settings_text import SettingsText
from kinto_dispatch.threads import ThreadPool


logger = logging.getLogger(__name__)

TRACEBACK_LINES = 20

Status = Literal["loaded", "failed"]


@dataclass(frozen=True, slots=True)
class Implementation:
    """A plugin that is ready to be called for one channel."""

    plugin: Any = field(repr=False)
    settings: BaseModel | None
    hooks: Mapping[str, contract.Function]
    manager: pluggy.PluginManager = field(repr=False)


class Channel:
    """One configured destination, as hooks get it: ``name``, ``settings`` and ``render``.

    ``settings`` is the instance of the plugin's ``Settings`` (``None`` without one). The rest is
    for the core. A failed channel has a ``reason`` and no implementation; everything but calling
    its hooks works, so that its lane can fill.
    """

    def __init__(
        self,
        config: ChannelSettings,
        mode: Mode,
        route: Route,
        renderer: Renderer,
        implementation: Implementation | None = None,
        reason: str | None = None,
        redact: Redactor | None = None,
    ) -> None:
        self.config = config
        self.name = config.name
        self.mode: Mode = mode
        self.route = route
        self.reason = reason
        self.redact = redact or Redactor(config.options.values())
        self.settings: Any = implementation.settings if implementation else None
        self._renderer = renderer
        self._implementation = implementation

    def __repr__(self) -> str:
        return f"<Channel {self.name!r} {self.config.plugin} {self.mode} {self.status}>"

    @property
    def status(self) -> Status:
        """``failed`` if its plugin could not be loaded; ``reason`` says why."""
        return "loaded" if self._implementation else "failed"

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of the hooks that its plugin implements."""
        return tuple(sorted(self._implementation.hooks)) if self._implementation else ()

    @property
    def is_coroutine(self) -> bool:
        """Whether ``call_async`` returns a coroutine, rather than blocking for the value."""
        hooks = self._implementation.hooks if self._implementation else {}
        return inspect.iscoroutinefunction(hooks.get("on_event_async"))

    def render(self, event: Event) -> Message:
        """The message for people, from the channel's templates. Raises ``RenderError``."""
        return self._renderer.render(event)

    def call_sync(self, event: Event) -> Any:
        """What ``on_event`` returns. Blocks for it, and raises what it raises."""
        return self._hook.on_event(event=event, channel=self)

    def call_async(self, event: Event, delivery: Delivery) -> Any:
        """What ``on_event_async`` returns: a coroutine if ``is_coroutine``, else its value, for
        which it blocks. Raises what it raises."""
        return self._hook.on_event_async(event=event, channel=self, delivery=delivery)

    @property
    def _hook(self) -> Any:
        if self._implementation is None:
            raise PluginError(self.config.plugin, self.reason or "it is not loaded")
        return self._implementation.manager.hook

    async def close(self) -> None:
        """Let the plugin give back what it holds; a plain ``close`` runs in a thread. Takes as long
        as it takes. What it raises is logged."""
        plugin = self._implementation.plugin if self._implementation else None
        close = None if inspect.ismodule(plugin) else getattr(plugin, "close", None)
        if not callable(close):
            return
        try:
            if inspect.iscoroutinefunction(close):
                await close()
            else:
                # Not the loop's own executor: Python would wait for it at its end.
                await asyncio.wrap_future(ThreadPool(self.name, 1).submit(close))
        except (Exception, SystemExit) as error:
            _log_failure(f"Channel {self.name!r} could not be closed", error, self.redact)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Checked settings and the channels made from them, in the order of the ini."""

    settings: DispatchSettings
    channels: tuple[Channel, ...]

    @property
    def sync_channels(self) -> tuple[Channel, ...]:
        """The channels that run in the request, failed ones included."""
        return tuple(channel for channel in self.channels if channel.mode == "sync")

    @property
    def async_channels(self) -> tuple[Channel, ...]:
        """The channels that run in the worker, failed ones included."""
        return tuple(channel for channel in self.channels if channel.mode == "async")


def configure(
    settings: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Configuration:
    """Read the settings and load the plugins that they use. Connects to nothing.

    ``settings`` is as for ``settings.read``; ``environ`` is that of the process if left out.
    Raises ``BadSettings`` with everything that is wrong. A plugin that cannot be loaded is not
    the operator's mistake: its channel has failed, which is logged here once, and the others run.
    """
    environ = os.environ if environ is None else environ
    found, problems = read(settings, environ)
    text = SettingsText(settings, environ)
    channels: list[Channel] = []
    for config in found.channels:
        try:
            channels.append(load(config, text))
        except BadSettings as error:
            problems += error.problems
    if problems:
        raise BadSettings(problems)
    return Configuration(found, tuple(channels))


def load(config: ChannelSettings, text: SettingsText) -> Channel:
    """The channel of ``config``; ``text`` is where its settings were read from.

    Raises ``BadSettings``; a plugin that cannot be loaded makes a failed channel, and stops the
    start only where it could have refused a write.
    """
    problems: list[Problem] = []
    route, renderer = _route(config, text, problems), _renderer(config, text, problems)
    loading = _Loading(config, text)
    implementation = reason = None
    try:
        implementation = loading.implementation()
    except BadSettings as error:
        problems += error.problems
    except PluginError as error:
        reason = error.reason
        problems += _check_veto(config, text, reason)
        _log_failure(f"Channel {config.name!r} has failed", error, loading.redact)
    mode = _mode(config, loading.hooks)
    problems += _check_mode(config, text, mode, loading.hooks)
    if problems or route is None or renderer is None:
        raise BadSettings(problems)
    return Channel(config, mode, route, renderer, implementation, reason, loading.redact)


class _Loading:
    """The way of one channel's plugin from a name in the ini to hooks that can be called."""

    def __init__(self, config: ChannelSettings, text: SettingsText) -> None:
        self._config = config
        self._text = text
        self.hooks: Mapping[str, contract.Function] | None = None
        # Until the plugin says what is secret, everything is.
        self.redact = Redactor(config.options.values())

    def implementation(self) -> Implementation:
        """Raises ``BadSettings`` for the operator, ``PluginError`` for the author."""
        name = self._config.plugin
        with blaming(name, "it cannot be imported", self.redact):
            target = self._target()
            contract.check_target(name, target)
            self.hooks = contract.hooks_of(name, target)
        with blaming(name, "its Settings cannot be read", self._redact):
            settings = self._settings(contract.settings_model(name, target))
        with blaming(name, "it cannot be made", self.redact):
            plugin = contract.construct(name, target, settings)
            return Implementation(plugin, settings, self.hooks, self._register(plugin))

    def _redact(self, text: str) -> str:
        return self.redact(text)  # the one that is there when something is raised

    def _target(self) -> Any:
        try:
            return discovery.load(self._config.plugin)
        except discovery.NotFound as error:
            setting = self._text.name(channel_base(self._config) + "plugin")
            found = f"channel {self._config.name!r} uses {error.found}"
            raise BadSettings([Problem(setting, found, error.expected, error.advice)]) from error

    def _settings(self, model: type[BaseModel] | None) -> BaseModel | None:
        declared = options_of(model) if model else ()
        options = gather(self._config, self._text, declared)
        self.redact = options.redact
        problems = [*check_names(self._config, self._text, declared), *options.problems]
        settings = None
        try:
            settings = build(model, options) if model else None
        except BadSettings as error:
            problems += error.problems
        if problems:
            raise BadSettings(problems)
        return settings

    def _register(self, plugin: Any) -> pluggy.PluginManager:
        """A manager for this channel alone: pluggy takes the same module only once."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, name=self._config.name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(self._config.plugin, " ".join(str(error).split())) from error
        return manager


@contextmanager
def blaming(plugin: str, what: str, redact: Callable[[str], str]) -> Iterator[None]:
    """Whatever comes out of a plugin is a ``PluginError``: not even ``SystemExit`` may end the
    process that asked for it."""
    try:
        yield
    except (BadSettings, PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = redact(f"{what}: {type(error).__name__}: {error}")
        raise PluginError(plugin, reason) from error


def _route(config: ChannelSettings, text: SettingsText, problems: list[Problem]) -> Route | None:
    try:
        return Route(config.route)
    except BadRoute as error:
        base = channel_base(config)
        problems += [
            replace(problem, setting=text.name(base + problem.setting))
            for problem in error.problems
        ]
        return None


def _renderer(
    config: ChannelSettings, text: SettingsText, problems: list[Problem]
) -> Renderer | None:
    fits = True
    # One at a time, so that both are told.
    for subject, template in ((config.subject, None), (None, config.template)):
        try:
            Renderer(subject, template)
        except RenderError as error:
            key = channel_base(config) + error.template
            file = text.get(f"{key}_file")
            name = file.name if file else text.name(key)
            advice = error.reason[:1].upper() + error.reason[1:]
            problems.append(Problem(name, "cannot be rendered", "a template", advice))
            fits = False
    return Renderer(config.subject, config.template) if fits else None


def _mode(config: ChannelSettings, hooks: Collection[str] | None) -> Mode:
    """What the ini says, or what the plugin can do: async if it has both."""
    if config.mode:
        return config.mode
    if hooks is None:
        return "sync" if config.phase == "before_commit" else "async"
    return "async" if "on_event_async" in hooks else "sync"


def _check_mode(
    config: ChannelSettings, text: SettingsText, mode: Mode, hooks: Collection[str] | None
) -> Iterator[Problem]:
    """The mode is one that the plugin has, and one that can do what else the ini asks for."""
    base = channel_base(config)
    hook = "on_event" if mode == "sync" else "on_event_async"
    if hooks is not None and hook not in hooks:
        other = "async" if mode == "sync" else "sync"
        found = f"{mode}, but plugin {config.plugin!r} has no {hook}"
        yield Problem(text.name(base + "mode"), found, other)
    if config.mode is None and mode == "async":
        for name, value in (("phase", config.phase), ("on_failure", config.on_failure)):
            if value not in ("after_commit", "log"):
                yield Problem(
                    text.name(base + name),
                    f"{value}, but the channel runs in the worker",
                    "it only with mode = sync",
                    f"Write {text.style(base + 'mode')} = sync.",
                )


def _check_veto(config: ChannelSettings, text: SettingsText, reason: str) -> Iterator[Problem]:
    """A channel that may refuse writes must not vanish because its plugin is broken."""
    if config.phase == "before_commit":
        yield Problem(
            text.name(channel_base(config) + "plugin"),
            f"{config.plugin!r} cannot be loaded ({reason})",
            "a plugin that works, since with phase = before_commit it may refuse writes",
            "Repair it, or take the channel out of the list.",
        )


def _log_failure(what: str, error: BaseException, redact: Redactor) -> None:
    """One record, with the traceback of what the plugin raised. The text is made here, since a
    handler that formats the exception would not know what is secret in it."""
    raised = error.__cause__ if isinstance(error, PluginError) else error
    lines = traceback.format_exception(raised, limit=-TRACEBACK_LINES) if raised else []
    logger.error("%s", redact("\n".join([f"{what}: {error}", "".join(lines)]).rstrip()))


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """One plugin in the listing of plugins.

    ``status`` is ``available`` for one that was not imported, since nothing uses it. One that is
    named in the ini as ``module:Class`` has no ``distribution`` and no ``version``.
    """

    name: str
    distribution: str | None
    version: str | None
    status: Literal["available", "loaded", "failed"]
    reason: str | None = None
    hooks: tuple[str, ...] = ()


def installed(channels: Sequence[Channel] = (), *, load: bool = False) -> list[InstalledPlugin]:
    """Every plugin that is installed or used by ``channels``, by name.

    Imports nothing: the status of a plugin is that of its channels. With ``load`` the others are
    imported and checked too; nothing is made of them.
    """
    points = discovery.installed_entry_points()
    names = [point.name for point in points]
    found = []
    for point in points:
        users = [channel for channel in channels if channel.config.plugin == point.name]
        owner = (discovery.distribution_name(point), point.dist.version if point.dist else None)
        if names.count(point.name) > 1:
            reason = f"more than one distribution brings {point.name!r}"
            found.append(InstalledPlugin(point.name, *owner, "failed", reason))
        elif users or load:
            found.append(_in_use(point.name, owner, users))
        else:
            found.append(InstalledPlugin(point.name, *owner, "available"))
    for name in dict.fromkeys(channel.config.plugin for channel in channels):
        if name not in names:
            users = [channel for channel in channels if channel.config.plugin == name]
            found.append(_in_use(name, (None, None), users))
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution or ""))


def _in_use(
    name: str, owner: tuple[str | None, str | None], users: Sequence[Channel]
) -> InstalledPlugin:
    if not users:
        reason, hooks = _try(name)
    else:
        failed = [channel for channel in users if channel.status == "failed"]
        reason = f"channel {failed[0].name!r}: {failed[0].reason}" if failed else None
        hooks = tuple(sorted({hook for channel in users for hook in channel.hooks}))
    return InstalledPlugin(name, *owner, "failed" if reason else "loaded", reason, hooks)


def _try(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Why the plugin cannot be loaded, if so, and its hooks."""
    try:
        with blaming(name, "it cannot be imported", Redactor(())):
            target = discovery.load(name)
            contract.check_target(name, target)
            contract.settings_model(name, target)
            return None, tuple(sorted(contract.hooks_of(name, target)))
    except PluginError as error:
        return error.reason, ()
