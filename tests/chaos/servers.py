"""PostgreSQL as it should be run, Valkey as a careless operator runs it, and power cuts."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections import deque
from contextlib import closing
from pathlib import Path

import psycopg2  # type: ignore[import-untyped]

from kinto_dispatch.queue.guardian import Connection
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.valkey import LocalValkey


class DurablePostgresql(LocalPostgresql):
    """What was committed survives ``kill``. After a crash it syncs its file system in one call,
    where file by file takes seconds."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durable=True)
        self._settings = {**self._settings, "recovery_init_sync_method": "syncfs"}
        self._url = ""

    def create_database(self) -> str:
        """As ``LocalPostgresql``; its connections are those that ``cut`` cuts."""
        self._url = super().create_database()
        return self._url

    def cut(self) -> None:
        """End all connections to the last database, whatever they are in the middle of."""
        connection = psycopg2.connect(self._url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(CUT)
        finally:
            connection.close()


CUT = """
SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

GUARD = 'read -r line; kill -KILL "$1"'
"""Ends the server when the pipe closes: whoever started it is gone without a word."""

SAMPLE_SECONDS = 0.1
LOST_SECONDS = (1.0, 2.0)
"""How far back a power cut throws a server that syncs every second."""


class CarelessValkey(LocalValkey):
    """``appendfsync everysec``: what was acknowledged in the last one or two seconds is not on
    disk. A kill alone loses nothing of it, since the kernel still has it; a power cut does."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._sizes: deque[tuple[float, str, int]] = deque(maxlen=100)
        self._sampling = threading.Event()
        self._sampler: threading.Thread | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As ``LocalValkey``, and look at the size of the file from now on."""
        super().start()
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(self.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        with closing(Connection(str(self._socket))) as connection:
            connection.ask("CONFIG SET appendfsync everysec")
            connection.ask("CONFIG SET auto-aof-rewrite-percentage 0")
        self._sizes.clear()
        self._sampling.clear()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def cut(self) -> None:
        """End all connections, whatever was asked on them."""
        with closing(Connection(str(self._socket))) as connection:
            connection.ask("CLIENT KILL TYPE normal SKIPME yes")

    def cut_power(self, chance: random.Random) -> tuple[float, int]:
        """Kill the server and take from its file what had not been synced: since when, in
        monotonic seconds, and how many bytes."""
        cut_at = time.monotonic()
        self.kill()
        lost = chance.uniform(*LOST_SECONDS)
        known = [sample for sample in self._sizes if sample[0] <= cut_at - lost]
        since, path, size = known[-1] if known else self._sizes[0]
        before = os.path.getsize(path)
        os.truncate(path, min(size, before))
        return since, before - min(size, before)

    def _end(self, sign: object) -> None:
        self._sampling.set()
        if self._sampler is not None:
            self._sampler.join()
        if self._guard is not None:
            # Before the server's process id can become somebody else's.
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        super()._end(sign)  # type: ignore[arg-type]

    def _sample(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                files = (self.directory / "appendonlydir").glob("*.incr.aof")
                newest = max(files, key=lambda file: file.stat().st_mtime_ns)
                self._sizes.append((time.monotonic(), str(newest), newest.stat().st_size))
            if self._sampling.wait(SAMPLE_SECONDS):
                return
