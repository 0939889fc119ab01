"""Webhooks for kinto-dispatch: one signed HTTP request for each attempt."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from kinto_dispatch import (
    Channel,
    Delivery,
    Event,
    GuardedSecretUrl,
    GuardedSettings,
    HttpAnswer,
    HttpClient,
    Outcome,
    Rejected,
    check_headers,
    hookimpl,
)
from kinto_dispatch_webhook.message import CONTENT_TYPES, body
from kinto_dispatch_webhook.signing import open_signers, sign


__all__ = ["WebhookChannel", "WebhookSettings"]

USER_AGENT = "kinto-dispatch-webhook"
GONE = 410


class WebhookSettings(GuardedSettings):
    """What stands in the ini."""

    url: GuardedSecretUrl = Field(description="where to post to, as in https://example.com/hook")
    secrets: tuple[SecretStr, ...] = Field(
        description="whsec_...; several while the receiver changes from one to the next"
    )
    payload: Literal["thin", "full"] = Field(
        "thin", description="thin: which objects; full: what they hold, too"
    )
    format: Literal["cloudevents", "plain"] = Field(
        "cloudevents", description="CloudEvents 1.0, or the JSON that Standard Webhooks suggests"
    )
    headers: dict[str, SecretStr] = Field(
        {}, description='further headers, as in {"Authorization": "Bearer ..."}'
    )

    @field_validator("secrets")
    @classmethod
    def _check_secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        open_signers(secret.get_secret_value() for secret in secrets)
        return secrets

    @field_validator("headers")
    @classmethod
    def _check_headers(
        cls, headers: dict[str, SecretStr], info: ValidationInfo
    ) -> dict[str, SecretStr]:
        url = info.data.get("url")
        whole = url.get_secret_value() if url else ""
        check_headers(_revealed(headers), whole, reserved=("webhook-",))
        return headers


def _revealed(headers: dict[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}


class WebhookChannel:
    """One receiver."""

    Settings = WebhookSettings

    def __init__(self, settings: WebhookSettings) -> None:
        own = {"User-Agent": USER_AGENT, "Content-Type": CONTENT_TYPES[settings.format]}
        headers = {**own, **_revealed(settings.headers)}
        self._client = HttpClient(settings.guard, settings.url.get_secret_value(), headers)
        self._signers = open_signers(secret.get_secret_value() for secret in settings.secrets)
        self._settings = settings

    @hookimpl
    async def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Post the event from the worker, signed at the time of this attempt."""
        try:
            written = body(event, delivery.key, self._settings.payload, self._settings.format)
        except RecursionError:
            return Rejected("nested too deeply to be written as JSON; payload = thin can be")
        headers = sign(self._signers, delivery.key, written, time.time())
        answer = await self._client.post(written, headers, seconds=delivery.timeout_seconds)
        return judge(answer, channel) if isinstance(answer, HttpAnswer) else answer

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.close()


def judge(answer: HttpAnswer, channel: Channel) -> Outcome:
    """As Standard Webhooks has it."""
    if answer.status == GONE:
        return Rejected(f"{answer.told(channel.redact)}; the receiver wants no more", pause=True)
    return answer.outcome(channel.redact)
