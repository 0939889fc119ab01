"""The ini and the environment, read as text and checked, become frozen settings."""

from __future__ import annotations

from kinto_dispatch.settings.reading import read
from kinto_dispatch.settings.values import (
    Addresses,
    ChannelSettings,
    DigestBy,
    DispatchSettings,
    Mode,
    Phase,
    RouteSettings,
)


__all__ = [
    "Addresses",
    "ChannelSettings",
    "DigestBy",
    "DispatchSettings",
    "Mode",
    "Phase",
    "RouteSettings",
    "read",
]
