"""The producer's side of the log, for Kinto's web processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kinto_dispatch.queue import commands
from kinto_dispatch.queue.health import judge, read_info
from kinto_dispatch.queue.keys import LaneKeys, LogKeys, WorkerKeys
from kinto_dispatch.queue.values import LaneStatus, QueueHealth
from kinto_dispatch.queue.wire import Wire


class StreamsLog:
    """``Log`` on Redis Streams. Connects when first used; a fork gets connections of its own.

    ``lanes`` are the names of the async channels. A lane that the log does not know yet begins
    where the log ends before the first append by a process that knows the lane.
    """

    def __init__(
        self,
        find_url: Callable[[], str],
        prefix: str,
        lanes: Sequence[str],
        timeout_seconds: float,
    ) -> None:
        self._wire = Wire(find_url, timeout_seconds)
        self._lanes = tuple(lanes)
        self._log = LogKeys(prefix)
        self._lane_keys = [LaneKeys(prefix, lane) for lane in lanes]
        self._workers = WorkerKeys(prefix)

    def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """As ``Log.append``. More than a thousand events, or 8 MB, go in several calls, each of
        them atomic: if one fails, those before it are appended, and a repeat completes them."""
        for chunk in commands.chunks(events):
            request = commands.append(self._log, self._lanes, chunk)
            ((outcome, *_),) = self._wire.run(request)
            while outcome == b"unregistered":
                # A new server, or one that has lost its memory.
                self._wire.run(commands.register(self._log, self._lanes))
                ((outcome, *_),) = self._wire.run(request)

    def summary(self) -> tuple[Sequence[LaneStatus], bool]:
        """As ``Log.summary``, of the lanes that this log was made with."""
        looks = [commands.look(keys) for keys in self._lane_keys]
        *answers, seen = self._wire.run(*looks, ("EXISTS", self._workers.seen))
        (behind,) = self._wire.run(commands.look_behind(self._log, self._lanes, answers))
        lanes = map(commands.to_status, self._lanes, answers, behind)
        return list(lanes), bool(seen)

    def health(self) -> QueueHealth:
        """As ``Log.health``."""
        (info,) = self._wire.run(("INFO",))
        return judge(read_info(info))

    def close(self) -> None:
        """As ``Log.close``."""
        self._wire.close()
