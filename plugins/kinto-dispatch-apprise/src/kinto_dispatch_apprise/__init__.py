"""Apprise for kinto-dispatch: one message for each delivery, to one of its services."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from kinto_dispatch import Channel, Delivery, Event, GuardedSettings, Outcome, hookimpl
from kinto_dispatch_apprise.client import AppriseClient


__all__ = ["AppriseChannel", "AppriseSettings"]


class AppriseSettings(GuardedSettings):
    """What stands in the ini: the URL of one destination, and what it may be."""

    # Comes first: what may be a URL depends on it.
    schemes: tuple[str, ...] = Field(
        (), description="what the URL may begin with; all that use HTTP, unless set"
    )
    url: SecretStr = Field(description="the URL of one destination, in the words of Apprise")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        if {"schemes", "allow_hosts", "allow_networks"} <= info.data.keys():
            open_client(cls.model_construct(url=url, **info.data))
        return url


class AppriseChannel:
    """One destination of Apprise."""

    Settings = AppriseSettings

    def __init__(self, settings: AppriseSettings) -> None:
        self._client = open_client(settings)

    @hookimpl
    def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Send the message in the worker, which runs this in a thread."""
        return self._client.send(channel.render(event), delivery.timeout_seconds)


def open_client(settings: AppriseSettings) -> AppriseClient:
    """Raises ``ValueError`` for what is not exactly one permitted destination."""
    return AppriseClient(settings.url.get_secret_value(), settings.schemes, settings.guard)
