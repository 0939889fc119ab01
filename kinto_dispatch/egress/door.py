"""The guard at work in aiohttp: it resolves, it dials, and it reads no more than it has to."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from kinto_dispatch.errors import EgressRefused, RedirectRefused


if TYPE_CHECKING:
    from aiohttp.client_middlewares import ClientHandlerType

    from kinto_dispatch.egress.guard import EgressGuard

BODY_BYTES = 65_536
"""Read of an answer: enough for every error message, too little to fill the memory."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})


def open_connector(guard: EgressGuard, url: str, **options: Any) -> aiohttp.TCPConnector:
    """See ``EgressGuard.connector``."""
    host = URL(url).host or ""

    def open_socket(info: tuple[Any, ...]) -> socket.socket:
        """The last word: literal addresses never pass the resolver, and whatever did is looked
        at again as it is dialled."""
        family, kind, protocol, _, address = info
        try:
            guard.check_address(address[0], host)
        except EgressRefused as refused:
            raise _NotDialled(refused) from refused
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=_GuardedResolver(guard), socket_factory=open_socket, **options
    )


def open_session(guard: EgressGuard, url: str, **options: Any) -> aiohttp.ClientSession:
    """See ``EgressGuard.session``."""
    defaults: dict[str, Any] = {
        # The worker bounds how many are sent at a time.
        "connector": open_connector(guard, url, limit=0),
        "cookie_jar": aiohttp.DummyCookieJar(),
        "trust_env": False,
        # Nothing compressed is asked for, and a bomb in spite of that is left as it is.
        "auto_decompress": False,
        "headers": {"Accept-Encoding": "identity"},
        "timeout": aiohttp.ClientTimeout(total=None),
        "middlewares": (_stand_firm,),
        "response_class": ShortResponse,
    }
    return aiohttp.ClientSession(**{**defaults, **options})


class ShortResponse(aiohttp.ClientResponse):
    """An answer of which only the first ``BODY_BYTES`` are read. It can always be decoded: as
    UTF-8, whatever encoding it claims, which may be one that Python does odd things for."""

    async def read(self) -> bytes:
        if self._body is None:
            self._body = await _read(self.content, BODY_BYTES)
            if not self.content.at_eof():
                self.close()  # the rest of it would be taken for the next answer
        return self._body

    async def text(self, encoding: str | None = None, errors: str = "replace") -> str:
        return await super().text(encoding or "utf-8", errors)


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    parts = bytearray()
    while len(parts) < limit and (part := await content.read(limit - len(parts))):
        parts += part
    return bytes(parts)


class _NotDialled(OSError):
    """A refusal in the form in which aiohttp takes it from what resolves and dials."""

    def __init__(self, refused: EgressRefused) -> None:
        super().__init__(errno.EACCES, str(refused))
        self.refused = refused


class _GuardedResolver(AbstractResolver):
    """Leaves out the addresses that are refused; if none is left, says why."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard
        self._resolver = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        allowed, refusals = [], []
        for result in await self._resolver.resolve(host, port, family):
            try:
                self._guard.check_address(result["host"], host)
                allowed.append(result)
            except EgressRefused as refused:
                refusals.append(refused)
        if refusals and not allowed:
            raise _NotDialled(refusals[0])
        return allowed

    async def close(self) -> None:
        await self._resolver.close()


async def _stand_firm(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Never go where the answer points, and name the refusal instead of its wrapping."""
    try:
        response = await handler(request)
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, _NotDialled):
            raise error.os_error.refused from error
        raise
    if response.status in REDIRECTS:
        response.close()
        raise RedirectRefused(response.status)
    return response
