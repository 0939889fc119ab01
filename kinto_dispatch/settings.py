"""The ini and the environment, read as text and checked, become frozen settings.

Every value is text until a parser has taken it: the environment first, then the ini.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr

from kinto_dispatch import parsers
from kinto_dispatch.errors import Problem, did_you_mean
from kinto_dispatch.parsers import Parser, Unfit
from kinto_dispatch.settings_text import PREFIX, SettingsText, Typed
from kinto_dispatch.settings_values import (
    ALIAS,
    ALIAS_NAMES,
    CHANNEL,
    CHANNEL_NAMES,
    DISPATCHER,
    FROM_FILE,
    ROUTE,
    SECRET,
    ChannelSettings,
    DispatchSettings,
    Mode,
    Phase,
    RouteSettings,
)


__all__ = [
    "Addresses",
    "ChannelSettings",
    "DispatchSettings",
    "Mode",
    "Phase",
    "RouteSettings",
    "read",
]

Addresses = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: parsers.addresses(value) if isinstance(value, str) else value),
]
"""For the ``Settings`` of a plugin: texts with commas or lines between them."""

LISTENERS = "event_listeners"
OURS = ("kinto_dispatch", "kinto_dispatch.listener")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def read(
    settings: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[DispatchSettings, list[Problem]]:
    """The settings of all aliases that use kinto-dispatch, and everything that is wrong in them.

    ``settings`` is Kinto's ``config.get_settings()`` or what ``pyramid.paster.get_appsettings``
    returns, with the same result. What is wrong is left at its default, and a channel without a
    plugin is left out. Options of plugins stay text: only their plugins know them. Files named by
    settings that end in ``_file`` are read now. Never raises; no problem shows a secret.
    """
    reader = _Reader(SettingsText(settings, environ))
    return reader.read(), reader.problems


def channel_base(channel: ChannelSettings) -> str:
    """What stands before the channel's settings, without ``kinto.``."""
    return channel.prefix.removeprefix(PREFIX)


def is_single(channel: ChannelSettings) -> bool:
    """Whether the channel's settings stand directly under its alias."""
    return channel_base(channel) == f"{LISTENERS}.{channel.alias}."


def bases(text: SettingsText) -> tuple[str, ...]:
    """What stands before the settings of each listener and each listed channel."""
    listeners = text.get(LISTENERS)
    found = []
    for name in listeners.text.split() if listeners else ():
        listed = text.get(f"{LISTENERS}.{name}.channels")
        found.append(f"{LISTENERS}.{name}.")
        found += [f"{found[-1]}channels.{one}." for one in (listed.text.split() if listed else ())]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Alias:
    """One listener in Kinto's list. ``base`` stands before its settings."""

    name: str
    base: str


