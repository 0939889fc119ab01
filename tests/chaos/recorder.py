"""The channel of the chaos runs: a destination that notes on disk what it accepted.

It is on disk before the hook returns, so what is noted was delivered, whatever dies next.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import zlib
from typing import Any

from pydantic import BaseModel

from kinto_dispatch import Delivered, Delivery, Event, Outcome, Rejected, Retry, hookimpl


AFTERTHOUGHT_SECONDS = 0.03


class Recorder:
    """A destination that takes ``delay_seconds`` until it has a delivery, and then says so.

    It turns away every ``retry_every``th delivery on its first attempt and a third of those on the
    second, and every ``reject_every``th for good: by the key alone, so that a repeat meets the
    same answer.
    """

    class Settings(BaseModel):
        """Nothing is rejected or retried where the number is 0."""

        path: str
        delay_seconds: float = 0.0
        retry_every: int = 0
        reject_every: int = 0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Asked now: a child on quarantine may outlive its worker.
        self._parent = os.getppid()

    @hookimpl
    async def on_event_async(self, event: Event, channel: Any, delivery: Delivery) -> Outcome:
        """Note it, then answer."""
        began = time.monotonic()
        await asyncio.sleep(self._settings.delay_seconds)
        outcome, answer = self._answer(delivery)
        await _book(self._settings.path).write(
            {
                "began": began,
                "at": time.monotonic(),
                "pid": os.getpid(),
                "parent": self._parent,
                "channel": channel.name,
                "key": delivery.key,
                "attempt": delivery.attempt,
                "outcome": outcome,
                "event": event.id,
                "ops": [op_of(change) for change in event.changes],
            }
        )
        return answer

    def _is_early(self, number: int, attempt: int) -> bool:
        """A third has to come a third time. Were it all of them, the second attempts that come
        together after a re-feed would look like a destination that is down."""
        return attempt == 1 or (attempt == 2 and number % 3 == 0)

    def _answer(self, delivery: Delivery) -> tuple[str, Outcome]:
        number = zlib.crc32(delivery.key.encode())
        if self._settings.reject_every and number % self._settings.reject_every == 0:
            return "rejected", Rejected("refused by the receiver")
        every = self._settings.retry_every
        if every and number % every == 1 and self._is_early(number // every, delivery.attempt):
            return "retry", Retry("not now")
        return "delivered", Delivered()


class Afterthought:
    """A sync channel that keeps the client waiting after its write has been committed."""

    @hookimpl
    def on_event(self, event: Event) -> None:
        """Take a moment."""
        time.sleep(AFTERTHOUGHT_SECONDS)


def op_of(change: Any) -> str:
    """The operation that a change came from: the client writes its name into the record."""
    return f"delete-{change.object_id}" if change.new is None else str(change.new["op"])


class Book:
    """Lines appended to one file by any number of processes; each is on disk when ``write``
    returns. What comes while a batch is on its way to the disk goes with the next."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lines: list[str] = []
        self._written: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def write(self, line: dict[str, Any]) -> None:
        """Append one line and wait until it is on disk."""
        self._lines.append(json.dumps(line))
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        written = self._written
        if self._writing is None:
            self._writing = asyncio.create_task(self._drain())
        await asyncio.shield(written)

    async def _drain(self) -> None:
        while self._lines:
            lines, self._lines = self._lines, []
            written, self._written = self._written, None
            assert written is not None
            try:
                await asyncio.to_thread(self._append, lines)
            except OSError as error:
                written.set_exception(error)
            else:
                written.set_result(None)
        self._writing = None

    def _append(self, lines: list[str]) -> None:
        # A break before and after: what a kill cuts off spoils no other line.
        os.write(self._file, ("\n" + "\n".join(lines) + "\n").encode())
        os.fsync(self._file)


_books: dict[str, Book] = {}


def _book(path: str) -> Book:
    """One for all channels of a process, so that they share the fsync."""
    if path not in _books:
        _books[path] = Book(path)
    return _books[path]
