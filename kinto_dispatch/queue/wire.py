"""Connections to the queue server: commands go out together, replies come back in order.

A command is never repeated here, since a lost reply does not mean that nothing happened. What
goes wrong is raised as ``QueueUnavailable``, of the kind ``QueueRejected`` where waiting does not
help. When the server was lost, it is looked for again before the next call, by new connections:
those that are idle may lead to where it was, and each of them would cost a call its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis
import redis.asyncio
from hiredis import pack_command

from kinto_dispatch.errors import DispatchError, QueueFull, QueueUnavailable
from kinto_dispatch.queue.refusals import explained, without_password
from kinto_dispatch.queue.scripting import Command, Evaluation


MOST_CONNECTIONS = 10_000
"""No bound worth the name: each lane of each worker keeps one, and each thread of Kinto."""

SHORTEST_SECONDS = 0.001

SLOWEST_BYTES_PER_SECOND = 1_000_000
"""A call of a worker gets time for its bytes on top of its time-out, at this rate: what is large
takes long on its way and at the server, and would otherwise fail again and again."""

OPTIONS: dict[str, Any] = {
    "max_connections": MOST_CONNECTIONS,
    # Replies have the same shape on every server, and a connection takes no round trip to say so.
    "protocol": 2,
    "driver_info": None,
}

LOSSES = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    # The primary of yesterday: its name or its address may lead to another one by now.
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
)

Request = Command | Evaluation


class NoGroup(Exception):
    """Raised when a lane has no consumer group: nobody ever fetched, or the server forgot."""


class Wire:
    """Blocking, for any number of threads; a fork gets connections of its own.

    A call takes at most ``timeout_seconds`` for each of looking the server up, connecting, and
    the replies.
    """

    def __init__(self, find_url: Callable[[], str], timeout_seconds: float) -> None:
        self._find_url = find_url
        self._timeout_seconds = timeout_seconds
        self._url = ""
        self._is_lost = True
        self._pool: Pool | None = None

    def run(self, *requests: Request) -> list[Any]:
        """The replies. A script that is new to the server runs after the other requests. Raises
        ``QueueUnavailable``, ``QueueRejected``, or ``NoGroup``."""
        if not requests:
            return []
        pool = self._connected()
        try:
            replies = self._ask(pool, [_by_digest(request) for request in requests])
            if again := _unknown(requests, replies):
                texts = self._ask(pool, [request.by_text() for _, request in again])
                _fill_in(replies, again, texts)
            return _checked(replies)
        except (redis.RedisError, OSError) as error:
            self._is_lost = self._is_lost or _is_loss(error)
            raise explained(self._url, error) from error

    def close(self) -> None:
        """Close the connections. Never raises."""
        self._is_lost = True
        if self._pool is not None:
            self._pool.disconnect()

    def _connected(self) -> Pool:
        # Without a lock, which a fork could leave locked: two threads may both make a pool here,
        # and one of the two is dropped after its first use.
        pool = self._pool
        if self._is_lost or pool is None:
            url = self._find_url()
            if url != self._url or pool is None:
                pool = self._pool = Pool(url, self._timeout_seconds)
                self._url = url
            pool.disconnect()
            self._is_lost = False
        return pool

    def _ask(self, pool: Pool, commands: Sequence[Command]) -> list[Any]:
        deadline = time.monotonic() + self._timeout_seconds
        connection = pool.take()
        try:
            packed = [pack_command(command) for command in commands]
            connection.send_packed_command(packed, check_health=False)
            return [_reply(connection, deadline) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.give_back(connection)


class Pool:
    """Connections that are idle, the one that was used last on top. A fork begins with none.

    As much of redis-py's own as a write needs, without a lock and without its counters, which take
    longer than everything else that a call does here.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        model = _pool(redis.ConnectionPool, url, timeout_seconds, None)
        self._kind, self._options = model.connection_class, model.connection_kwargs
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def take(self) -> Any:
        """A connection that is open, or that opens with the first command."""
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._kind(**self._options)
        if connection.is_connected and not _is_quiet(connection):
            connection.disconnect()
        return connection

    def give_back(self, connection: Any) -> None:
        """For the next call."""
        self._idle.append(connection)

    def disconnect(self) -> None:
        """Close what is idle. Never raises."""
        while self._idle:
            with contextlib.suppress(Exception):
                self._idle.pop().disconnect()


def _is_quiet(connection: Any) -> bool:
    """Whether nothing came unasked: the server's end, or the reply to a call that was given up."""
    try:
        return not connection.can_read()
    except (redis.RedisError, OSError):
        return False


