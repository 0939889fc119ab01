"""The messages about one object go into one thread, as far as anybody remembers where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from kinto_dispatch import Channel, Event, Outcome
from kinto_dispatch_slack.answer import Posted
from kinto_dispatch_slack.client import SlackClient


def subject_of(event: Event) -> str | None:
    """The uri of the one object that all changes are of; ``None`` where they are of several."""
    uris = {change.uri for change in event.changes}
    return uris.pop() if len(uris) == 1 else None


class Threads:
    """Threads of one conversation. The first message about an object opens one, under its own
    timestamp; where the thread is gone the next message does so again.
    """

    def __init__(self, client: SlackClient, conversation: str) -> None:
        self._client = client
        self._conversation = conversation
        # Deliveries that run at a time must not each open a thread. Of several workers they may.
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def send(
        self, payload: Mapping[str, Any], channel: Channel, seconds: float, uri: str
    ) -> Outcome:
        """As ``SlackClient.send``, to the thread of the object."""
        key = f"thread in {self._conversation} of {uri}"
        known = await channel.recall(key)
        if known is not None:
            posted = await self._client.send(payload, channel, seconds, known)
            if not posted.is_threadless:
                return await _keep(channel, key, posted)
        async with self._opening.setdefault(key, asyncio.Lock()):
            opened = await channel.recall(key)
            thread = None if opened == known else opened
            posted = await self._client.send(payload, channel, seconds, thread)
            return await _keep(channel, key, posted)


async def _keep(channel: Channel, key: str, posted: Posted) -> Outcome:
    """Where the thread is. Also where nothing is new, so that what is in use is not forgotten."""
    if posted.thread is not None:
        await channel.remember(key, posted.thread)
    return posted.outcome
