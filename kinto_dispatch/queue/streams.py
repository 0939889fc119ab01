"""``Queue`` on Redis Streams: claims, pending lists and idle times are the server's own."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import redis

from kinto_dispatch.queue.client import async_client, script, translated
from kinto_dispatch.queue.health import inspect
from kinto_dispatch.queue.keys import GROUP, LaneKeys, LogKeys
from kinto_dispatch.queue.log import WINDOW_EVENTS, WINDOW_MS, chunks
from kinto_dispatch.queue.protocol import (
    START_OF_LOG,
    Claim,
    Dead,
    DeadEntry,
    DeadLetter,
    Done,
    Entry,
    LaneStatus,
    Later,
    LogEntry,
    QueueHealth,
    Settlement,
)


logger = logging.getLogger(__name__)


class StreamsQueue:
    """``Queue`` for one event loop. Finds its server when first used."""

    def __init__(
        self,
        url: Callable[[], str],
        prefix: str,
        lanes: Sequence[str] = (),
        timeout_seconds: float = 5.0,
    ) -> None:
        self._find_url = url
        self._prefix = prefix
        self._log = LogKeys(prefix)
        self._registered = list(lanes)
        self._timeout_seconds = timeout_seconds
        self._keys: dict[str, LaneKeys] = {}
        self._client: Any = None
        self._blocking: Any = None
        self._url = ""
        self._lost = True
        self._shas: dict[str, str] = {}
        self._connecting = asyncio.Lock()
        self._starts: dict[str, str] = {}

    # --- the log -------------------------------------------------------------------------

    async def register(self, lanes: Sequence[str]) -> None:
        self._registered = list(dict.fromkeys([*self._registered, *lanes]))
        if self._registered:
            keys = [self._log.stream, self._log.lanes]
            starts = await self._run("register", keys, self._registered)
            self._starts = {
                lane: start.decode() for lane, start in zip(self._registered, starts, strict=True)
            }

    async def append(
        self,
        events: Sequence[tuple[str, bytes]],
        mark: str | None = None,
        after: str | None = None,
    ) -> bool:
        keys = [self._log.stream, self._log.seen, self._log.mark, self._log.lanes]
        parts = chunks(events)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            bound = [1, mark, after or ""] if mark is not None and last else [0, "", ""]
            arguments = [WINDOW_MS, WINDOW_EVENTS, *bound]
            arguments += [piece for event in part for piece in event]
            answer = await self._run("append", keys, arguments)
            if answer == 0:
                await self.register(())
                answer = await self._run("append", keys, arguments)
            if answer != 1:
                return False
        return True

    async def mark(self) -> tuple[str, str | None]:
        await self._connected()
        with translated(self._url, self._forget):
            server = await self._client.info("server")
            mark = await self._client.get(self._log.mark)
        return server["run_id"], mark.decode() if mark else None

    async def read_log(
        self, after: str, count: int, block_seconds: float = 0.0
    ) -> Sequence[LogEntry]:
        await self._connected()
        client = self._blocking if block_seconds else self._client
        block = max(1, int(block_seconds * 1000)) if block_seconds else None
        with translated(self._url, self._forget):
            answer = await client.xread({self._log.stream: after}, count=count, block=block)
        return [
            LogEntry(entry_id.decode(), fields.get(b"b", b""))
            for _, entries in answer or ()
            for entry_id, fields in entries
        ]

    async def trim_log(self, before_ms: int, keep_from: str, max_bytes: int) -> int:
        await self._connected()
        oldest = min(f"{before_ms}-0", keep_from, key=_position)
        with translated(self._url, self._forget):
            used = await self._client.memory_usage(self._log.stream, samples=50) or 0
            if used > max_bytes:
                oldest = keep_from
            trimmed: int = await self._client.xtrim(
                self._log.stream, minid=oldest, approximate=False
            )
        return trimmed

    # --- the lanes -----------------------------------------------------------------------

    async def cursors(self, lanes: Sequence[str]) -> Mapping[str, str]:
        await self._connected()
        with translated(self._url, self._forget):
            async with self._client.pipeline(transaction=False) as pipe:
                for lane in lanes:
                    pipe.get(self._lane(lane).cursor)
                found = await pipe.execute()
        cursors = {
            lane: cursor.decode() for lane, cursor in zip(lanes, found, strict=True) if cursor
        }
        if len(cursors) < len(lanes):
            await self.register(lanes)
        return {lane: cursors.get(lane) or self._starts[lane] for lane in lanes}

    async def route(
        self, lane: str, after: str, upto: str, entries: Sequence[Entry], dead: Sequence[DeadEntry]
    ) -> str:
        keys = self._lane(lane)
        initial = int(after == self._starts.get(lane))
        arguments: list[Any] = [after, upto, initial, len(entries)]
        for entry in entries:
            arguments += [entry.key, entry.body, entry.attempt, int(entry.replay)]
        for letter in dead:
            arguments += [letter.key, letter.body, letter.kind, letter.reason]
        cursor = await self._run("route", [keys.cursor, keys.stream, keys.dead], arguments)
        return str(cursor.decode())

    async def fetch(
        self, lane: str, consumer: str, count: int, block_seconds: float
    ) -> Sequence[Claim]:
        await self._connected()
        keys = self._lane(lane)
        with translated(self._url, self._forget):
            if await self._client.exists(keys.paused):
                await asyncio.sleep(block_seconds)
                return []
            answer = await self._read_group(keys.stream, consumer, count, block_seconds)
        return [
            _claim(lane, entry_id, consumer, 1, fields)
            for _, entries in answer or ()
            for entry_id, fields in entries
        ]

    async def _read_group(
        self, stream: str, consumer: str, count: int, block_seconds: float
    ) -> Any:
        command = ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count)
        block = ("BLOCK", max(1, int(block_seconds * 1000)))
        try:
            return await self._blocking.execute_command(*command, *block, "STREAMS", stream, ">")
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        await self._make_group(stream)
        return []

    async def _make_group(self, stream: str) -> None:
        try:
            await self._client.xgroup_create(stream, GROUP, "0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def renew(self, lane: str, claims: Sequence[Claim]) -> Sequence[Claim]:
        if not claims:
            return []
        lost = await self._run("renew", [self._lane(lane).stream], [GROUP, *_fences(claims)])
        return [claims[position] for position in lost]

    async def reclaim(
        self, lane: str, consumer: str, lease_seconds: float, count: int
    ) -> Sequence[Claim]:
        keys = self._lane(lane)
        arguments = [GROUP, consumer, int(lease_seconds * 1000), count]
        try:
            taken = await self._run("reclaim", [keys.stream, keys.strikes], arguments)
        except NoGroup:
            return []
        return [
            _claim(lane, entry_id, consumer, token, _pairs(fields), True, int(strikes))
            for entry_id, token, strikes, fields in taken
        ]

    async def settle(self, lane: str, settlements: Sequence[Settlement]) -> Sequence[bool]:
        if not settlements:
            return []
        keys = self._lane(lane)
        packed = _pack([_packable(settlement) for settlement in settlements])
        names = [keys.stream, keys.due, keys.held, keys.dead, keys.attempts, keys.strikes]
        try:
            return [bool(counts) for counts in await self._run("settle", names, [GROUP, packed])]
        except NoGroup:
            return [False] * len(settlements)

    async def release(self, lane: str, claims: Sequence[Claim]) -> None:
        if claims:
            await self._run("release", [self._lane(lane).stream], [GROUP, *_fences(claims)])

    async def promote(self, lane: str, count: int) -> tuple[int, float | None]:
        keys = self._lane(lane)
        moved, wait = await self._run("promote", [keys.due, keys.held, keys.stream], [count])
        return moved, None if wait < 0 else wait / 1000

    async def strike(self, lane: str, claim: Claim) -> int:
        await self._connected()
        with translated(self._url, self._forget):
            strikes: int = await self._client.hincrby(self._lane(lane).strikes, claim.id, 1)
        return strikes - 1

    # --- operators -----------------------------------------------------------------------

    async def beat(self, worker: str, info: Mapping[str, Any], ttl_seconds: float) -> None:
        await self._connected()
        until = time.time() + ttl_seconds
        with translated(self._url, self._forget):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hset(self._workers("living"), worker, json.dumps({**info, "until": until}))
                pipe.set(self._workers("seen"), "1")
                await pipe.execute()

    async def retire(self, worker: str, lanes: Sequence[str], consumers: Sequence[str]) -> None:
        await self._connected()
        with translated(self._url, self._forget):
            await self._client.hdel(self._workers("living"), worker)
        for lane in lanes:
            for consumer in consumers:
                await self._run("retire", [self._lane(lane).stream], [GROUP, consumer])

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        await self._connected()
        with translated(self._url, self._forget):
            found = await self._client.hgetall(self._workers("living"))
        described = {name: json.loads(info) for name, info in found.items()}
        now = time.time()
        return [info for info in described.values() if info["until"] > now]

    async def status(self, lanes: Sequence[str]) -> Sequence[LaneStatus]:
        cursors = await self.cursors(lanes) if lanes else {}
        return [await self._status(lane, cursors[lane]) for lane in lanes]

    async def _status(self, lane: str, cursor: str) -> LaneStatus:
        keys = self._lane(lane)
        with translated(self._url, self._forget):
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.xlen(keys.stream)
                pipe.zcard(keys.due)
                pipe.xlen(keys.dead)
                pipe.exists(keys.paused)
                pipe.get(keys.breaker)
                pipe.time()
                length, retry, dead, paused, breaker, now = await pipe.execute()
            in_flight, delivered = await self._pending(keys.stream)
            after = await self._client.xrange(keys.stream, f"({delivered}", "+", count=1)
            if not after:
                after = await self._client.xrange(self._log.stream, f"({cursor}", "+", count=1)
        oldest = None
        if after:
            oldest = max(0.0, now[0] + now[1] / 1e6 - _position(after[0][0].decode())[0] / 1000)
        state = breaker.decode() if breaker else "closed"
        waiting = max(0, length - in_flight)
        return LaneStatus(
            lane, waiting, in_flight, retry, dead, oldest, bool(paused), state, cursor
        )

    async def _pending(self, stream: str) -> tuple[int, str]:
        try:
            groups = await self._client.xinfo_groups(stream)
        except redis.ResponseError:
            return 0, START_OF_LOG
        for group in groups:
            if group["name"] == GROUP.encode():
                return group["pending"], group["last-delivered-id"].decode()
        return 0, START_OF_LOG

    async def dead_letters(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[DeadLetter]:
        await self._connected()
        with translated(self._url, self._forget):
            found = await self._client.xrange(self._lane(lane).dead, f"({after}", "+", count=count)
        return [_letter(lane, entry_id.decode(), fields) for entry_id, fields in found]

    async def replay_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        keys = self._lane(lane)
        ids = [letter.id for letter in letters]
        moved: int = await self._run("replay_dead", [keys.dead, keys.stream], ids)
        return moved

    async def purge_dead(self, lane: str, letters: Sequence[DeadLetter]) -> int:
        await self._connected()
        if not letters:
            return 0
        with translated(self._url, self._forget):
            purged: int = await self._client.xdel(
                self._lane(lane).dead, *(letter.id for letter in letters)
            )
        return purged

    async def enqueue(self, lane: str, entries: Sequence[Entry]) -> None:
        await self._connected()
        with translated(self._url, self._forget):
            async with self._client.pipeline(transaction=False) as pipe:
                for entry in entries:
                    fields = {"k": entry.key, "b": entry.body, "n": entry.attempt}
                    pipe.xadd(self._lane(lane).stream, {**fields, "r": int(entry.replay)})
                await pipe.execute()

    async def attempts(
        self, lane: str, after: str = START_OF_LOG, count: int = 1000
    ) -> Sequence[tuple[str, bytes]]:
        await self._connected()
        start = after.partition(":")[0]
        with translated(self._url, self._forget):
            found = await self._client.xrange(
                self._lane(lane).attempts, f"({start}", "+", count=count
            )
        return [
            (f"{entry_id.decode()}:{number}", json.dumps(record).encode())
            for entry_id, fields in found
            for number, record in enumerate(json.loads(fields[b"r"]))
        ]

    async def pause(self, lane: str, paused: bool) -> None:
        await self._connected()
        key = self._lane(lane).paused
        with translated(self._url, self._forget):
            await (self._client.set(key, "1") if paused else self._client.delete(key))

    async def prune(self, lane: str, attempts_before_ms: int, dead_before_ms: int) -> int:
        await self._connected()
        keys = self._lane(lane)
        with translated(self._url, self._forget):
            attempts: int = await self._client.xtrim(keys.attempts, minid=attempts_before_ms)
            dead: int = await self._client.xtrim(keys.dead, minid=dead_before_ms)
        return attempts + dead

    async def health(self) -> QueueHealth:
        await self._connected()
        with translated(self._url, self._forget):
            return inspect(await self._client.info())

    async def close(self) -> None:
        for client in (self._client, self._blocking):
            if client is not None:
                await client.aclose()

    # --- the server ----------------------------------------------------------------------

    def _lane(self, lane: str) -> LaneKeys:
        if lane not in self._keys:
            self._keys[lane] = LaneKeys(self._prefix, lane)
        return self._keys[lane]

    def _workers(self, name: str) -> str:
        return f"{self._prefix}:{{workers}}:{name}"

    async def _connected(self) -> None:
        if not self._lost:
            return
        async with self._connecting:
            if self._lost:
                url = await asyncio.to_thread(self._find_url)
                if url != self._url:
                    self._blocking = async_client(url, None)
                    self._client = async_client(url, self._timeout_seconds)
                    self._url = url
                self._lost = False

    def _forget(self) -> None:
        """Look for the server again before the next call: an embedded one has to be started."""
        self._lost = True

    async def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script by its digest, sending its text where the server does not know it."""
        await self._connected()
        with translated(self._url, self._forget):
            try:
                return await self._evaluate(name, keys, arguments)
            except redis.ResponseError as error:
                if "NOGROUP" in str(error):
                    raise NoGroup from error
                raise

    async def _evaluate(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        parts = (len(keys), *keys, *arguments)
        if name not in self._shas:
            self._shas[name] = await self._client.script_load(script(name))
        try:
            return await self._client.execute_command("EVALSHA", self._shas[name], *parts)
        except redis.exceptions.NoScriptError:
            return await self._client.execute_command("EVAL", script(name), *parts)


class NoGroup(Exception):
    """Raised when the lane has no consumer group: nobody ever fetched, or the server forgot."""


def _claim(
    lane: str,
    entry_id: bytes,
    consumer: str,
    token: int,
    fields: Mapping[bytes, bytes],
    suspect: bool = False,
    strikes: int = 0,
) -> Claim:
    """Whatever stands in the lane becomes a claim; what makes no sense fails when it is run."""
    attempt = fields.get(b"n", b"1")
    return Claim(
        lane,
        entry_id.decode(),
        consumer,
        token,
        fields.get(b"k", b"").decode(errors="replace"),
        fields.get(b"b", b""),
        int(attempt) if attempt.isdigit() else 1,
        fields.get(b"r") == b"1",
        suspect,
        strikes,
    )


def _letter(lane: str, entry_id: str, fields: Mapping[bytes, bytes]) -> DeadLetter:
    kind: Any = fields.get(b"d", b"failed").decode()
    return DeadLetter(
        entry_id,
        lane,
        fields.get(b"k", b"").decode(errors="replace"),
        kind,
        fields.get(b"w", b"").decode(errors="replace"),
        int(fields.get(b"n", b"0")),
        _position(entry_id)[0],
        fields.get(b"b", b""),
    )


def _packable(settlement: Settlement) -> tuple[Any, ...]:
    """A settlement as ``settle.lua`` reads it: text only, its unpacker knows no binary."""
    claim, record = settlement.claim, settlement.record.decode()
    fence = (claim.id, claim.consumer, claim.token)
    match settlement.fate:
        case Done():
            return *fence, "done", "", "", record
        case Later(delay_seconds, attempt):
            return *fence, "later", int(delay_seconds * 1000), attempt, record
        case Dead(kind, reason):
            return *fence, "dead", kind, reason.encode(errors="replace").decode(), record


_pack = msgspec.msgpack.Encoder().encode


def _fences(claims: Sequence[Claim]) -> list[Any]:
    return [part for claim in claims for part in (claim.id, claim.consumer, claim.token)]


def _pairs(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