class AsyncWire:
    """As ``Wire``, for the tasks of one event loop. ``find_url`` runs in a thread, ``on_full`` is
    called whenever the server had no memory for what was asked."""

    def __init__(
        self,
        find_url: Callable[[], str],
        timeout_seconds: float,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self._find_url = find_url
        self._timeout_seconds = timeout_seconds
        self._on_full = on_full
        self._url = ""
        self._is_lost = True
        self._pool: Any = None
        self._connecting = asyncio.Lock()

    async def run(
        self, *requests: Request, wait_seconds: float = 0.0, checked: bool = True
    ) -> list[Any]:
        """As ``Wire.run``, but that a call may take longer the larger it is. ``wait_seconds`` is
        what the requests themselves may wait for. With ``checked`` false a refusal is returned in
        its place instead of raised."""
        if not requests:
            return []
        pool = await self._connected() if self._is_lost else self._pool
        limit = self._timeout_seconds + wait_seconds
        try:
            replies = await _ask(pool, [_by_digest(request) for request in requests], limit)
            if again := _unknown(requests, replies):
                texts = await _ask(pool, [request.by_text() for _, request in again], limit)
                _fill_in(replies, again, texts)
        except (redis.RedisError, OSError) as error:
            raise self._failed(error) from error
        return self.check(replies) if checked else replies

    def check(self, replies: list[Any]) -> list[Any]:
        """The replies, if none of them is a refusal. Raises as ``run`` does."""
        try:
            return _checked(replies)
        except redis.RedisError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DispatchError:
        self._is_lost = self._is_lost or _is_loss(error)
        failure = explained(self._url, error)
        if isinstance(failure, QueueFull):
            self._on_full()
        return failure

    async def close(self) -> None:
        """Close the connections. Never raises."""
        self._is_lost = True
        if self._pool is not None:
            with contextlib.suppress(Exception):
                await self._pool.aclose()

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._is_lost:
                url = await asyncio.to_thread(self._find_url)
                if url != self._url or self._pool is None:
                    await self.close()
                    # One time-out covers a whole call, see ``run``.
                    kind = redis.asyncio.ConnectionPool
                    self._pool = _pool(kind, url, None, self._timeout_seconds)
                    self._url = url
                with contextlib.suppress(Exception):
                    await self._pool.disconnect(inuse_connections=False)
                self._is_lost = False
        return self._pool


async def _ask(pool: Any, commands: Sequence[Command], limit_seconds: float) -> list[Any]:
    packed = [pack_command(command) for command in commands]
    limit_seconds += sum(map(len, packed)) / SLOWEST_BYTES_PER_SECOND
    async with asyncio.timeout(limit_seconds):
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(packed, check_health=False)
            return [await _async_reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)


def _pool(kind: Any, url: str, timeout: float | None, connect_timeout: float | None) -> Any:
    options = dict(OPTIONS, socket_timeout=timeout, socket_connect_timeout=connect_timeout)
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    try:
        pool = kind.from_url(url, **options)
        # An option that does not exist shows only here.
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError):
        # Their texts may quote the password.
        raise QueueUnavailable(
            without_password(url), "queue_url cannot be read", "Check its port and its options."
        ) from None
    return pool


def _reply(connection: Any, deadline: float) -> Any:
    left = max(SHORTEST_SECONDS, deadline - time.monotonic())
    try:
        return connection.read_response(timeout=left)
    except redis.ResponseError as refusal:
        return refusal


async def _async_reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis.ResponseError as refusal:
        return refusal


def _by_digest(request: Request) -> Command:
    return request.by_digest() if isinstance(request, Evaluation) else request


def _unknown(
    requests: Sequence[Request], replies: Sequence[Any]
) -> Sequence[tuple[int, Evaluation]]:
    """The scripts that the server did not know, with their positions."""
    return [
        (position, request)
        for position, request in enumerate(requests)
        if isinstance(request, Evaluation)
        and isinstance(replies[position], redis.exceptions.NoScriptError)
    ]


def _fill_in(
    replies: list[Any], again: Sequence[tuple[int, Evaluation]], texts: Sequence[Any]
) -> None:
    for (position, _), reply in zip(again, texts, strict=True):
        replies[position] = reply


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, redis.ResponseError):
            # The second: what a reader is told whose stream was deleted while it waited.
            if str(reply).startswith(("NOGROUP", "UNBLOCKED")):
                raise NoGroup(str(reply))
            raise reply
    return replies


def _is_loss(error: Exception) -> bool:
    return isinstance(error, LOSSES)
