"""One request and its answer, on the connections of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from kinto_dispatch.egress.answer import HttpAnswer
from kinto_dispatch.errors import EgressRefused, RedirectRefused
from kinto_dispatch.outcome import Rejected, Retry


if TYPE_CHECKING:
    from kinto_dispatch.egress.guard import EgressGuard


class Exchange:
    """A session with one destination; see ``HttpClient``."""

    def __init__(self, guard: EgressGuard, url: str, headers: Mapping[str, str]) -> None:
        common = CIMultiDict({"Accept-Encoding": "identity", "User-Agent": "kinto-dispatch"})
        for name, value in headers.items():  # one of each, in whatever spelling
            common[name] = value
        self._url = URL(url)
        self._session = guard.session(url, headers=common)

    async def post(
        self, body: bytes, headers: Mapping[str, str], seconds: float, text_seconds: float
    ) -> HttpAnswer | Retry | Rejected:
        """See ``HttpClient.post``."""
        end = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(end):
                answer = await self._session.post(
                    self._url, data=body, headers=headers, allow_redirects=False
                )
        except TimeoutError:
            return Retry(f"no answer within {seconds:g} s")
        except (EgressRefused, RedirectRefused) as error:
            return Rejected(str(error))
        except (aiohttp.ClientError, OSError) as error:
            return Retry(describe(error))
        async with answer:
            return HttpAnswer(
                answer.status, answer.headers, await _text(answer, end, text_seconds)
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _text(answer: aiohttp.ClientResponse, end: float, text_seconds: float) -> str | None:
    """Nothing of what is compressed: that was not asked for, and may be a bomb."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        return None
    end = min(end, asyncio.get_running_loop().time() + text_seconds)
    try:
        if answer.content.is_eof():  # it came with the status, as most do: no need for a timer
            return await answer.text()
        async with asyncio.timeout_at(end):
            return await answer.text()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


def describe(error: Exception) -> str:
    """What failed, without the URL, which may be a secret and which aiohttp likes to quote."""
    match error:
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientResponseError():
            return f"{type(error).__name__}: {error.status} {' '.join(error.message.split())}"
        case _:
            return type(error).__name__
