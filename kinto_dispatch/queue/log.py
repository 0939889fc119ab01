"""The producer's side of the log, for Kinto's web processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kinto_dispatch.queue.client import script, sync_client, translated
from kinto_dispatch.queue.keys import GROUP, LaneKeys, LogKeys
from kinto_dispatch.queue.protocol import LaneStatus


WINDOW_MS = 600_000
"""How long an event id is remembered: longer than any append is repeated."""

WINDOW_EVENTS = 200_000

CHUNK_EVENTS = 1_000
CHUNK_BYTES = 16_000_000


def chunks(events: Sequence[tuple[str, bytes]]) -> Sequence[Sequence[tuple[str, bytes]]]:
    """Events in order, in parts that one call can carry."""
    parts: list[list[tuple[str, bytes]]] = [[]]
    size = 0
    for event in events:
        if parts[-1] and (len(parts[-1]) >= CHUNK_EVENTS or size + len(event[1]) > CHUNK_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(event)
        size += len(event[1])
    return parts


class StreamsLog:
    """``Log`` on Redis Streams. Connects when first used; a fork gets connections of its own."""

    def __init__(
        self,
        url: Callable[[], str],
        prefix: str,
        lanes: Sequence[str],
        timeout_seconds: float = 0.2,
    ) -> None:
        self._find_url = url
        self._keys = LogKeys(prefix)
        self._prefix = prefix
        self._lanes = list(lanes)
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._pid = 0
        self._url = ""

    def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        client = self._connected()
        with translated(self._url, self._forget):
            for chunk in chunks(events):
                if not self._append(client, chunk):
                    self._register(client)
                    self._append(client, chunk)

    def summary(self) -> tuple[Sequence[LaneStatus], bool]:
        client = self._connected()
        with translated(self._url, self._forget):
            lanes = [self._lane(client, lane) for lane in self._lanes]
            return lanes, bool(client.exists(f"{self._prefix}:{{workers}}:seen"))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._url = self._find_url()
                client = sync_client(self._url, self._timeout_seconds)
                with translated(self._url, self._forget):
                    self._register(client)
                self._client, self._pid = client, os.getpid()
            return self._client

    def _forget(self) -> None:
        """Look for the server again before the next call: an embedded one has to be started."""
        self._client = None

    def _register(self, client: Any) -> None:
        if self._lanes:
            keys = (self._keys.stream, self._keys.lanes)
            client.eval(script("register"), 2, *keys, *self._lanes)

    def _append(self, client: Any, events: Sequence[tuple[str, bytes]]) -> int:
        keys = (self._keys.stream, self._keys.seen, self._keys.mark, self._keys.lanes)
        arguments = [part for event in events for part in event]
        answer: int = client.eval(
            script("append"), 4, *keys, WINDOW_MS, WINDOW_EVENTS, 0, "", "", *arguments
        )
        return answer

    def _lane(self, client: Any, lane: str) -> LaneStatus:
        keys = LaneKeys(self._prefix, lane)
        with client.pipeline(transaction=False) as pipe:
            pipe.xlen(keys.stream)
            pipe.zcard(keys.due)
            pipe.xlen(keys.dead)
            pipe.get(keys.cursor)
            waiting, retry, dead, cursor = pipe.execute()
        in_flight = 0
        if waiting:
            try:
                in_flight = client.xpending(keys.stream, GROUP)["pending"]
            except Exception:  # no group yet: nobody ever fetched
                in_flight = 0
        return LaneStatus(
            lane,
            waiting - in_flight,
            in_flight,
            retry,
            dead,
            None,
            False,
            "closed",
            cursor.decode() if cursor else None,
        )
