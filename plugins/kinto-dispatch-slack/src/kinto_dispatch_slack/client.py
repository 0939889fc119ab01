"""Talks to Slack, through an incoming webhook or as a bot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kinto_dispatch import Channel, EgressGuard, HttpAnswer, HttpClient
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

    async def send(
        self,
        payload: Mapping[str, Any],
        channel: Channel,
        seconds: float,
        thread: str | None = None,
    ) -> Posted:
        """Say what came of the message after at most ``seconds``, with ``thread`` as a reply
        there. 429, 5xx and no answer are ``Retry``, after the time that Slack asks for;
        everything else it refuses ``Rejected``."""
        body = {**payload, **({"thread_ts": thread} if thread else {})}
        answer = await self._client.post(json.dumps(body).encode("ascii"), seconds=seconds)
        if not isinstance(answer, HttpAnswer):
            return Posted(answer)
        if self._is_bot:
            return judge_bot(answer, channel.redact, thread)
        return judge(answer, channel.redact)

    async def close(self) -> None:
        """Close the connections of this loop."""
        await self._client.close()
