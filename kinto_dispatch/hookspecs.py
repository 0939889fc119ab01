"""Every hook that a channel plugin can implement, with what it may rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from kinto_dispatch.delivery import Delivery
from kinto_dispatch.event import Event
from kinto_dispatch.outcome import Outcome, Veto


if TYPE_CHECKING:
    from kinto_dispatch.plugins import Channel

PROJECT = "kinto_dispatch"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def on_event(event: Event, channel: Channel) -> Outcome | Veto | None:
    """Called in the request of the client that wrote, for channels with ``mode = sync``.

    Must be a plain ``def`` and thread-safe. The client waits for it, at most
    ``timeout_seconds``. Called at most once for an event. ``event`` holds only the changes that
    the channel's route wants. Return ``None`` or an ``Outcome``; with ``phase = before_commit`` a
    ``Veto`` refuses the write. Raising is logged and never refuses a write, unless the ini says
    ``on_failure = abort``.
    """


@hookspec(firstresult=True)
async def on_event_async(event: Event, channel: Channel, delivery: Delivery) -> Outcome | None:
    """Called in the worker, for channels with ``mode = async``: at least once for an event.

    ``async def``, or a plain ``def`` that runs in a thread. ``delivery.key`` is the same on every
    attempt. Must end within ``delivery.timeout_seconds``. ``None`` means ``Delivered()``; an
    exception means ``Retry`` with the exception as the reason.
    """
