"""What a plugin posts with: behind the guard, on connections that stay open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from kinto_dispatch.egress.answer import HttpAnswer
from kinto_dispatch.egress.guard import EgressGuard
from kinto_dispatch.outcome import Rejected, Retry


if TYPE_CHECKING:
    from kinto_dispatch.egress.exchange import Exchange

TEXT_SECONDS = 3.0

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HttpClient:
    """Posts to one URL; each request once. Safe to use from many tasks and in several event loops,
    each of which has connections of its own.

    Redirects are not followed, nothing is taken from the environment, and where the ``guard``
    refuses an address nothing is sent. What failed is told without the URL, which may be a secret.
    """

    def __init__(
        self,
        guard: EgressGuard,
        url: str,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        text_seconds: float = TEXT_SECONDS,
    ) -> None:
        """``headers`` go with every request. Does not connect.

        ``text_seconds`` is how long the text after a status may take, since a status alone is an
        answer; give ``math.inf`` where only the text tells.
        """
        self._guard = guard
        self._url = url
        self._headers = headers
        self._text_seconds = text_seconds
        self._exchanges: WeakKeyDictionary[asyncio.AbstractEventLoop, Exchange] = (
            WeakKeyDictionary()
        )

    async def post(
        self, body: bytes, headers: Mapping[str, str] = NO_HEADERS, *, seconds: float
    ) -> HttpAnswer | Retry | Rejected:
        """The answer, after at most ``seconds``; ``Retry`` where none came, and ``Rejected`` where
        the address is refused or the answer is a redirect. The caller judges the status."""
        return await self._exchange().post(body, headers, seconds, self._text_seconds)

    def _exchange(self) -> Exchange:
        loop = asyncio.get_running_loop()
        found = self._exchanges.get(loop)
        if found is None:
            # Kinto's web processes make the channel too, and never post.
            from kinto_dispatch.egress.exchange import Exchange

            found = self._exchanges[loop] = Exchange(self._guard, self._url, self._headers)
        return found

    async def close(self) -> None:
        """Close the connections of this loop."""
        exchange = self._exchanges.pop(asyncio.get_running_loop(), None)
        if exchange is not None:
            await exchange.close()
