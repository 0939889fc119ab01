"""How entries stand in the streams: from our values to fields, and back from whatever is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinto_dispatch.queue.values import (
    START_OF_LOG,
    Claim,
    DeadEntry,
    DeadKind,
    DeadLetter,
    Entry,
    LogEntry,
)


LANE_FIELDS = [b"key", b"body", b"attempt", b"flags"]
DEAD_KINDS: tuple[DeadKind, ...] = ("refused", "failed", "poison")

Fields = Sequence[bytes]
"""Names and values by turns."""

Raw = tuple[bytes, Fields]
"""An entry as the server returns it: its id and its fields."""


def position(entry_id: str) -> tuple[int, int]:
    """An id as numbers, since ``10-0`` comes after ``9-0``: milliseconds and a sequence."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def lane_words(entry: Entry) -> tuple[Any, ...]:
    """The values of an entry's fields, in the order of ``LANE_FIELDS``."""
    return entry.key, entry.body, entry.attempt, "replay" if entry.replay else ""


def dead_words(entry: DeadEntry) -> tuple[Any, ...]:
    """What ``route.lua`` wants to know of a delivery that never ran."""
    return entry.key, entry.body, entry.kind, spelled_out(entry.reason)


def spelled_out(text: str) -> str:
    """A text of others with its lone surrogates, which JSON allows and UTF-8 does not, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_claim(
    lane: str,
    raw: Raw,
    consumer: str,
    token: int,
    strikes: int | None = None,
) -> Claim:
    """A claim on whatever stands in the lane: what cannot be read becomes an empty key, an empty
    body or a first attempt, which can be settled like any other. ``strikes`` are given for what
    was held by a dead worker."""
    entry_id, fields = raw
    if fields[::2] == LANE_FIELDS:
        key, body, attempt, flags = fields[1::2]
    else:
        found = dict(zip(fields[::2], fields[1::2], strict=False))
        key, body, attempt, flags = (found.get(name, b"") for name in LANE_FIELDS)
    suspect = strikes is not None or b"suspect" in flags
    return Claim(
        lane,
        entry_id.decode(),
        consumer,
        token,
        key.decode("utf-8", "replace"),
        body,
        _number(attempt, 1),
        b"replay" in flags,
        suspect,
        strikes or 0,
        _skipped(flags) if flags else 0,
    )


def to_letter(lane: str, raw: Raw) -> DeadLetter:
    """A dead letter, whatever stands there."""
    entry_id, fields = raw[0].decode(), raw[1]
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    kind = _text(found, b"kind")
    return DeadLetter(
        id=entry_id,
        lane=lane,
        key=_text(found, b"key"),
        kind=kind if kind in DEAD_KINDS else "failed",
        reason=_text(found, b"reason"),
        attempts=_number(found.get(b"attempts", b""), 0),
        at_ms=_number(found.get(b"at", b""), position(entry_id)[0]),
        body=found.get(b"body", b""),
    )


def to_log_entry(raw: Raw) -> LogEntry:
    """An event in the log; an empty body where there is none."""
    entry_id, fields = raw
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    return LogEntry(entry_id.decode(), found.get(b"body", b""))


def to_records(raw: Raw) -> Sequence[tuple[str, bytes]]:
    """The attempt records of one settling, each with its position."""
    entry_id, fields = raw[0].decode(), raw[1]
    return [(f"{entry_id}:{number}", record) for number, record in enumerate(fields[1::2])]


def records_after(
    entries: Sequence[Raw], after: str
) -> tuple[Sequence[tuple[str, bytes]], str | None]:
    """The records behind a position in a page of entries, and the id of the last entry."""
    last = entries[-1][0].decode() if entries else None
    start = _record_position(after)
    records = [
        record
        for raw in entries
        for record in to_records(raw)
        if _record_position(record[0]) > start
    ]
    return records, last


def first_entry_of(after: str) -> str:
    """From which entry the records behind a position have to be read."""
    entry_id, _, number = after.partition(":")
    return entry_id if number else f"({entry_id}"


def _record_position(text: str) -> tuple[int, int, int]:
    """As a position sorts. A bare id stands behind all records of its entry."""
    entry_id, _, number = text.partition(":")
    if entry_id == START_OF_LOG:
        return 0, 0, 0
    return *position(entry_id), int(number) if number else 1 << 62


def _skipped(flags: bytes) -> int:
    for word in flags.split():
        name, _, value = word.partition(b"=")
        if name == b"skipped":
            return _number(value, 0)
    return 0


def _number(value: bytes, default: int) -> int:
    return int(value) if value.isdigit() and len(value) < 19 else default


def _text(found: dict[bytes, bytes], name: bytes) -> str:
    return found.get(name, b"").decode("utf-8", "replace")
