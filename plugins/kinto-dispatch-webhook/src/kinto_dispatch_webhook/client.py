"""Posts, through the guard, on connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from weakref import WeakKeyDictionary

import aiohttp

from kinto_dispatch import EgressGuard, Outcome, Rejected, Retry
from kinto_dispatch.errors import EgressRefused, RedirectRefused
from kinto_dispatch_webhook.answer import judge


READ_SECONDS = 3.0
"""How long the text after a status may take: the status alone is an answer."""


class WebhookClient:
    """Sends each request once; safe to use from many tasks. One session for each event loop."""

    def __init__(self, guard: EgressGuard, url: str, headers: Mapping[str, str]) -> None:
        """``headers`` go with every request. Does not connect."""
        self._guard = guard
        self._url = url
        self._headers = {"User-Agent": "kinto-dispatch-webhook", **headers}
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            WeakKeyDictionary()
        )

    async def post(
        self, body: str, headers: Mapping[str, str], seconds: float, redact: Callable[[str], str]
    ) -> Outcome:
        """Say what came of it after at most ``seconds``. No answer is ``Retry``; what the receiver
        says is judged, and shown as ``redact`` leaves it."""
        end = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(end):
                answer = await self._session().post(
                    self._url,
                    data=body.encode("ascii"),
                    headers={**self._headers, **headers},
                    allow_redirects=False,
                )
        except TimeoutError:
            return Retry(f"no answer within {seconds:g} s")
        except (EgressRefused, RedirectRefused) as error:
            return Rejected(str(error))
        except (aiohttp.ClientError, OSError) as error:
            return Retry(describe(error))
        async with answer:
            text = await _read(answer, end)
            return judge(answer.status, answer.headers, text, redact, datetime.now(UTC))

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            self._sessions[loop] = self._guard.session(self._url)
        return self._sessions[loop]

    async def close(self) -> None:
        """Close the connections of this loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


async def _read(answer: aiohttp.ClientResponse, end: float) -> str:
    """The text as far as it came; nothing of what is compressed, which was not asked for."""
    end = min(end, asyncio.get_running_loop().time() + READ_SECONDS)
    try:
        async with asyncio.timeout_at(end):
            text = await answer.text()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return ""
    return text if answer.headers.get("Content-Encoding", "identity") == "identity" else ""


def describe(error: Exception) -> str:
    """What failed, without the URL, which may be a secret and which aiohttp likes to quote."""
    match error:
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}: {error.os_error.strerror or error.os_error}"
        case _:
            return type(error).__name__
