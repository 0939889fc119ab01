"""Hooks as they stand in the metadata of a bucket or collection: found, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinto_dispatch.errors import BadHook, did_you_mean
from kinto_dispatch.event import CHANGED
from kinto_dispatch.globs import matches_text
from kinto_dispatch.settings import DispatchSettings
from kinto_dispatch.subscriptions.formats import (
    EMAILER,
    FORMATS,
    OURS,
    SLACK,
    compile_hook,
)
from kinto_dispatch.subscriptions.legacy import is_heard


MOST_HOOKS = 20
"""In one bucket or collection: each costs on every write below it."""


@dataclass(frozen=True, slots=True)
class Openings:
    """The channels that the operator opened for subscriptions, by name, with their plugins;
    ``emailer`` is the one that hooks of kinto-emailer go to, ``events`` what there is to hear
    of."""

    plugins: Mapping[str, str]
    emailer: str | None = None
    events: Sequence[str] = (CHANGED,)

    @classmethod
    def of(cls, settings: DispatchSettings) -> Openings:
        """Those with ``subscribable = true``. Without ``emailer_channel`` it is the only one of
        them that uses ``email``."""
        plugins = {one.name: one.plugin for one in settings.channels if one.subscribable}
        email = [name for name, plugin in plugins.items() if plugin == "email"]
        only = email[0] if len(email) == 1 else None
        events = dict.fromkeys((CHANGED, *settings.events))
        return cls(plugins, settings.emailer_channel or only, tuple(events))

    def channel_of(self, format: str, hook: Mapping[str, Any]) -> str | None:
        """The channel that a hook goes to; ``None`` if it names none that is open."""
        if format == EMAILER:
            return self.emailer
        name = hook.get("channel")
        if format == SLACK:
            slack = [one for one, plugin in self.plugins.items() if plugin == "slack"]
            if name is None and len(slack) == 1:
                return slack[0]
            name = name.removeprefix("#") if isinstance(name, str) else None
            return name if name in slack else None
        return name if isinstance(name, str) and name in self.plugins else None

    def serves(self, format: str) -> bool:
        """Whether hooks of this format are ours: those of the older plugins only where a channel
        is open for them, since the plugins themselves may be in use."""
        if format == EMAILER:
            return self.emailer is not None
        return format == OURS or "slack" in self.plugins.values()


def hooks_of(
    metadata: Mapping[str, Any], openings: Openings
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Format, channel and text of each hook. Its channel is ``None`` where it is told to nobody:
    it names none that is open, or stands behind ``MOST_HOOKS`` others.

    Never raises: what nobody checked when it was written is judged where it does harm to itself
    alone.
    """
    for format in FORMATS:
        if format not in metadata or not openings.serves(format):
            continue
        config = metadata[format]
        hooks = config.get("hooks") if isinstance(config, Mapping) else None
        for number, hook in enumerate(hooks if isinstance(hooks, list) else ()):
            if isinstance(hook, dict):
                is_one_of_them = number < MOST_HOOKS
                yield format, openings.channel_of(format, hook) if is_one_of_them else None, hook


def problems_of(
    metadata: Mapping[str, Any], bucket_id: str, openings: Openings
) -> Iterator[tuple[str, str]]:
    """What is wrong with the hooks: where it stands, and why."""
    for format in FORMATS:
        if format not in metadata or not openings.serves(format):
            continue
        config = metadata[format]
        hooks = config.get("hooks") if isinstance(config, Mapping) else None
        if not isinstance(hooks, list):
            yield f"{format}.hooks", 'expected a list of hooks, as in {"hooks": [...]}'
            continue
        if len(hooks) > MOST_HOOKS:
            yield f"{format}.hooks", f"{len(hooks)} hooks, at most {MOST_HOOKS}"
        for number, hook in enumerate(hooks[:MOST_HOOKS]):
            for where, why in _problems_of_hook(format, hook, bucket_id, openings):
                yield f"{format}.hooks.{number}{where and '.'}{where}", why


def unheard(metadata: Mapping[str, Any], openings: Openings) -> Iterator[tuple[str, str]]:
    """Where a hook of an older format asks for events that this Kinto does not listen to, and for
    which: it may stand there, and is told of nothing."""
    for format in (EMAILER, SLACK):
        hooks = (metadata.get(format) or {}).get("hooks") if openings.serves(format) else None
        for number, hook in enumerate(hooks or ()):
            event = hook.get("event")
            if event is not None and not is_heard(event, openings.events):
                yield f"{format}.hooks.{number}.event", event


def _problems_of_hook(
    format: str, hook: Any, bucket_id: str, openings: Openings
) -> Iterator[tuple[str, str]]:
    if not isinstance(hook, dict):
        yield "", "expected an object"
        return
    try:
        compile_hook(format, hook)
    except BadHook as error:
        yield from error.problems
        return
    if openings.channel_of(format, hook) is None:
        name = hook.get("channel")
        wanted = "slack" if format == SLACK else None
        names = [one for one, plugin in openings.plugins.items() if wanted in (None, plugin)]
        near = did_you_mean(str(name), names)
        listed = ", ".join(names) or "none"
        yield "channel", f"{name!r} is not open for hooks; open are: {listed}. {near}".strip()
    for event in (hook.get("events") or ()) if format == OURS else ():
        if not any(matches_text(event.split("*"), one) for one in openings.events):
            near = did_you_mean(event, openings.events)
            listed = " ".join(openings.events)
            yield "events", f"{event!r} is not listened to; there are: {listed}. {near}".strip()
    for recipient in hook.get("recipients") or ():
        # The bucket has to stand there, whatever is filled in behind it.
        if recipient.startswith("/buckets/") and recipient.split("/")[2] != bucket_id:
            yield "recipients", f"{recipient!r} is a group of another bucket than {bucket_id!r}"
