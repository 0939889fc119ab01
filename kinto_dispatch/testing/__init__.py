"""What tests of kinto-dispatch and of channel plugins stand on: real servers, builders, contracts.

Names are loaded when first used: each server needs a package of its own, and a test pays only for
those it starts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from kinto_dispatch.testing.builders import (
        make_change,
        make_channel,
        make_delivery,
        make_event,
    )
    from kinto_dispatch.testing.contract import ChannelContract, Destination
    from kinto_dispatch.testing.destinations import DeadServer, ScriptedServer, SilentServer, drip
    from kinto_dispatch.testing.http import LocalHttp, ReceivedRequest
    from kinto_dispatch.testing.postgresql import LocalPostgresql
    from kinto_dispatch.testing.smtp import LocalSmtp, ReceivedMail
    from kinto_dispatch.testing.valkey import LocalValkey
    from kinto_dispatch.testing.waiting import eventually, eventually_async

__all__ = [  # noqa: RUF022 - grouped as a table of contents
    # What a hook gets
    "make_change",
    "make_event",
    "make_delivery",
    "make_channel",
    # What every channel plugin passes
    "ChannelContract",
    "Destination",
    # Real servers on this machine
    "LocalHttp",
    "ReceivedRequest",
    "LocalSmtp",
    "ReceivedMail",
    "LocalValkey",
    "LocalPostgresql",
    "DeadServer",
    "SilentServer",
    "ScriptedServer",
    "drip",
    # Waiting
    "eventually",
    "eventually_async",
]

_HOME = {
    "ChannelContract": "contract",
    "DeadServer": "destinations",
    "Destination": "contract",
    "LocalHttp": "http",
    "LocalPostgresql": "postgresql",
    "LocalSmtp": "smtp",
    "LocalValkey": "valkey",
    "ReceivedMail": "smtp",
    "ReceivedRequest": "http",
    "ScriptedServer": "destinations",
    "SilentServer": "destinations",
    "drip": "destinations",
    "eventually": "waiting",
    "eventually_async": "waiting",
    "make_change": "builders",
    "make_channel": "builders",
    "make_delivery": "builders",
    "make_event": "builders",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
