"""The channel keeps the contract of all channels, on a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from kinto_dispatch.testing import ChannelContract, LocalHttp


class Receiver:
    """Takes requests, and reads the texts in them."""

    secret = "canary-c40f77"
    format = "cloudevents"

    def __init__(self, server: LocalHttp) -> None:
        self._server = server
        self.refused = False
        self.options = self.options_at(server.address)

    def texts(self) -> list[str]:
        """Every text in the JSON."""
        if self.refused:
            return []
        return ["\n".join(strings(json.loads(got.body))) for got in self._server.requests]

    def refuse(self) -> None:
        """Nobody is here."""
        self.refused = True
        self._server.requests.clear()
        self._server.answer(404, b"no such hook: /hooks/canary-c40f77")

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with a secret in all places."""
        return {
            "url": f"http://{self.secret}:{self.secret}@{address}/hooks/{self.secret}?q={self.secret}",
            "secrets": "whsec_" + "Y2FuYXJ5LWM0MGY3Ny0tLS0tLS0tLS0tLS0tLS0t",
            "headers": json.dumps({"X-Token": self.secret}),
            "payload": "full",
            "format": self.format,
            "allow_networks": "127.0.0.0/8",
        }


class PlainReceiver(Receiver):
    """The same with the other format."""

    format = "plain"


def strings(value: Any) -> Iterator[str]:
    """Every string in a piece of JSON."""
    match value:
        case str():
            yield value
        case list():
            for one in value:
                yield from strings(one)
        case dict():
            yield from strings([*value, *value.values()])


class TestWebhook(ChannelContract):
    """Webhooks as CloudEvents, by the name of the entry point."""

    plugin = "webhook"

    @pytest.fixture
    def destination(self) -> Iterator[Receiver]:
        with LocalHttp() as server:
            yield Receiver(server)


class TestPlainWebhook(ChannelContract):
    """Webhooks in plain JSON."""

    plugin = "webhook"

    @pytest.fixture
    def destination(self) -> Iterator[PlainReceiver]:
        with LocalHttp() as server:
            yield PlainReceiver(server)
