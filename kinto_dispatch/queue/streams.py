"""``Queue`` on Redis Streams: claims, pending lists and idle times are the server's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kinto_dispatch.queue import commands
from kinto_dispatch.queue.connected import Connected
from kinto_dispatch.queue.entries import position, to_log_entry
from kinto_dispatch.queue.health import read_info
from kinto_dispatch.queue.lanes import LanesPart
from kinto_dispatch.queue.notes import NotesPart
from kinto_dispatch.queue.operators import SAMPLES, OperatorsPart
from kinto_dispatch.queue.values import START_OF_LOG, LogEntry


CUTS = 20
LEAST_CUT = 0.05


class LogPart(Connected):
    """The log: append, read, trim."""

    async def register(self, lanes: Sequence[str]) -> None:
        """As ``Queue.register``. Lanes once registered are remembered, and registered again where
        the server has lost its memory."""
        self._registered = tuple(dict.fromkeys([*self._registered, *lanes]))
        if self._registered:
            await self._ask(commands.register(self._log, self._registered))

    async def append(
        self,
        events: Sequence[tuple[str, bytes]],
        mark: str | None = None,
        after: str | None = None,
    ) -> bool:
        """As ``Queue.append``. Without a ``mark`` more than a thousand events, or 8 MB, go in
        several calls, each of them atomic. What a mark stands for goes in one: had the log
        forgotten the first of two calls when the second came, nobody would ever know."""
        chunks = commands.chunks(events) if mark is None else [events]
        for chunk in chunks:
            if not await self._append(chunk, commands.bound_to(mark, after)):
                return False
        return True

    async def _append(self, chunk: Sequence[tuple[str, bytes]], bound: Sequence[str]) -> bool:
        request = commands.append(self._log, self._registered, chunk, bound)
        (outcome, *_) = await self._ask(request)
        while outcome == b"unregistered":
            # A new server, or one that has lost its memory.
            await self.register(())
            (outcome, *_) = await self._ask(request)
        return bool(outcome == b"appended")

    async def mark(self) -> tuple[str, str | None]:
        """As ``Queue.mark``."""
        info, mark = await self._wire.run(("INFO", "server"), ("GET", self._log.mark))
        return read_info(info).get("run_id", ""), mark.decode() if mark is not None else None

    async def note_source(self, outbox: str) -> str | None:
        """As ``Queue.note_source``."""
        before = await self._ask(("GETSET", self._log.source, outbox))
        return before.decode() if before is not None else None

    async def read_log(
        self, after: str, count: int, block_seconds: float = 0.0
    ) -> Sequence[LogEntry]:
        """As ``Queue.read_log``, at most 16 MB or one event."""
        found = await self._ask(commands.read_log(self._log, after, count))
        if not found and block_seconds > 0:
            request = commands.wait_for_log(self._log, after, count, block_seconds)
            (answer,) = await self._wire.run(request, wait_seconds=block_seconds)
            found = answer[0][1] if answer else ()
        return [to_log_entry(raw) for raw in found]

    async def trim_log(self, before_ms: int, keep_from: str, max_bytes: int) -> int:
        """As ``Queue.trim_log``. The size of the log is the server's estimate. Ids that an append
        would not look for any more go as well."""
        oldest = min(f"{max(0, before_ms)}-0", keep_from, key=position)
        trimmed = await self._trim(oldest)
        await self._ask(commands.forget_ids(self._log))
        for _ in range(CUTS):
            used = await self._ask(("MEMORY", "USAGE", self._log.stream, "SAMPLES", SAMPLES)) or 0
            first = await self._ask(("XRANGE", self._log.stream, "-", "+", "COUNT", 1))
            if (
                used <= max_bytes
                or not first
                or position(first[0][0].decode()) >= position(keep_from)
            ):
                break
            # What was appended in a stretch of time is the best guess at what it weighs.
            share = max(LEAST_CUT, (used - max_bytes) / used)
            start, end = position(first[0][0].decode())[0], position(keep_from)[0]
            cut = start + 1 + int((end - start) * share)
            trimmed += await self._trim(min(f"{cut}-0", keep_from, key=position))
        return trimmed

    async def _trim(self, oldest: str) -> int:
        trimmed: int = await self._ask(("XTRIM", self._log.stream, "MINID", "=", oldest))
        return trimmed

    async def registered(self) -> Mapping[str, str]:
        """As ``Queue.registered``."""
        words = [word.decode() for word in await self._ask(("HGETALL", self._log.lanes))]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def cursors(self, lanes: Sequence[str]) -> Mapping[str, str]:
        """As ``Queue.cursors``. A lane never routed gets its cursor here, so that a router can
        only ever move one that stands."""
        found = await self._get_cursors(lanes)
        missing = [lane for lane, cursor in zip(lanes, found, strict=True) if cursor is None]
        if missing:
            await self.register(lanes)
            starts = await self._ask(commands.register(self._log, missing))
            await self._wire.run(
                *(
                    commands.start(self._keys(lane), start)
                    for lane, start in zip(missing, starts, strict=True)
                )
            )
            found = await self._get_cursors(lanes)
        return {
            lane: cursor.decode() if cursor else START_OF_LOG
            for lane, cursor in zip(lanes, found, strict=True)
        }

    async def _get_cursors(self, lanes: Sequence[str]) -> Sequence[bytes | None]:
        return await self._wire.run(*(("GET", self._keys(lane).cursor) for lane in lanes))


class StreamsQueue(LogPart, LanesPart, NotesPart, OperatorsPart):
    """``Queue`` for one event loop. See ``Connected`` for how it is made."""
