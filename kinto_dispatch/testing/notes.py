"""A channel's memory without a queue."""

from __future__ import annotations


class LocalNotes:
    """Keeps what channels remember in this process, for as long as it is there."""

    def __init__(self) -> None:
        self._notes: dict[tuple[str, str], bytes] = {}

    async def recall(self, lane: str, name: str) -> bytes | None:
        """What was remembered last under this name."""
        return self._notes.get((lane, name))

    async def remember(self, lane: str, name: str, value: bytes, seconds: float) -> None:
        """Keep it; a test is over before ``seconds`` are."""
        self._notes[lane, name] = value
