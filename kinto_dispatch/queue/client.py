"""Connections to the queue server, and its errors as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from kinto_dispatch.errors import QueueUnavailable


def _tcp_options(url: str) -> dict[str, Any]:
    """A blocking read on a connection that died silently must end: the kernel finds out."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


ADVICE = (
    ("NOAUTH", "it wants a password", "Put user and password into queue_url."),
    ("WRONGPASS", "it refused the password", "Correct the password in queue_url."),
    ("invalid username-password", "it refused the password", "Correct it in queue_url."),
    ("NOPERM", "it forbids a command that is needed", "Allow it in the server's ACL."),
    (
        "OOM",
        "maxmemory is reached",
        "Raise maxmemory on the server; nothing is dropped meanwhile.",
    ),
    ("MISCONF", "it cannot write to its disk", "Look into the server's log."),
    ("READONLY", "it is a replica", "Point queue_url to the primary."),
    ("LOADING", "it is still loading its data", "Wait; it is tried again."),
)
"""What a server's refusal means, and what to do: looked for in its message."""


def sync_client(url: str, timeout_seconds: float, **options: Any) -> redis.Redis:
    """A blocking client that never repeats a command by itself."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        **_tcp_options(url),
        **options,
    )


def async_client(url: str, timeout_seconds: float | None, **options: Any) -> redis.asyncio.Redis:
    """As ``sync_client``, for an event loop; ``None`` is for blocking reads."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds or 5.0,
        retry=AsyncRetry(NoBackoff(), 0),
        **_tcp_options(url),
        **options,
    )


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None and parts.username is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextlib.contextmanager
def translated(url: str, on_loss: Callable[[], None]) -> Iterator[None]:
    """Raise what goes wrong with the server as ``QueueUnavailable``; ``on_loss`` hears of it
    where the connection is gone, so that the server is looked for again."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        on_loss()
        raise explained(url, error) from error
    except redis.RedisError as error:
        raise explained(url, error) from error


def explained(url: str, error: Exception) -> QueueUnavailable:
    """The error with its reason in words and what to do."""
    text = str(error)
    for sign, reason, advice in ADVICE:
        if sign in text:
            return QueueUnavailable(without_password(url), reason, advice)
    if isinstance(error, redis.TimeoutError):
        return QueueUnavailable(without_password(url), "it did not answer in time")
    return QueueUnavailable(without_password(url), text or type(error).__name__)


@cache
def script(name: str) -> str:
    """The text of a script by its verb."""
    return resources.files("kinto_dispatch.queue").joinpath(f"scripts/{name}.lua").read_text()
