"""The channels under one alias: a list of them, or a single one right there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinto_dispatch.errors import Problem, did_you_mean
from kinto_dispatch.settings.intake import Intake, shown, unknown
from kinto_dispatch.settings.text import PREFIX, SettingsText, Typed
from kinto_dispatch.settings.values import (
    ALIAS,
    ALIAS_NAMES,
    CHANNEL,
    CHANNEL_NAMES,
    ROUTE,
    ChannelSettings,
    RouteSettings,
)


LISTENERS = "event_listeners"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Alias:
    """One listener in Kinto's list."""

    name: str

    @property
    def base(self) -> str:
        """What stands before its settings, without ``kinto.``."""
        return f"{LISTENERS}.{self.name}."


def channel_base(channel: ChannelSettings) -> str:
    """What stands before the channel's settings, without ``kinto.``."""
    return channel.prefix.removeprefix(PREFIX)


def is_single(channel: ChannelSettings) -> bool:
    """Whether the channel's settings stand directly under its alias."""
    return channel_base(channel) == Alias(channel.alias).base


def bases(text: SettingsText) -> tuple[str, ...]:
    """What stands before the settings of each listener, and of each channel that one lists."""
    listeners = text.get(LISTENERS)
    found: list[str] = []
    for name in listeners.text.split() if listeners else ():
        base = Alias(name).base
        listed = text.get(f"{base}channels")
        channels = listed.text.split() if listed else ()
        found += [base, *(f"{base}channels.{channel}." for channel in channels)]
    return tuple(found)


def channels_of(intake: Intake, alias: Alias) -> Iterator[ChannelSettings]:
    """The channels under the alias. One without a plugin or with a bad name is left out."""
    route = {f"alias_{name}": value for name, value in intake.values(alias.base, ALIAS).items()}
    listed = intake.text.get(alias.base + "channels")
    single = intake.text.get(alias.base + "plugin")
    if single and not listed:
        if _is_name(intake, alias.base + "plugin", alias.name):
            yield from _channel(intake, alias, alias.name, alias.base, route)
        return
    names = _listed(intake, alias, listed, single)
    _check_listed(intake, alias, names)
    _check_names(intake, alias, names)
    for name in names:
        if _is_name(intake, alias.base + "channels", name):
            yield from _channel(intake, alias, name, f"{alias.base}channels.{name}.", route)


def _listed(
    intake: Intake, alias: Alias, listed: Typed | None, single: Typed | None
) -> Sequence[str]:
    names = listed.text.split() if listed else []
    here = intake.text.style(alias.base)
    if listed and single:
        intake.complain(
            alias.base + "plugin",
            f"stands beside {listed.name}",
            "a list of channels, or the plugin of a single one",
            f"Write it as {here}channels.{names[0]}.plugin.",
        )
    if not listed:
        intake.complain(
            alias.base + "channels",
            "no channels",
            "names of channels, or for a single one its plugin beside it",
            f"As in {here}plugin = email.",
        )
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        intake.complain(alias.base + "channels", f"{name!r} twice", "every channel once")
    return list(dict.fromkeys(names))


def _channel(
    intake: Intake, alias: Alias, name: str, base: str, alias_route: Mapping[str, Any]
) -> Iterator[ChannelSettings]:
    # Right under the alias, actions and resources are Kinto's, which applies them itself.
    others = ALIAS_NAMES if base == alias.base else ()
    values = intake.values(base, CHANNEL)
    table = {key: parse for key, parse in ROUTE.items() if key not in others}
    chosen = {**_implied_events(intake, alias, base, values), **intake.values(base, table)}
    route = RouteSettings(**chosen, **alias_route)
    _check_read(intake, base, route)
    _check_sync(intake, base, values)
    _check_digests(intake, base, values)
    text = intake.text
    plugin = text.get(base + "plugin")
    if plugin is None:
        intake.complain(
            base + "plugin",
            f"channel {name!r} has none",
            "the name of an installed plugin, or module:Class",
            "The command kinto-dispatch plugins lists those installed.",
        )
        return
    options = (key for key in text.under(base) if key not in {*CHANNEL_NAMES, *others})
    yield ChannelSettings(
        name=name,
        alias=alias.name,
        prefix=text.style(base),
        plugin=plugin.text.strip(),
        route=route,
        options={key: typed.text for key in options if (typed := text.find(base + key))},
        **values,
    )


