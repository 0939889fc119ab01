"""The channel keeps the contract of all channels, on a real HTTP server that plays Slack."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping

import pytest

from kinto_dispatch.testing import ChannelContract, LocalHttp


class SlackWebhook:
    """An incoming webhook."""

    secret = "canary-c40f77"

    def __init__(self, server: LocalHttp) -> None:
        self._server = server
        self.refused = False
        self.options = self.options_at(server.address)

    def texts(self) -> list[str]:
        """What Slack shows."""
        if self.refused:
            return []
        return [html.unescape(json.loads(got.body)["text"]) for got in self._server.requests]

    def refuse(self) -> None:
        """The webhook was taken away."""
        self.refused = True
        self._server.requests.clear()
        self._server.answer(404, b"no_service")

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with the secret in the URL."""
        return {
            "webhook_url": f"http://{address}/services/T0/B0/{self.secret}",
            "allow_networks": "127.0.0.0/8",
        }


class SlackApi(SlackWebhook):
    """The API that bots use."""

    def __init__(self, server: LocalHttp) -> None:
        super().__init__(server)
        server.answer(200, b'{"ok": true, "ts": "1.2"}', {"Content-Type": "application/json"})

    def refuse(self) -> None:
        """The bot is not in the channel."""
        super().refuse()
        body = b'{"ok": false, "error": "not_in_channel"}'
        self._server.answer(200, body, {"Content-Type": "application/json"})

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with a token."""
        return {
            "token": f"xoxb-{self.secret}",
            "conversation": "C024BE91L",
            "api_url": f"http://{address}/api/",
            "allow_networks": "127.0.0.0/8",
        }


class TestSlackWebhook(ChannelContract):
    """Slack with a webhook, by the name of its entry point."""

    plugin = "slack"

    @pytest.fixture
    def destination(self) -> Iterator[SlackWebhook]:
        with LocalHttp() as server:
            yield SlackWebhook(server)


class TestSlackBot(ChannelContract):
    """Slack with a bot."""

    plugin = "slack"

    @pytest.fixture
    def destination(self) -> Iterator[SlackApi]:
        with LocalHttp() as server:
            yield SlackApi(server)
