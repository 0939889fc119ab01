"""What the ini says about where a channel sends."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo

from kinto_dispatch.egress.guard import EgressGuard


class GuardedSettings(BaseModel):
    """The base of the ``Settings`` of a plugin that sends over HTTP; frozen.

    It has the settings with which an operator lets private addresses through, and they come
    first: whether a ``GuardedUrl`` is good depends on them.
    """

    model_config = ConfigDict(frozen=True)

    allow_hosts: tuple[str, ...] = Field((), description="hosts that may be private")
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks that may be private, as in 10.1.0.0/16"
    )

    @property
    def guard(self) -> EgressGuard:
        """What these settings let through."""
        return EgressGuard(self.allow_hosts, self.allow_networks)


T = TypeVar("T", str, SecretStr)


def _check(url: T, info: ValidationInfo) -> T:
    guard = EgressGuard(info.data.get("allow_hosts", ()), info.data.get("allow_networks", ()))
    guard.check_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
    return url


GuardedUrl = Annotated[str, AfterValidator(_check)]
"""A URL that a channel may send to, as far as that is known before its name is resolved."""

GuardedSecretUrl = Annotated[SecretStr, AfterValidator(_check)]
"""The same, where whoever knows the URL may send."""
