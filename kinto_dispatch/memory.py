"""What a channel keeps between its deliveries: notes that may be forgotten at any time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Protocol, TypeVar

from kinto_dispatch.errors import DispatchError


logger = logging.getLogger(__name__)

KEPT_SECONDS = 7 * 86400.0
"""How long a note is kept after it was remembered last, at most."""

LONGEST_VALUE = 2000
"""Characters. A note is the name of something, not the thing."""

ANSWER_SECONDS = 1.0
"""What a delivery waits for a note, at most."""

T = TypeVar("T")


class Notes(Protocol):
    """Where notes are kept: the queue, or in a test a dictionary. ``name`` is short and plain.
    Raises ``DispatchError`` where it cannot be asked."""

    async def recall(self, lane: str, name: str) -> bytes | None:
        """What was remembered last under this name, if it is still known."""

    async def remember(self, lane: str, name: str, value: bytes, seconds: float) -> None:
        """Keep this for so long, in place of what was there."""


class Memory:
    """The notes of one channel, best effort; without ``notes`` it knows nothing.

    ``loop`` is the only event loop on which ``notes`` can be asked; on another one nothing is
    known either.
    """

    def __init__(
        self,
        lane: str,
        notes: Notes | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._lane = lane
        self._notes = notes
        self._loop = loop

    async def recall(self, key: str) -> str | None:
        """What was remembered under this key; ``None`` where it is not known, for whatever
        reason. Takes at most ``ANSWER_SECONDS``."""
        name = _name(key)

        async def look(notes: Notes) -> str | None:
            found = await notes.recall(self._lane, name)
            return None if found is None else found.decode("utf-8", "surrogatepass")

        return await self._ask(look)

    async def remember(self, key: str, value: str) -> None:
        """Keep this under this key, if possible. Takes at most ``ANSWER_SECONDS``. Raises
        ``ValueError`` where the value is longer than ``LONGEST_VALUE``."""
        if len(value) > LONGEST_VALUE:
            raise ValueError(
                f"A note may have {LONGEST_VALUE:,} characters, this one has {len(value):,}: "
                "remember a name or an address of it."
            )
        name, text = _name(key), value.encode("utf-8", "surrogatepass")
        await self._ask(lambda notes: notes.remember(self._lane, name, text, KEPT_SECONDS))

    async def _ask(self, question: Callable[[Notes], Awaitable[T]]) -> T | None:
        if self._notes is None or self._loop not in (None, asyncio.get_running_loop()):
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await question(self._notes)
        except (DispatchError, TimeoutError, UnicodeDecodeError) as error:
            # Who holds the lane says what is wrong with the queue; a note is not worth it.
            logger.debug("memory.unknown channel=%s: %s", self._lane, error)
            return None


def _name(key: str) -> str:
    """Keys are of any length and hold anything, names are short and plain."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
