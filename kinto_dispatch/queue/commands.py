"""What is asked of the server, as commands and calls of scripts: pure, for both kinds of wire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from kinto_dispatch.limit import RateLimit
from kinto_dispatch.queue.entries import LANE_FIELDS, dead_words, lane_words, spelled_out
from kinto_dispatch.queue.keys import GROUP, LaneKeys, LogKeys, WorkerKeys
from kinto_dispatch.queue.scripting import Command, Evaluation, script
from kinto_dispatch.queue.values import (
    Claim,
    Dead,
    DeadEntry,
    Digesting,
    Done,
    Entry,
    LaneStatus,
    Later,
    Settlement,
)


WINDOW_MS = 600_000
"""How long an event id is remembered: longer than any append is repeated."""

WINDOW_EVENTS = 200_000
"""How many ids are remembered at most; some 30 MB."""

CHUNK = 1_000
CHUNK_BYTES = 8_000_000
"""What one call may carry, so that it holds the server up for some milliseconds only."""

READ_BYTES = 16_000_000
"""How much of the log is read at once, if it is more than one event. Routing it is one call, too,
which a server refuses above a million arguments: four for each change, where changes are split."""

CLAIM_BYTES = 8_000_000
"""How much is claimed at once, about: a claim more than that is enough. Several lanes may do so at
the same time, and a slow way has five seconds for it."""

LONGEST_DELAY_SECONDS = 10 * 365 * 86_400.0

_pack = msgspec.msgpack.Encoder().encode


# --- the log -----------------------------------------------------------------------------


def chunks(events: Sequence[tuple[str, bytes]]) -> Sequence[Sequence[tuple[str, bytes]]]:
    """Events in order, in parts that one call can carry; an event is never divided."""
    parts: list[list[tuple[str, bytes]]] = [[]]
    size = 0
    for event in events:
        if parts[-1] and (len(parts[-1]) >= CHUNK or size + len(event[1]) > CHUNK_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(event)
        size += len(event[1])
    return parts if parts[0] else []


def register(keys: LogKeys, lanes: Sequence[str]) -> Evaluation:
    return Evaluation(script("register"), (keys.stream, keys.lanes), lanes)


def append(
    keys: LogKeys,
    lanes: Sequence[str],
    events: Sequence[tuple[str, bytes]],
    bound: Sequence[str] = ("", "", ""),
) -> Evaluation:
    """``bound`` as ``bound_to`` has it."""
    head = (WINDOW_MS, WINDOW_EVENTS, len(lanes), *lanes, *bound)
    return Evaluation(
        script("append"),
        (keys.stream, keys.seen, keys.mark, keys.lanes),
        (*head, *chain.from_iterable(events)),
    )


def forget_ids(keys: LogKeys) -> Evaluation:
    return Evaluation(script("forget_ids"), (keys.seen,), (WINDOW_MS,))


def bound_to(mark: str | None, after: str | None) -> Sequence[str]:
    """How an append is bound to marks, for ``append.lua``."""
    if mark is None:
        return ("", "", "")
    return ("none" if after is None else "at", after or "", mark)


def read_log(keys: LogKeys, after: str, count: int) -> Evaluation:
    return read_stream(keys.stream, after, count)


def read_stream(stream: str, after: str, count: int) -> Evaluation:
    return Evaluation(script("read_log"), (stream,), (after, count, READ_BYTES))


def wait_for_log(keys: LogKeys, after: str, count: int, block_seconds: float) -> Command:
    """To be asked where ``read_log`` found nothing: what comes is what one append brings."""
    return ("XREAD", "COUNT", count, *_block(block_seconds), "STREAMS", keys.stream, after)


# --- the lanes ---------------------------------------------------------------------------


def start(keys: LaneKeys, at: str | bytes) -> Evaluation:
    return Evaluation(script("start"), (keys.cursor, keys.stream), (at,))


def route(
    keys: LaneKeys,
    after: str,
    upto: str,
    entries: Sequence[Entry],
    dead: Sequence[DeadEntry],
    digesting: Digesting | None = None,
    squeeze: bool = False,
) -> Evaluation:
    digests = _digests(entries, digesting) if digesting else b""
    arguments: list[Any] = [after, upto, int(squeeze), digests, len(entries)]
    for entry in entries:
        arguments += lane_words(entry)
    for letter in dead:
        arguments += dead_words(letter)
    touched = (keys.cursor, keys.stream, keys.dead, keys.due, keys.attempts, *keys.digests)
    return Evaluation(script("route"), touched, arguments)


def _digests(entries: Sequence[Entry], digesting: Digesting) -> bytes:
    names = [spelled_out(entry.digest) if entry.digest else False for entry in entries]
    return _pack((_milliseconds(digesting.seconds), digesting.only_latest, names))


def enqueue(keys: LaneKeys, entry: Entry) -> Command:
    fields = chain.from_iterable(zip(LANE_FIELDS, lane_words(entry), strict=True))
    return ("XADD", keys.stream, "*", *fields)


def fetch(keys: LaneKeys, consumer: str, count: int, block_seconds: float) -> Command:
    how = ("GROUP", GROUP, consumer, "COUNT", count, *_block(block_seconds))
    return ("XREADGROUP", *how, "STREAMS", keys.stream, ">")


def held_back(keys: LaneKeys) -> Command:
    return ("MGET", keys.paused, keys.breaker)


def is_held_back(answer: Sequence[bytes | None]) -> bool:
    """Whether nobody shall fetch from the lane: it is paused, or its breaker is not closed."""
    paused, breaker = answer
    return paused is not None or not (breaker or b"closed").startswith(b"closed")


def claim(
    keys: LaneKeys, consumer: str, count: int, limit: RateLimit | None, probe: bool
) -> Evaluation:
    return Evaluation(
        script("claim"),
        (keys.stream, keys.paused, keys.breaker, keys.limit),
        (GROUP, consumer, count, *_allowed(limit, probe), CLAIM_BYTES),
    )


def wait_for_lane(keys: LaneKeys, after: str, block_seconds: float) -> Command:
    """Until something was added behind ``after``, without claiming it."""
    return ("XREAD", "COUNT", 1, *_block(block_seconds), "STREAMS", keys.stream, after)


def _allowed(limit: RateLimit | None, probe: bool) -> Sequence[str | int]:
    """What a claim is allowed, as ``shared.lua`` reads it."""
    if limit is None:
        return (int(probe), 0, 0)
    return (int(probe), repr(limit.interval_seconds * 1_000_000), limit.burst)


def make_group(keys: LaneKeys) -> Evaluation:
    return Evaluation(script("make_group"), (keys.stream,), (GROUP,))


def renew(keys: LaneKeys, claims: Sequence[Claim]) -> Evaluation:
    fences = _pack([(claim.id, claim.consumer, claim.token) for claim in claims])
    return Evaluation(script("renew"), (keys.stream,), (GROUP, fences))


def reclaim(
    keys: LaneKeys,
    consumer: str,
    lease_seconds: float,
    count: int,
    limit: RateLimit | None = None,
    probe: bool = False,
) -> Evaluation:
    lease_ms = math.ceil(lease_seconds * 1000)
    return Evaluation(
        script("reclaim"),
        (
            *(keys.stream, keys.strikes, keys.paused, keys.breaker, keys.limit),
            *(keys.attempts, *keys.digests),
        ),
        (GROUP, consumer, lease_ms, count, *_allowed(limit, probe), CLAIM_BYTES),
    )


def settle(keys: LaneKeys, settlements: Sequence[Settlement]) -> Evaluation:
    fates = _pack([_fate(settlement) for settlement in settlements])
    records = [settlement.record for settlement in settlements]
    return Evaluation(
        script("settle"),
        (
            *(keys.stream, keys.due, keys.held, keys.dead, keys.attempts, keys.strikes),
            *(keys.breaker, *keys.digests),
        ),
        (GROUP, fates, *records),
    )


def _fate(settlement: Settlement) -> str | tuple[str | int, ...]:
    """A settlement as ``settle.lua`` reads it."""
    claim = settlement.claim
    fate: tuple[str | int, ...]
    match settlement.fate:
        case Done():
            return claim.id
        case Later(delay_seconds, attempt, suspect):
            fate = ("later", _milliseconds(delay_seconds), attempt, suspect)
        case Dead(kind, reason, answered):
            fate = ("dead", kind, spelled_out(reason), claim.attempt, bool(answered))
    return claim.id, claim.consumer, claim.token, *fate


def release(keys: LaneKeys, claims: Sequence[Claim]) -> Evaluation:
    fences = [(claim.id, claim.consumer, claim.token, claim.suspect) for claim in claims]
    touched = (keys.stream, keys.strikes, keys.attempts, *keys.digests)
    return Evaluation(script("release"), touched, (GROUP, _pack(fences)))


def strike(keys: LaneKeys, claim: Claim) -> Evaluation:
    fence = (GROUP, claim.id, claim.consumer, claim.token)
    return Evaluation(script("strike"), (keys.stream, keys.strikes), (*fence, claim.strikes))


def promote(keys: LaneKeys, count: int, upto: int | None = None, at_least: int = 0) -> Evaluation:
    most = -1 if upto is None else upto
    arguments = (GROUP, count, most, at_least)
    touched = (keys.due, keys.held, keys.stream, keys.attempts, keys.dead, *keys.digests)
    return Evaluation(script("promote"), touched, arguments)


def move_breaker(keys: LaneKeys, before: str, after: str) -> Evaluation:
    return Evaluation(script("move_breaker"), (keys.breaker,), (before, after))


# --- operators ---------------------------------------------------------------------------


def beat(keys: WorkerKeys, worker: str, info: Mapping[str, Any], ttl_seconds: float) -> Evaluation:
    return Evaluation(
        script("beat"),
        (keys.until, keys.info, keys.seen),
        (worker, msgspec.json.encode(info), math.ceil(ttl_seconds * 1000)),
    )


def list_workers(keys: WorkerKeys) -> Evaluation:
    return Evaluation(script("list_workers"), (keys.until, keys.info))


def retire(keys: LaneKeys, consumers: Sequence[str]) -> Evaluation:
    return Evaluation(script("retire"), (keys.stream,), (GROUP, *consumers))


def look(keys: LaneKeys) -> Evaluation:
    return Evaluation(
        script("look"),
        (
            *(keys.stream, keys.due, keys.dead, keys.paused, keys.breaker, keys.cursor),
            keys.collecting,
        ),
        (GROUP,),
    )


def look_behind(keys: LogKeys, lanes: Sequence[str], looks: Sequence[Sequence[Any]]) -> Evaluation:
    """To be asked with the answers to ``look``."""
    cursors = (look[7] for look in looks)
    arguments = tuple(chain.from_iterable(zip(lanes, cursors, strict=True)))
    return Evaluation(script("look_behind"), (keys.stream, keys.lanes), arguments)


def to_status(lane: str, look: Sequence[Any], unrouted: bytes) -> LaneStatus:
    """A lane in numbers, from the answers to ``look`` and ``look_behind``."""
    now_ms, length, pending, retry, dead, paused, breaker, cursor, oldest, collecting = look
    times = [int(entry_id.partition(b"-")[0]) for entry_id in (oldest, unrouted) if entry_id]
    return LaneStatus(
        channel=lane,
        waiting=max(0, length - pending),
        in_flight=pending,
        retry=retry,
        dead=dead,
        oldest_waiting_seconds=max(0.0, (now_ms - min(times)) / 1000) if times else None,
        paused=bool(paused),
        breaker=breaker.decode() or "closed",
        cursor=cursor.decode() or None,
        collecting=collecting,
    )


def replay_dead(keys: LaneKeys, ids: Sequence[str]) -> Evaluation:
    return Evaluation(script("replay_dead"), (keys.dead, keys.stream), ids)


def prune(
    keys: LaneKeys, attempts_before_ms: int, dead_before_ms: int, idle_seconds: float
) -> Evaluation:
    before = (max(0, attempts_before_ms), max(0, dead_before_ms))
    return Evaluation(
        script("prune"),
        (keys.attempts, keys.dead, keys.stream, keys.held, *keys.digests),
        (*before, GROUP, int(idle_seconds * 1000)),
    )


def _block(seconds: float) -> Sequence[str | int]:
    """BLOCK 0 would mean for ever."""
    return ("BLOCK", max(1, int(seconds * 1000))) if seconds > 0 else ()


def _milliseconds(delay_seconds: float) -> int:
    return math.ceil(min(max(0.0, delay_seconds), LONGEST_DELAY_SECONDS) * 1000)


def parts(items: Sequence[Any], size: int = CHUNK) -> Iterator[Sequence[Any]]:
    """Items in parts of a size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
