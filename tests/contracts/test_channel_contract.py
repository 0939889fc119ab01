"""The contract of channels finds what it promises to find: each broken channel fails its test."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from kinto_dispatch import Channel, Delivered, Delivery, Event, Outcome, Rejected, hookimpl
from kinto_dispatch.testing import ChannelContract, LocalHttp


class Settings(BaseModel):
    """Where to, and with what."""

    url: str
    token: SecretStr


class Sound:
    """A channel that keeps the contract, with both hooks, in the simplest way."""

    Settings: type[BaseModel] = Settings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def post(self, text: str, seconds: float) -> Outcome:
        """Blocks for an answer."""
        body = json.dumps({"text": text}).encode()
        headers = {"Authorization": self.settings.token.get_secret_value()}
        request = urllib.request.Request(self.settings.url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                return Delivered()
        except urllib.error.HTTPError as error:
            with error:
                return Rejected(str(error.code))

    @hookimpl
    def on_event(self, event: Event, channel: Channel) -> Outcome:
        """In the request."""
        return self.post(channel.render(event).text, 30)

    @hookimpl
    def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """In the worker."""
        return self.post(channel.render(event).text, delivery.timeout_seconds)


class Optimist(Sound):
    """Takes a refusal for success."""

    def post(self, text: str, seconds: float) -> Outcome:
        super().post(text, seconds)
        return Delivered()


class Quitter(Sound):
    """Gives up where nobody listens."""

    def post(self, text: str, seconds: float) -> Outcome:
        try:
            return super().post(text, seconds)
        except OSError:
            return Rejected("nobody there")


class Patient(Sound):
    """Waits longer than it may."""

    def post(self, text: str, seconds: float) -> Outcome:
        return super().post(text, seconds + 5)


class Stammerer(Sound):
    """Sends everything twice."""

    def post(self, text: str, seconds: float) -> Outcome:
        super().post(text, seconds)
        return super().post(text, seconds)


class Editor(Sound):
    """Takes out what looks dangerous."""

    def post(self, text: str, seconds: float) -> Outcome:
        return super().post(text.replace("<", ""), seconds)


class Translator(Sound):
    """Escapes what nobody unescapes."""

    def post(self, text: str, seconds: float) -> Outcome:
        return super().post(html.escape(text), seconds)


class Gossip(Sound):
    """Tells the log its token."""

    def post(self, text: str, seconds: float) -> Outcome:
        logging.getLogger(__name__).debug("as %s", self.settings.token.get_secret_value())
        return super().post(text, seconds)


class Confessor(Sound):
    """Tells its token in the outcome."""

    def post(self, text: str, seconds: float) -> Outcome:
        super().post(text, seconds)
        return Delivered(f"as {self.settings.token.get_secret_value()}")


class Forgetful(Sound):
    """Mixes up what it has to send at the same time."""

    def post(self, text: str, seconds: float) -> Outcome:
        self.text = text
        time.sleep(0.05)
        return super().post(self.text, seconds)


class Litterbug(Sound):
    """Leaves a connection open."""

    async def close(self) -> None:
        """Opens another one."""
        _, self.writer = await asyncio.open_connection(
            *self.settings.url.removeprefix("http://").rstrip("/").split(":")
        )


class Service:
    """Takes what these channels send."""

    secret = "canary-77aa01"

    def __init__(self, server: LocalHttp) -> None:
        self._server = server
        self._refused = False
        self.options = self.options_at(server.address)

    def texts(self) -> list[str]:
        """What arrived."""
        requests = [] if self._refused else self._server.requests
        return [json.loads(request.body)["text"] for request in requests]

    def refuse(self) -> None:
        """Take nothing."""
        self._refused = True
        self._server.answer(403)

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings for another address."""
        return {"url": f"http://{address}/", "token": self.secret}


class TestSound(ChannelContract):
    """A sound channel keeps the contract."""

    plugin = Sound

    @pytest.fixture
    def destination(self, http_sink: LocalHttp) -> Service:
        return Service(http_sink)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Optimist, "test_a_refusal_is_no_success"),
        (Quitter, "test_a_dead_destination_is_tried_again"),
        (Patient, "test_a_silent_destination_does_not_outlast_the_deadline"),
        (Stammerer, "test_it_delivers"),
        (Editor, "test_record_data_arrives_literally"),
        (Translator, "test_record_data_arrives_literally"),
        (Gossip, "test_secrets_are_never_shown"),
        (Confessor, "test_secrets_are_never_shown"),
        (Forgetful, "test_deliveries_do_not_disturb_each_other"),
        (Litterbug, "test_it_closes_cleanly"),
    ],
)
def test_a_broken_channel_is_found(
    broken: type[Sound], test: str, http_sink: LocalHttp, caplog: pytest.LogCaptureFixture
) -> None:
    """By the test that is there for it."""
    suite = type("Suite", (ChannelContract,), {"plugin": broken})()
    arguments = {"caplog": caplog} if test == "test_secrets_are_never_shown" else {}
    with pytest.raises(AssertionError):
        getattr(suite, test)(destination=Service(http_sink), **arguments)
