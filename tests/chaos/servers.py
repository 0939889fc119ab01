"""PostgreSQL as it should be run, Valkey as a careless operator runs it, and power cuts."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

from kinto_dispatch.queue.guardian import Connection
from kinto_dispatch.testing.postgresql import LocalPostgresql
from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually
from tests.chaos.proxy import Proxy


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
        self._ask(CUT)

    def durability(self) -> dict[str, str]:
        """The server's own word for what it does at a commit."""
        return {name: self._ask(f"SHOW {name}")[0][0] for name in DURABILITY}

    def count_connections(self) -> int:
        """How many others are connected to the last database."""
        return len(self._ask(OTHERS))

    def _ask(self, query: str) -> list[Any]:
        connection = psycopg2.connect(self._url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        finally:
            connection.close()


DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")
OTHERS = """
SELECT pid
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
CUT = OTHERS.replace("SELECT pid", "SELECT pg_terminate_backend(pid)")

GUARD = 'read -r line; kill -KILL "$1"'
"""Ends the server when the pipe closes: whoever started it is gone without a word."""

SAMPLE_SECONDS = 0.1
SYNC_SECONDS = 30.0
LOST_SECONDS = (1.0, 2.0)
"""How far back a power cut throws a server that syncs every second, and how far a replica lags."""

READ_ONLY_SECONDS = (0.0, 0.5)
"""How long a replica is asked before it has been promoted."""


class CarelessValkey(LocalValkey):
    """``appendfsync everysec``: what was acknowledged in the last one or two seconds is not on
    disk. A kill alone loses nothing of it, since the kernel still has it; a power cut does.

    Clients reach it through a proxy, where connections can be reset, and which leads to another
    server once a replica has been promoted.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._sizes: deque[tuple[float, str, int]] = deque(maxlen=100)
        self._sampling = threading.Event()
        self._sampler: threading.Thread | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._proxy: Proxy | None = None
        self._replicas: list[LocalValkey] = []

    @property
    def url(self) -> str:
        """Where clients find it, whichever server that is."""
        if self._proxy is None:
            self._proxy = Proxy(self.socket)
        return f"redis://127.0.0.1:{self._proxy.port}"

    @property
    def socket(self) -> str:
        """Where it is itself."""
        return str(self._socket)

    def start(self) -> None:
        """As ``LocalValkey``, and look at the size of the file from now on."""
        super().start()
        self._watch()

    def close(self) -> None:
        """Stop it for good, and the way to it."""
        self.stop()
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    def cut(self) -> None:
        """End all connections, whatever was asked on them."""
        with closing(Connection(self.socket)) as connection:
            connection.ask("CLIENT KILL TYPE normal SKIPME yes")

    def reset(self) -> None:
        """The next answer on each connection is lost with the connection."""
        if self._proxy is not None:
            self._proxy.reset()

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

    def promote(self, chance: random.Random) -> tuple[float, float]:
        """Make a replica that lags one or two seconds the server, and kill the one before: since
        when the replica knows nothing, and when the other died, in monotonic seconds."""
        replica = LocalValkey(self.directory.with_name(f"valkey-{len(self._replicas) + 2}"))
        replica.directory.mkdir()
        replica.start()
        with _guarded(replica.pid), Proxy(self.socket) as link:
            with closing(Connection(str(replica._socket))) as connection:
                follow(connection, link.port)
                link.hold()
                since = time.monotonic()
                time.sleep(chance.uniform(*LOST_SECONDS))
                killed_at = time.monotonic()
                self.kill()
                self._take_over(replica)
                time.sleep(chance.uniform(*READ_ONLY_SECONDS))
                connection.ask("REPLICAOF NO ONE")
            self._watch()
        return since, killed_at

    def _take_over(self, replica: LocalValkey) -> None:
        self._replicas.append(replica)
        self.directory, self._process = replica.directory, replica._process
        self._short_directory = replica._short_directory
        if self._proxy is not None:
            self._proxy.lead(self.socket)

    def _watch(self) -> None:
        self._guard = _guard(self.pid)
        with closing(Connection(self.socket)) as connection:
            connection.ask("CONFIG SET appendfsync everysec")
            connection.ask("CONFIG SET auto-aof-rewrite-percentage 0")
            # Or a replica waits for others for five seconds.
            connection.ask("CONFIG SET repl-diskless-sync-delay 0")
        self._sizes.clear()
        self._sampling.clear()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def _end(self, sign: object) -> None:
        self._sampling.set()
        if self._sampler is not None:
            self._sampler.join()
        if self._guard is not None:
            # Before the server's process id can become somebody else's.
            _dismiss(self._guard)
            self._guard = None
        super()._end(sign)

    def _sample(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                files = (self.directory / "appendonlydir").glob("*.incr.aof")
                newest = max(files, key=lambda file: file.stat().st_mtime_ns)
                self._sizes.append((time.monotonic(), str(newest), newest.stat().st_size))
            if self._sampling.wait(SAMPLE_SECONDS):
                return


def follow(replica: Connection, port: int) -> None:
    """Make it a replica of the server at this port, and wait until it has all its data."""
    replica.ask(f"REPLICAOF 127.0.0.1 {port}")
    eventually(
        lambda: "master_link_status:up" in replica.ask("INFO replication"),
        "the replica to have the data",
        SYNC_SECONDS,
    )


@contextlib.contextmanager
def _guarded(pid: int) -> Iterator[None]:
    guard = _guard(pid)
    try:
        yield
    finally:
        _dismiss(guard)


def _guard(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "guard", str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    guard.kill()
    guard.communicate()
