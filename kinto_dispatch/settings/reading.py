"""All that Kinto's settings say to kinto-dispatch, from every alias that uses it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from kinto_dispatch.errors import Problem, did_you_mean
from kinto_dispatch.event import CHANGED
from kinto_dispatch.settings.channels import LISTENERS, Alias, channel_base, channels_of
from kinto_dispatch.settings.intake import Intake, shown
from kinto_dispatch.settings.parsers import Unfit, state_directory
from kinto_dispatch.settings.text import SettingsText
from kinto_dispatch.settings.values import DISPATCHER, ChannelSettings, DispatchSettings


OURS = ("kinto_dispatch", "kinto_dispatch.listener")


def read(
    settings: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[DispatchSettings, list[Problem]]:
    """The settings of all aliases that use kinto-dispatch, and everything that is wrong in them.

    ``settings`` is Kinto's ``config.get_settings()`` or what ``pyramid.paster.get_appsettings``
    returns, with the same result. What is wrong is left at its default, and a channel without a
    plugin is left out. Options of plugins stay text: only their plugins know them. Files named by
    settings that end in ``_file`` are read now. Never raises; no problem shows a secret.
    """
    intake = Intake(SettingsText(settings, environ))
    aliases = list(_aliases(intake))
    channels = (channel for alias in aliases for channel in channels_of(intake, alias))
    found = DispatchSettings(
        channels=tuple(_unique(intake, channels)),
        **_dispatcher(intake, aliases),
        **_storage(intake.text),
    )
    _check_emailer_channel(intake, aliases, found)
    _check_events(intake, found)
    return found, intake.problems


def _aliases(intake: Intake) -> Iterator[Alias]:
    """The listeners in Kinto's list that are ours, found the way Kinto finds them."""
    typed = intake.text.get(LISTENERS)
    names = [
        name
        for name in dict.fromkeys(typed.text.split() if typed else ())
        if name in OURS or _uses_us(intake.text, name)
    ]
    # Kinto names a listener that stands in the list as a module after the module's last part.
    yield from (Alias(name.rpartition(".")[2] if name in OURS else name) for name in names)
    if not names:
        unlisted = [key.split(".")[0] for key in intake.text.under(f"{LISTENERS}.")]
        near = [name for name in dict.fromkeys(unlisted) if _uses_us(intake.text, name)]
        intake.complain(
            LISTENERS,
            "no listener that uses kinto_dispatch",
            "the name of one",
            f"Add {near[0]} to it."
            if near
            else f"Write {LISTENERS} = dispatch and {LISTENERS}.dispatch.use = kinto_dispatch,"
            " each with kinto. before it.",
        )


def _uses_us(text: SettingsText, name: str) -> bool:
    use = text.get(f"{Alias(name).base}use")
    return use is not None and use.text.strip() in OURS


def _unique(intake: Intake, channels: Iterable[ChannelSettings]) -> Iterator[ChannelSettings]:
    seen: dict[str, ChannelSettings] = {}
    for channel in channels:
        first = seen.setdefault(channel.name, channel)
        if first is channel:
            yield channel
            continue
        base = Alias(channel.alias).base
        intake.complain(
            base + ("channels" if intake.text.get(base + "channels") else "plugin"),
            f"channel {channel.name!r}, which is there already ({first.prefix}plugin)",
            "a name of its own for every channel",
            "Rename one of them.",
        )


def _dispatcher(intake: Intake, aliases: Sequence[Alias]) -> dict[str, Any]:
    """The settings that hold for all channels: given at any alias, the same wherever given."""
    values: dict[str, Any] = {}
    given_at: dict[str, str] = {}
    for alias in aliases:
        for name, value in intake.values(alias.base, DISPATCHER).items():
            if values.setdefault(name, value) != value:
                intake.complain(
                    alias.base + name,
                    f"not the same as {intake.text.name(given_at[name])}",
                    "one value for all listeners that use kinto_dispatch",
                    "Write it at one of them.",
                )
            given_at.setdefault(name, alias.base + name)
    if "queue_dir" not in values:
        needed = "queue_url" not in values
        values["queue_dir"] = _default_queue_dir(intake, aliases if needed else ())
    return values


def _check_emailer_channel(
    intake: Intake, aliases: Sequence[Alias], found: DispatchSettings
) -> None:
    """Hooks of kinto-emailer go to a channel that is open for them."""
    name = found.emailer_channel
    mailing = [one.name for one in found.channels if one.subscribable and one.plugin == "email"]
    if name is None and len(mailing) > 1:
        intake.complain(
            aliases[0].base + "emailer_channel",
            f"not set, and {len(mailing)} channels that use email are open for hooks",
            f"the one that hooks of kinto-emailer go to ({', '.join(mailing)})",
        )
    opened = [channel.name for channel in found.channels if channel.subscribable]
    for alias in aliases:
        if name and name not in opened and intake.text.get(alias.base + "emailer_channel"):
            intake.complain(
                alias.base + "emailer_channel",
                shown(name),
                f"a channel with subscribable = true ({', '.join(opened) or 'there is none'})",
            )


def _check_events(intake: Intake, found: DispatchSettings) -> None:
    """A channel can hear only of what is captured."""
    there = (CHANGED, *found.events)
    for channel in found.channels:
        for name in channel.route.events:
            if not any(fnmatchcase(one, name) for one in there):
                intake.complain(
                    f"{channel_base(channel)}events",
                    shown(name),
                    f"some of {' '.join(there)}",
                    did_you_mean(name, there)
                    or f"Add it to {intake.text.style(Alias(channel.alias).base)}events, too.",
                )


def _default_queue_dir(intake: Intake, needed_by: Sequence[Alias]) -> Path:
    """A directory of the user's, the same for every process of one Kinto, whatever it was started
    from, and not that of another Kinto of the same user.

    The application never learns the path of its ini, so what tells Kintos apart is
    ``userid_hmac_secret``, which ``kinto init`` makes up and which never changes.
    """
    secret = intake.text.get("userid_hmac_secret")
    name = hashlib.blake2b((secret.text if secret else "").encode(), digest_size=6)
    try:
        state = state_directory(intake.text.environ)
    except Unfit as unfit:
        state = Path(tempfile.gettempdir())
        for alias in needed_by[:1]:
            intake.complain(alias.base + "queue_dir", unfit.found, unfit.expected, unfit.advice)
    return state / "kinto-dispatch" / name.hexdigest()


def _storage(text: SettingsText) -> dict[str, Any]:
    """What Kinto itself is told about its storage, judged as Kinto judges it."""
    backend, url = text.get("storage_backend"), text.get("storage_url")
    transaction = text.find("transaction_per_request")
    return {
        "storage_backend": backend.text.strip() if backend else "",
        "storage_url": SecretStr(url.text.strip()) if url else None,
        "transaction_per_request": transaction is None or _is_true_to_kinto(transaction.text),
    }


def _is_true_to_kinto(value: str) -> bool:
    """Kinto decodes the value as JSON and asks whether the result, or else the text, is truthy."""
    try:
        return bool(json.loads(value))
    except ValueError:
        return bool(value)
