"""Talks to Slack, through an incoming webhook or as a bot, and judges its answers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from slack_sdk.webhook import WebhookResponse
from slack_sdk.webhook.async_client import AsyncWebhookClient

from kinto_dispatch import Delivered, EgressGuard, Outcome, Rejected, Retry
from kinto_dispatch.errors import EgressRefused, RedirectRefused


LONGEST_ANSWER = 300
"""Characters of an answer that go into an outcome."""

PASSING = re.compile(
    r"(?:fatal|internal)_error|message_limit_exceeded|org_login_required|rate_?limited"
    r"|request_timeout|service_unavailable|team_added_to_org"
)
"""Errors of the API that pass by themselves."""

_NO_TOKEN = ["account_inactive", "invalid_auth", "not_authed", "token_expired", "token_revoked"]
ADVICE = {
    **dict.fromkeys(_NO_TOKEN, "Slack does not know the token (any more); set another one"),
    "channel_is_archived": "unarchive the conversation, or set another webhook_url",
    "channel_not_found": "set conversation to an id, as in C024BE91L, of one that the bot sees",
    "is_archived": "unarchive the conversation, or set another one",
    "missing_scope": "give the bot the scope chat:write",
    "no_service": "the webhook was taken away; make another one",
    "not_in_channel": "invite the bot to the conversation",
}
"""What to do about an error, of the API or of a webhook."""

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

    async def send(self, payload: Mapping[str, Any], seconds: float) -> Outcome:
        """Say what came of the message after at most ``seconds``. 429, 5xx and no answer are
        ``Retry``, after the time that Slack asks for; everything else it refuses ``Rejected``."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._post(dict(payload))
        except TimeoutError:
            return Retry(f"no answer within {seconds:g} s")
        except (EgressRefused, RedirectRefused) as error:
            return Rejected(str(error))
        except (aiohttp.ClientError, OSError) as error:
            return Retry(describe(error))
        return judge_bot(answer) if self._is_bot else judge(answer)

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


def judge(answer: WebhookResponse) -> Outcome:
    """The outcome for what a webhook answered."""
    status = answer.status_code
    shown = f"{status} {' '.join(answer.body.split())[:LONGEST_ANSWER]}".strip()
    if 200 <= status < 300:
        return Delivered(shown)
    if status in (408, 429) or status >= 500:
        return Retry(shown, retry_after(answer.headers))
    return Rejected(advise(shown))


def advise(error: str) -> str:
    """What Slack said, with what to do about it where we know."""
    advice = ADVICE.get(error.rpartition(" ")[2])
    return f"{error}: {advice}" if advice else error


def judge_bot(answer: WebhookResponse) -> Outcome:
    """The outcome for what the API answered: it says 200 to everything that it understands."""
    if answer.status_code != 200:
        return judge(answer)
    try:
        said = json.loads(answer.body)
        if said["ok"] is True:
            return Delivered(f"message {said.get('ts')}")
        error = str(said["error"])[:LONGEST_ANSWER]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Retry("an answer that is not from Slack; see api_url")
    passes = PASSING.fullmatch(error)
    return Retry(error, retry_after(answer.headers)) if passes else Rejected(advise(error))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that Slack asks for, if it does."""
    found = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    return float(found) if found.isdecimal() else None


def describe(error: Exception) -> str:
    """What failed, without the URL, which is a secret and which aiohttp likes to quote."""
    match error:
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientResponseError():
            return f"{type(error).__name__}: {error.status} {error.message}"[:LONGEST_ANSWER]
        case _:
            return type(error).__name__
