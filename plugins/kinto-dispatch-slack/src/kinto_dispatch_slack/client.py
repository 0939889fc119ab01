"""Talks to Slack, through an incoming webhook or as a bot, which has a thread for each object."""

from __future__ import annotations

import asyncio
import math
from typing import Any
from weakref import WeakValueDictionary

from kinto_dispatch import Channel, EgressGuard, HttpAnswer, HttpClient, Outcome, encode_json
from kinto_dispatch_slack.answer import Posted, judge, judge_bot


JSON = {"Content-Type": "application/json; charset=utf-8"}


class SlackClient:
    """Sends each message once; safe to use from many tasks."""

    def __init__(self, guard: EgressGuard, url: str, token: str | None = None) -> None:
        """``url`` is a webhook's, or with the ``token`` of a bot a method's of the API. Does not
        connect."""
        self._is_bot = token is not None
        headers = {**JSON, "Authorization": f"Bearer {token}"} if self._is_bot else JSON
        # What the API says stands in the text. Of a webhook the status is enough.
        seconds = {"text_seconds": math.inf} if self._is_bot else {}
        self._client = HttpClient(guard, url, headers, **seconds)
        # Deliveries that run at a time must not each open a thread. Of several workers they may.
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def send(
        self, payload: dict[str, Any], channel: Channel, seconds: float, about: str | None
    ) -> Outcome:
        """Say what came of the message after ``seconds``: 429, 5xx and no answer are ``Retry``,
        after the time that Slack asks for; everything else it refuses ``Rejected``.

        ``about`` is the uri of the object whose thread it goes to. The first message opens it,
        and where it is gone the next one does, with as many seconds for itself.
        """
        if about is None:
            return (await self._post(payload, channel, seconds)).outcome
        key = f"thread in {payload['channel']} of {about}"
        known = await channel.recall(key)
        if known is not None:
            posted = await self._post(payload, channel, seconds, known)
            if not posted.is_threadless:
                return await _keep(channel, key, posted)
        async with self._opening.setdefault(key, asyncio.Lock()):
            opened = await channel.recall(key)
            thread = None if opened == known else opened
            posted = await self._post(payload, channel, seconds, thread)
            return await _keep(channel, key, posted)

    async def _post(
        self, payload: dict[str, Any], channel: Channel, seconds: float, thread: str | None = None
    ) -> Posted:
        body = {**payload, **({"thread_ts": thread} if thread else {})}
        answer = await self._client.post(encode_json(body), seconds=seconds)
        if not isinstance(answer, HttpAnswer):
            return Posted(answer)
        if self._is_bot:
            return judge_bot(answer, channel.redact, thread)
        return judge(answer, channel.redact)

    async def close(self) -> None:
        """Close the connections of this loop."""
        await self._client.close()


async def _keep(channel: Channel, key: str, posted: Posted) -> Outcome:
    """Where the thread is. Also where nothing is new, so that what is in use is not forgotten."""
    if posted.thread is not None:
        await channel.remember(key, posted.thread)
    return posted.outcome