def _implied_events(
    intake: Intake, alias: Alias, base: str, values: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a channel hears of that names no events: whatever hooks ask for where it is open for
    them, and what is written beside its plugin where it is the only one there."""
    if values.get("subscribable"):
        return {"events": ("*",)}
    listed = intake.text.get(f"{base}events") if base == alias.base else None
    return {"events": tuple(listed.text.split())} if listed else {}


def _is_name(intake: Intake, key: str, name: str) -> bool:
    fits = NAME.fullmatch(name) is not None
    if not fits:
        intake.complain(key, f"channel {shown(name)}", "1 to 64 letters, digits, _ and -")
    return fits


def _check_read(intake: Intake, base: str, route: RouteSettings) -> None:
    """Kinto passes reads on only where the alias asks for them."""
    if "read" in route.actions and "read" not in route.alias_actions:
        intake.complain(
            base + "actions",
            "read, which Kinto does not pass on to this listener",
            "some of create update delete",
            "Or write read among the actions of the listener, beside its use.",
        )


def _check_sync(intake: Intake, base: str, values: Mapping[str, Any]) -> None:
    """What only a channel in the request can do. Without ``mode`` its plugin decides."""
    for name in ("phase", "on_failure"):
        if name in values and values.get("mode") == "async":
            found = f"{values[name]} with mode = async"
            intake.complain(base + name, found, "it only with mode = sync")
    if values.get("on_failure") == "abort" and values.get("phase") != "before_commit":
        intake.complain(
            base + "on_failure",
            "abort after the commit, when nothing can be undone",
            "phase = before_commit beside it, or on_failure = log",
        )


def _check_digests(intake: Intake, base: str, values: Mapping[str, Any]) -> None:
    """What is collected is collected by the queue, and in one way."""
    collapses = values.get("collapse") == "latest"
    if values.get("mode") == "sync":
        for name in ("digest_seconds", "digest_by", "collapse"):
            if name in values:
                found = f"{values[name]} with mode = sync"
                intake.complain(base + name, found, "it only with mode = async")
    if "digest_by" in values and "digest_seconds" not in values:
        found = f"{values['digest_by']} without digest_seconds"
        intake.complain(base + "digest_by", found, "digest_seconds beside it")
    if collapses and values.get("digest_by", "record") != "record":
        intake.complain(
            base + "digest_by",
            f"{values['digest_by']} with collapse = latest",
            "record, or nothing: what collapses are the versions of one record",
        )
    by_record = collapses or values.get("digest_by") == "record"
    if values.get("split_changes") and "digest_seconds" in values and not by_record:
        intake.complain(
            base + "split_changes",
            "true with digest_seconds, which joins what it splits",
            "one of the two, or digest_by = record",
        )


def _check_listed(intake: Intake, alias: Alias, listed: Sequence[str]) -> None:
    """A channel that is configured but not listed would never run, and nobody would know."""
    rests = (rest.split(".") for rest in intake.text.under(alias.base + "channels."))
    for name in dict.fromkeys(rest[0] for rest in rests):
        if name not in listed:
            near = did_you_mean(name, listed)
            intake.complain(
                alias.base + "channels",
                f"nothing of {name!r}, which has settings",
                "the name of every channel that is configured",
                near or f"Add {name} to it, or comment out its settings.",
            )


def _check_names(intake: Intake, alias: Alias, listed: Sequence[str]) -> None:
    """What stands right under an alias with a list is a setting of the dispatcher."""
    text = intake.text
    typed = [
        (text.name(alias.base + rest), rest)
        for rest in text.under(alias.base)
        if not rest.startswith("channels.")
    ]
    known = (*ALIAS_NAMES, "plugin")
    typed += text.unknown_variables(alias.base, known, bases(text))
    for name, rest in typed:
        if rest in CHANNEL_NAMES and rest not in known:
            channel = listed[0] if listed else "NAME"
            advice = f"Write it as {text.style(alias.base)}channels.{channel}.{rest}."
            intake.problems.append(Problem(name, "a setting of channels", "it there", advice))
        elif rest not in known:
            intake.problems.append(unknown(name, rest, ALIAS_NAMES))
