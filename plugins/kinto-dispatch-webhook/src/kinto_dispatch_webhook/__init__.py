"""Webhooks for kinto-dispatch: one signed HTTP request for each attempt."""

from __future__ import annotations

import time
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from kinto_dispatch import (
    Channel,
    Delivery,
    EgressGuard,
    Event,
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


class WebhookSettings(BaseModel):
    """What stands in the ini."""

    model_config = ConfigDict(frozen=True)

    # These two come first: what may be a URL depends on them.
    allow_hosts: tuple[str, ...] = Field((), description="hosts that may be private")
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks that may be private, as in 10.1.0.0/16"
    )
    url: SecretStr = Field(description="where to post to, as in https://example.com/hook")
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

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        hosts, networks = info.data.get("allow_hosts", ()), info.data.get("allow_networks", ())
        EgressGuard(hosts, networks).check_url(url.get_secret_value())
        return url

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
        guard = EgressGuard(settings.allow_hosts, settings.allow_networks)
        own = {"User-Agent": USER_AGENT, "Content-Type": CONTENT_TYPES[settings.format]}
        headers = {**own, **_revealed(settings.headers)}
        self._client = HttpClient(guard, settings.url.get_secret_value(), headers)
        self._signers = open_signers(secret.get_secret_value() for secret in settings.secrets)
        self._settings = settings

    @hookimpl
    async def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Post the event from the worker, signed at the time of this attempt."""
        try:
            written = body(event, delivery.key, self._settings.payload, self._settings.format)
        except (ValueError, RecursionError) as error:
            return Rejected(f"cannot be written as JSON ({type(error).__name__}); payload = thin")
        headers = sign(self._signers, delivery.key, written, time.time())
        answer = await self._client.post(
            written.encode("ascii"), headers, seconds=delivery.timeout_seconds
        )
        return judge(answer, channel) if isinstance(answer, HttpAnswer) else answer

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.close()


def judge(answer: HttpAnswer, channel: Channel) -> Outcome:
    """As Standard Webhooks has it."""
    if answer.status == GONE:
        return Rejected(f"{answer.told(channel.redact)}; the receiver wants no more", pause=True)
    return answer.outcome(channel.redact)