class _Reader:
    """Reads once, and collects what is wrong on the way."""

    def __init__(self, text: SettingsText) -> None:
        self.text = text
        self.problems: list[Problem] = []

    def read(self) -> DispatchSettings:
        aliases = list(self._aliases())
        if not aliases:
            self._complain(
                LISTENERS,
                "no listener uses kinto_dispatch",
                "the name of a listener that does",
                f"As in kinto.{LISTENERS} = dispatch and"
                f" kinto.{LISTENERS}.dispatch.use = kinto_dispatch.",
            )
        channels = self._unique(
            channel for alias in aliases for channel in self._channels_of(alias)
        )
        return DispatchSettings(
            channels=tuple(channels), **self._dispatcher(aliases), **self._storage()
        )

    def _complain(self, key: str, found: str, expected: str, advice: str = "") -> None:
        self.problems.append(Problem(self.text.name(key), found, expected, advice))

    # --- one value -------------------------------------------------------------------------

    def _values(self, base: str, table: Mapping[str, Parser]) -> dict[str, Any]:
        """What is typed and fits; the rest keeps its default."""
        found = {name: self._value(base, name, parse) for name, parse in table.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, base: str, name: str, parse: Parser) -> Any:
        get = self.text.get_or_file if name in FROM_FILE else self.text.get
        try:
            typed = get(base + name)
        except Unfit as unfit:
            self._complain(f"{base}{name}_file", unfit.found or "", unfit.expected, unfit.advice)
            return None
        return self._parsed(typed, parse, secret=name in SECRET) if typed else None

    def _parsed(self, typed: Typed, parse: Parser, secret: bool = False) -> Any:
        try:
            return parse(typed.text)
        except Unfit as unfit:
            found = unfit.found or ("a secret value" if secret else shown(typed.text))
            self.problems.append(Problem(typed.name, found, unfit.expected, unfit.advice))
            return None

    # --- aliases ---------------------------------------------------------------------------

    def _aliases(self) -> Iterator[_Alias]:
        """The listeners in Kinto's list that are ours, found the way Kinto finds them."""
        typed = self.text.get(LISTENERS)
        for name in dict.fromkeys(typed.text.split() if typed else ()):
            if name in OURS:
                short = name.rpartition(".")[2]
                yield _Alias(short, f"{LISTENERS}.{short}.")
                continue
            use = self.text.get(f"{LISTENERS}.{name}.use")
            if use and use.text.strip() in OURS:
                yield _Alias(name, f"{LISTENERS}.{name}.")

    def _dispatcher(self, aliases: Sequence[_Alias]) -> dict[str, Any]:
        """The settings that hold for all channels: given at any alias, the same at every one."""
        values: dict[str, Any] = {}
        given_at: dict[str, str] = {}
        for alias in aliases:
            for name, value in self._values(alias.base, DISPATCHER).items():
                if values.setdefault(name, value) != value:
                    self._complain(
                        alias.base + name,
                        f"not as at {self.text.name(given_at[name])}",
                        "one value for all listeners that use kinto_dispatch",
                        "Write it at one of them.",
                    )
                given_at.setdefault(name, alias.base + name)
        if "queue_dir" not in values:
            needed = "queue_url" not in values
            values["queue_dir"] = self._default_queue_dir(aliases if needed else ())
        return values

    def _default_queue_dir(self, needed_by: Sequence[_Alias]) -> Path:
        """A directory of the user's, the same for every process of one Kinto, whatever it was
        started from, and not that of another Kinto of the same user.

        The application never learns the path of its ini, so what tells Kintos apart is
        ``userid_hmac_secret``, which ``kinto init`` makes up and which never changes.
        """
        secret = self.text.get("userid_hmac_secret")
        name = hashlib.blake2b((secret.text if secret else "").encode(), digest_size=6)
        try:
            state = parsers.state_directory(self.text.environ)
        except Unfit as unfit:
            state = Path(tempfile.gettempdir())
            for alias in needed_by[:1]:
                key = alias.base + "queue_dir"
                self._complain(key, unfit.found or "", unfit.expected, unfit.advice)
        return state / "kinto-dispatch" / name.hexdigest()

    def _storage(self) -> dict[str, Any]:
        """What Kinto itself is told about its storage, judged as Kinto judges it."""
        backend, url = self.text.get("storage_backend"), self.text.get("storage_url")
        transaction = self.text.find("transaction_per_request")
        return {
            "storage_backend": backend.text.strip() if backend else "",
            "storage_url": SecretStr(url.text.strip()) if url else None,
            "transaction_per_request": transaction is None or _is_true_to_kinto(transaction.text),
        }

    # --- channels --------------------------------------------------------------------------

    def _unique(self, channels: Iterable[ChannelSettings]) -> Iterator[ChannelSettings]:
        seen: dict[str, ChannelSettings] = {}
        for channel in channels:
            first = seen.setdefault(channel.name, channel)
            if first is channel:
                yield channel
                continue
            key = f"{LISTENERS}.{channel.alias}.channels"
            key = key if self.text.get(key) else f"{LISTENERS}.{channel.alias}.plugin"
            self._complain(
                key,
                f"channel {channel.name!r}, which is there already ({first.prefix}plugin)",
                "a name of its own for every channel",
                "Rename one of them.",
            )

    def _channels_of(self, alias: _Alias) -> Iterator[ChannelSettings]:
        listed = self.text.get(alias.base + "channels")
        single = self.text.get(alias.base + "plugin")
        if listed and single:
            self._complain(
                alias.base + "plugin",
                f"stands beside {listed.name}",
                "a list of channels, or the plugin of a single one",
                f"Write it as {self.text.style(alias.base)}channels.NAME.plugin.",
            )
        elif single:
            yield from self._single_channel(alias)
        if listed or not single:
            yield from self._listed_channels(alias, listed)

    def _single_channel(self, alias: _Alias) -> Iterator[ChannelSettings]:
        """The channel whose settings stand directly under the alias, named after it."""
        if self._is_name(alias.base + "plugin", alias.name):
            route = {
                f"alias_{name}": value for name, value in self._values(alias.base, ALIAS).items()
            }
            yield from self._channel(alias, alias.name, alias.base, ALIAS_NAMES, route)

    def _listed_channels(self, alias: _Alias, listed: Typed | None) -> Iterator[ChannelSettings]:
        names = listed.text.split() if listed else []
        if not listed:
            self._complain(
                alias.base + "channels",
                "no channels",
                "names of channels, or for a single channel its plugin right here",
                f"As in {self.text.style(alias.base)}plugin = slack.",
            )
        self._check_list(alias, names)
        self._check_alias_names(alias, names)
        route = {f"alias_{name}": value for name, value in self._values(alias.base, ALIAS).items()}
        for name in dict.fromkeys(names):
            if self._is_name(alias.base + "channels", name):
                base = f"{alias.base}channels.{name}."
                yield from self._channel(alias, name, base, (), route)

    def _channel(
        self,
        alias: _Alias,
        name: str,
        base: str,
        others: Sequence[str],
        alias_route: Mapping[str, Any],
    ) -> Iterator[ChannelSettings]:
        """The channel, or nothing if no plugin is named. ``others`` are not its options."""
        values = self._values(base, CHANNEL)
        table = {key: parse for key, parse in ROUTE.items() if key not in others}
        route = RouteSettings(**self._values(base, table), **alias_route)
        plugin = self.text.get(base + "plugin")
        if plugin is None:
            self._complain(
                base + "plugin",
                f"channel {name!r} has none",
                "the name of an installed plugin, or module:Class",
                "`kinto-dispatch plugins` lists them.",
            )
            return
        self._check_read(base, route)
        self._check_sync(base, values)
        options = (key for key in self.text.under(base) if key not in {*CHANNEL_NAMES, *others})
        yield ChannelSettings(
            name=name,
            alias=alias.name,
            prefix=self.text.style(base),
            plugin=plugin.text.strip(),
            route=route,
            options={key: typed.text for key in options if (typed := self.text.find(base + key))},
            **values,
        )

    # --- checks ----------------------------------------------------------------------------

    def _is_name(self, key: str, name: str) -> bool:
        fits = NAME.fullmatch(name) is not None
        if not fits:
            self._complain(key, f"channel {shown(name)}", "1 to 64 letters, digits, _ and -")
        return fits

    def _check_read(self, base: str, route: RouteSettings) -> None:
        """Kinto passes reads on only where the alias asks for them."""
        if "read" in route.actions and "read" not in route.alias_actions:
            self._complain(
                base + "actions",
                "read, which Kinto does not pass on to this listener",
                "some of create update delete",
                "Or add read to the actions of the listener's alias.",
            )

    def _check_sync(self, base: str, values: Mapping[str, Any]) -> None:
        """What only a channel in the request can do. Without ``mode`` its plugin decides."""
        for name in ("phase", "on_failure"):
            if name in values and values.get("mode") == "async":
                self._complain(
                    base + name, f"{values[name]} with mode = async", "it only with mode = sync"
                )
        if values.get("on_failure") == "abort" and values.get("phase") != "before_commit":
            self._complain(
                base + "on_failure",
                "abort after the commit, when nothing can be undone",
                "phase = before_commit beside it, or on_failure = log",
            )

    def _check_list(self, alias: _Alias, listed: Sequence[str]) -> None:
        """No channel is named twice, or configured without being named."""
        for name in dict.fromkeys(name for name in listed if listed.count(name) > 1):
            self._complain(alias.base + "channels", f"{name!r} twice", "every channel once")
        configured = [
            rest.split(".")[1]
            for rest in self.text.under(alias.base)
            if rest.startswith("channels.")
        ]
        for name in dict.fromkeys(configured):
            if name not in listed:
                self._complain(
                    alias.base + "channels",
                    f"nothing of {name!r}, which has settings",
                    "the name of every channel that is configured",
                    did_you_mean(name, listed) or f"Add {name} to the list.",
                )

    def _check_alias_names(self, alias: _Alias, listed: Sequence[str]) -> None:
        """What stands directly under an alias with a list is a setting of the dispatcher."""
        typed = [
            (self.text.name(alias.base + rest), rest)
            for rest in self.text.under(alias.base)
            if not rest.startswith("channels.")
        ]
        known = (*ALIAS_NAMES, "plugin")
        typed += self.text.unknown_variables(alias.base, known, bases(self.text))
        for name, rest in typed:
            if rest in CHANNEL_NAMES and rest not in ALIAS_NAMES and rest != "plugin":
                whose = listed[0] if listed else "NAME"
                advice = f"Write it as {self.text.style(alias.base)}channels.{whose}.{rest}."
                self.problems.append(Problem(name, "a setting of channels", "it there", advice))
            elif rest not in known:
                self.problems.append(unknown(name, rest, ALIAS_NAMES))


def unknown(name: str, rest: str, own: Iterable[str], others: Iterable[str] = ()) -> Problem:
    """What to say of a setting that nobody knows. Its value may be a secret with a wrong name."""
    own, others = sorted(own), sorted(others)
    expected = f"one of {' '.join(own)}" if own else "no settings but those of every channel"
    expected += ", or a setting of every channel" if own and others else ""
    advice = did_you_mean(rest, own) or did_you_mean(rest, others)
    return Problem(name, "no setting of that name", expected, advice)


def shown(value: str) -> str:
    """A value as it is quoted in a problem."""
    return repr(value if len(value) <= 80 else f"{value[:77]}...")


def _is_true_to_kinto(value: str) -> bool:
    """Kinto decodes the value as JSON and asks whether the result, or else the text, is truthy."""
    try:
        return bool(json.loads(value))
    except ValueError:
        return bool(value)
