"""Appends to a list in Redis or Valkey, from an event loop or from a thread."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import redis
from redis.asyncio import BlockingConnectionPool as AsyncPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetries
from redis.backoff import NoBackoff
from redis.retry import Retry as Retries

from kinto_dispatch import Delivered, Outcome, Rejected, Retry


SECONDS = 5.0
"""For a connection, for an answer, and for a free connection: a list answers at once or not."""


def check_url(url: str) -> str:
    """The URL itself. Raises ``ValueError`` for one that redis-py does not take."""
    try:
        redis.ConnectionPool.from_url(url).make_connection()
    except (ValueError, TypeError, AttributeError, redis.RedisError):
        # redis-py quotes what it does not understand, which may be half of a password.
        raise ValueError("redis://, rediss:// or unix://, as in redis://host:6379/0") from None
    return url


class ListClient:
    """At most ``pool_size`` connections for each event loop, and as many for all threads.

    Nothing is sent twice by the client itself: without an answer the list may have the item, and
    the outcome is ``Retry``.
    """

    def __init__(self, url: str, pool_size: int, listname: str) -> None:
        """Does not connect."""
        self._url = url
        self._listname = listname
        self._pool: dict[str, Any] = {
            "max_connections": pool_size,
            "timeout": SECONDS,
            "socket_timeout": SECONDS,
            "socket_connect_timeout": SECONDS,
        }
        pool = redis.BlockingConnectionPool.from_url(
            url, retry=Retries(NoBackoff(), 0), **self._pool
        )
        self._sync = redis.Redis(connection_pool=pool)
        self._async: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRedis] = WeakKeyDictionary()

    def append(self, item: str) -> Outcome:
        """Put the item at the end of the list; blocks."""
        try:
            return _delivered(self._sync.rpush(self._listname, item))
        except (redis.RedisError, OSError) as error:
            return _outcome(error)

    async def append_async(self, item: str) -> Outcome:
        """Put the item at the end of the list."""
        try:
            return _delivered(await self._of_this_loop().rpush(self._listname, item))
        except (redis.RedisError, OSError) as error:
            return _outcome(error)

    def _of_this_loop(self) -> AsyncRedis:
        """A connection belongs to the loop that it was made in."""
        loop = asyncio.get_running_loop()
        if loop not in self._async:
            pool = AsyncPool.from_url(self._url, retry=AsyncRetries(NoBackoff(), 0), **self._pool)
            self._async[loop] = AsyncRedis.from_pool(pool)
        return self._async[loop]

    async def close(self) -> None:
        """Close the connections of this loop, and those of the threads."""
        client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
        self._sync.connection_pool.disconnect()


def _delivered(length: Any) -> Outcome:
    return Delivered(f"{length} in the list")


def _outcome(error: Exception) -> Outcome:
    """Only a key that holds something else stays so; memory, roles and rights change."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE"):
        return Rejected(f"{reason}; choose another listname")
    return Retry(reason)
