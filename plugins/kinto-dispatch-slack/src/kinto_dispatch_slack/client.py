"""Talks to Slack, through an incoming webhook or as a bot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from slack_sdk.webhook import WebhookResponse
from slack_sdk.webhook.async_client import AsyncWebhookClient

from kinto_dispatch import EgressGuard, Rejected, Retry
from kinto_dispatch.errors import EgressRefused, RedirectRefused
from kinto_dispatch_slack.answer import LONGEST_ANSWER, Posted, judge, judge_bot


# Slack's library writes URLs with their secrets into a log at the level DEBUG.
_SILENT = logging.Logger("slack", logging.CRITICAL + 1)  # noqa: LOG001 - nobody shall turn it up


class SlackClient:
    """Sends each message once; safe to use from many tasks. One session for each event loop."""

    def __init__(self, guard: EgressGuard, url: str, token: str | None = None) -> None:
        """``url`` is a webhook's, or with the ``token`` of a bot a method's of the API. Does not
        connect."""
        self._guard = guard
        self._url = url
        self._is_bot = token is not None
        self._headers = {"Authorization": f"Bearer {token}"} if self._is_bot else {}
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            WeakKeyDictionary()
        )

    async def send(
        self, payload: Mapping[str, Any], seconds: float, thread: str | None = None
    ) -> Posted:
        """Say what came of the message after at most ``seconds``, with ``thread`` as a reply
        there. 429, 5xx and no answer are ``Retry``, after the time that Slack asks for;
        everything else it refuses ``Rejected``."""
        body = {**payload, **({"thread_ts": thread} if thread else {})}
        try:
            async with asyncio.timeout(seconds):
                answer = await self._post(body)
        except TimeoutError:
            return Posted(Retry(f"no answer within {seconds:g} s"))
        except (EgressRefused, RedirectRefused) as error:
            return Posted(Rejected(str(error)))
        except (aiohttp.ClientError, OSError) as error:
            return Posted(Retry(describe(error)))
        if self._is_bot:
            return judge_bot(answer.status_code, answer.headers, answer.body, thread)
        return judge(answer.status_code, answer.headers, answer.body)

    async def _post(self, payload: dict[str, Any]) -> WebhookResponse:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            self._sessions[loop] = self._guard.session(self._url)
        client = AsyncWebhookClient(
            self._url, session=self._sessions[loop], logger=_SILENT, retry_handlers=[]
        )
        client.proxy = None  # it takes one from the environment, past the guard
        return await client.send_dict(payload, self._headers)

    async def close(self) -> None:
        """Close the connections of this loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


def describe(error: Exception) -> str:
    """What failed, without the URL, which is a secret and which aiohttp likes to quote."""
    match error:
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientResponseError():
            return f"{type(error).__name__}: {error.status} {error.message}"[:LONGEST_ANSWER]
        case _:
            return type(error).__name__
