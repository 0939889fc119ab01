"""The channel keeps the contract of all channels, on a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from kinto_dispatch.testing import ChannelContract, LocalHttp


class JsonServer:
    """A server for Apprise's ``json://``; a part of the path is the secret."""

    secret = "canary-5d1f0c"

    def __init__(self, server: LocalHttp) -> None:
        self._server = server
        self._refused: int | None = None
        self.options = self.options_at(server.address)

    def texts(self) -> list[str]:
        """Title and body of each message."""
        messages = [json.loads(request.body) for request in self._server.requests[: self._refused]]
        return [f"{message['title']}\n{message['message']}" for message in messages]

    def refuse(self) -> None:
        """A server that quotes what it does not like."""
        self._refused = len(self._server.requests)
        self._server.answer(403, f"no such path: /{self.secret}".encode())

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with the secret."""
        return {"url": f"json://{address}/{self.secret}", "allow_hosts": "127.0.0.1"}


class TestApprise(ChannelContract):
    """Apprise, by the name of its entry point."""

    plugin = "apprise"

    @pytest.fixture
    def destination(self) -> Iterator[JsonServer]:
        with LocalHttp() as server:
            yield JsonServer(server)
