"""Slack for kinto-dispatch: one message for each delivery, one thread for each object."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator

from kinto_dispatch import (
    Channel,
    Delivery,
    Event,
    GuardedSecretUrl,
    GuardedSettings,
    GuardedUrl,
    Outcome,
    hookimpl,
)
from kinto_dispatch_slack.blocks import blocks
from kinto_dispatch_slack.client import SlackClient
from kinto_dispatch_slack.message import object_of, payload


__all__ = ["SlackChannel", "SlackSettings"]


class SlackSettings(GuardedSettings):
    """What stands in the ini: a ``webhook_url``, or a ``token`` with a ``conversation``."""

    webhook_url: GuardedSecretUrl | None = Field(
        None, description="the URL of an incoming webhook"
    )
    token: SecretStr | None = Field(None, description="the token of a bot, xoxb-...")
    conversation: str | None = Field(None, description="the id of a channel, as in C024BE91L")
    api_url: GuardedUrl = Field("https://slack.com/api/", description="where the API of Slack is")
    threads: bool = Field(
        True, description="whether a bot writes what it says of one object into one thread"
    )

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        as_bot = self.token is not None and self.conversation is not None
        half = (self.token is None) != (self.conversation is None)
        if half or as_bot == (self.webhook_url is not None):
            raise ValueError("webhook_url, or token with conversation")
        if self.webhook_url is not None and "threads" in self.model_fields_set:
            raise ValueError(
                "threads only with token and conversation, since Slack does not tell a webhook "
                "what to reply to"
            )
        return self


class SlackChannel:
    """One conversation in Slack."""

    Settings = SlackSettings

    def __init__(self, settings: SlackSettings) -> None:
        self._conversation = settings.conversation
        self._has_threads = settings.threads and settings.token is not None
        if settings.webhook_url is not None:
            self._client = SlackClient(settings.guard, settings.webhook_url.get_secret_value())
        elif settings.token is not None:
            url = f"{settings.api_url.rstrip('/')}/chat.postMessage"
            self._client = SlackClient(settings.guard, url, settings.token.get_secret_value())

    @hookimpl
    async def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Post the message from the worker: the channel's template, or blocks without one."""
        message = channel.render(event)
        shown = () if message.has_template else blocks(message.subject, event)
        body = payload(message, shown, self._conversation)
        about = object_of(event) if self._has_threads else None
        return await self._client.send(body, channel, delivery.timeout_seconds, about)

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.close()
