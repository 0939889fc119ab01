"""Checked settings become channels.

What is broken in a plugin hurts its own channel alone; what is wrong in the ini stops the start.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kinto_dispatch.errors import BadRoute, BadSettings, PluginError, Problem, RenderError
from kinto_dispatch.groups import Groups
from kinto_dispatch.plugins.channel import Channel
from kinto_dispatch.plugins.failures import log_failure
from kinto_dispatch.plugins.loading import Loading
from kinto_dispatch.render import Renderer
from kinto_dispatch.route import Route
from kinto_dispatch.settings import ChannelSettings, DispatchSettings, Mode, read
from kinto_dispatch.settings.channels import channel_base
from kinto_dispatch.settings.text import SettingsText


@dataclass(frozen=True, slots=True)
class Configuration:
    """Checked settings and the channels made from them, in the order of the ini."""

    settings: DispatchSettings
    channels: tuple[Channel, ...]
    source: Mapping[str, Any] = field(repr=False)
    """What it was made from: whoever calls ``configure`` with it gets the same again."""

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
    groups = Groups(settings)
    channels: list[Channel] = []
    for config in found.channels:
        try:
            channels.append(load_channel(config, text, groups))
        except BadSettings as error:
            problems += error.problems
    if problems:
        raise BadSettings(problems)
    return Configuration(found, tuple(channels), settings)


def load_channel(
    config: ChannelSettings, text: SettingsText, groups: Groups | None = None
) -> Channel:
    """The channel of ``config``; ``text`` is where its settings were read from.

    Raises ``BadSettings``; a plugin that cannot be loaded makes a failed channel, and stops the
    start only where it could have refused a write.
    """
    problems: list[Problem] = []
    route, renderer = _route(config, text, problems), _renderer(config, text, problems)
    loading = Loading(config, text)
    implementation = reason = None
    try:
        implementation = loading.implementation()
    except BadSettings as error:
        problems += error.problems
    except PluginError as error:
        reason = error.reason
        problems += _check_veto(config, text, reason)
        log_failure(f"Channel {config.name!r} has failed", error, loading.redact)
    mode = _mode(config, loading.hooks)
    problems += _check_mode(config, text, mode, loading.hooks)
    if problems or route is None or renderer is None:
        raise BadSettings(problems)
    return Channel(config, mode, route, renderer, implementation, reason, loading.redact, groups)


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
            Renderer(subject, template).check()
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
    if config.subscribable and mode == "sync":
        yield Problem(
            text.name(base + "subscribable"),
            "true, but the channel runs in the request",
            "it only with mode = async",
        )
    if config.rate_limit and mode == "sync":
        yield Problem(
            text.name(base + "rate_limit"),
            f"{config.rate_limit}, but the channel runs in the request and cannot wait",
            "it only with mode = async",
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
