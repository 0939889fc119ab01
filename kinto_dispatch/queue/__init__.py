"""The queue: a log of events, a lane for each channel, on Redis Streams."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from kinto_dispatch.queue.protocol import Log, Queue
    from kinto_dispatch.settings import DispatchSettings

LOG_TIMEOUT_SECONDS = 0.2
"""What one call to the log may cost a request."""


def open_log(settings: DispatchSettings, lanes: tuple[str, ...] = ()) -> Log:
    """The producer's side of the log. Finds its server, or starts it, when first used."""
    from kinto_dispatch.queue.log import StreamsLog

    find = partial(find_server, settings, LOG_TIMEOUT_SECONDS)
    return StreamsLog(find, settings.queue_prefix, lanes, LOG_TIMEOUT_SECONDS)


def open_queue(settings: DispatchSettings, lanes: tuple[str, ...] = ()) -> Queue:
    """The worker's side. Connects, and starts the embedded server, when first used."""
    from kinto_dispatch.queue.streams import StreamsQueue

    return StreamsQueue(partial(find_server, settings), settings.queue_prefix, lanes)


def find_server(settings: DispatchSettings, timeout_seconds: float = 10.0) -> str:
    """The URL of the queue server, with its password; starts the embedded one if it is not
    running. Raises ``QueueUnavailable``."""
    if settings.queue_url is not None:
        return settings.queue_url.get_secret_value()
    from kinto_dispatch.queue.embedded import ensure_server

    return ensure_server(settings.queue_dir, timeout_seconds=timeout_seconds)


def queue_location(settings: DispatchSettings) -> str:
    """Where the queue is, for messages: never with a password."""
    if settings.queue_url is None:
        return f"embedded in {settings.queue_dir}"
    from kinto_dispatch.queue.refusals import without_password

    return without_password(settings.queue_url.get_secret_value())
