"""The relay's side of the outbox in PostgreSQL. Kinto itself is not imported here."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, TextClause, create_engine, make_url
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from kinto_dispatch.errors import OutboxUnavailable
from kinto_dispatch.outbox.protocol import Batch, OutboxStatus
from kinto_dispatch.outbox.statements import statement, unavailable


# What a relay holds in memory at once, unless a single event is larger.
BATCH_BYTES = 8 * 1024 * 1024
# How long the server leaves a held batch alone, and how slow the way of a large event to the queue
# may be on top, as slow as the queue's own time-out allows.
HOLD_SECONDS = 15
SLOWEST_BYTES_PER_SECOND = 1_000_000
# How long the server works on a statement, and how long on reading a batch when that was too short
# again and again: enough for the largest event on a slow network.
STATEMENT_SECONDS = 10
LONGEST_STATEMENT_SECONDS = 640
# SQLSTATE of a statement that was ended.
QUERY_CANCELED = "57014"
# Rows that one statement changes: well below a second, far from the statement's time-out.
CHUNK_ROWS = 5000

# Advisory locks live in one space per database; the table's oid is their second half.
BATCH_LOCK = 0x6B64_0001
LEAD_LOCK = 0x6B64_0002

# A server that went away without a word is noticed within these seconds.
CONNECTION = {
    "application_name": "kinto-dispatch",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

BOUND_TRANSACTION = statement("bound_transaction")
LOCK_BATCHES = statement("lock_batches")
LEAD_READERS = statement("lead_readers")
TAKE_BATCH = statement("take_batch")
DRAW_MARK = statement("draw_mark")
LAST_MARK = statement("last_mark")
NAME_OUTBOX = statement("name_outbox")
MARK_RELAYED = statement("mark_relayed")
EXTEND_HOLD = statement("extend_hold")
EXTEND_STATEMENT = statement("extend_statement")
FEED_AGAIN = statement("feed_again")
PRUNE_RELAYED = statement("prune_relayed")
COUNT_WAITING = statement("count_waiting")


class PostgresOutboxReader:
    """Reads with a connection of its own, made when first needed and again after it broke.

    Outside a held batch no transaction is open. The server ends a statement after 10 s, and a
    held batch after 15 s without a word from us, or later where it is one large event. Reading a
    batch gets twice as long after each time that it was not enough: all that waits is behind it.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._connection: Connection | None = None
        self._wire: socket.socket | None = None
        self._in_call = threading.Lock()
        self._leads = False
        self._read_seconds = STATEMENT_SECONDS
        self._held: tuple[str, list[int]] | None = None

    def take(self, count: int) -> Batch:
        """See ``OutboxReader``. Bodies above 8 MiB together are left for the next batch."""
        with self._call("read") as connection:
            batch = self._take(connection, count)
            if not batch.events:
                connection.rollback()
            return batch

    def _take(self, connection: Connection, count: int) -> Batch:
        if not connection.execute(LOCK_BATCHES, {"key": BATCH_LOCK}).scalar():
            return Batch()
        rows = self._read(connection, count)
        if not rows:
            return Batch()
        # After the lock, and in a statement of its own: it has to see the batch before, and all
        # lanes that were announced by when the rows were committed.
        mark, last, lanes = connection.execute(DRAW_MARK).one()
        self._held = (mark, [row.id for row in rows])
        events = [(row.event_id, bytes(row.body)) for row in rows]
        size = sum(len(body) for _, body in events)
        if size > BATCH_BYTES:
            seconds = HOLD_SECONDS + size // SLOWEST_BYTES_PER_SECOND
            connection.execute(EXTEND_HOLD, {"seconds": seconds})
        return Batch(events, str(mark), _text(last), tuple(lanes))

    def _read(self, connection: Connection, count: int) -> Sequence[Row[Any]]:
        if self._read_seconds > STATEMENT_SECONDS:
            connection.execute(EXTEND_STATEMENT, {"seconds": self._read_seconds})
        try:
            rows = connection.execute(TAKE_BATCH, {"count": count, "bytes": BATCH_BYTES}).all()
        except OperationalError as error:
            if getattr(error.orig, "pgcode", None) == QUERY_CANCELED:
                self._read_seconds = min(2 * self._read_seconds, LONGEST_STATEMENT_SECONDS)
            raise
        self._read_seconds = STATEMENT_SECONDS
        return rows

    def relayed(self) -> None:
        """See ``OutboxReader``."""
        with self._call("marked", ends_batch=True) as connection:
            if self._held is None:
                raise OutboxUnavailable(
                    "No batch is held: the connection broke since it was taken."
                )
            mark, ids = self._held
            connection.execute(MARK_RELAYED, {"mark": mark, "ids": ids})
            connection.commit()
            self._held = None

    def give_back(self) -> None:
        """See ``OutboxReader``."""
        if self._held is not None:
            with self._call("released", ends_batch=True) as connection:
                connection.rollback()
                self._held = None

    def name(self) -> str | None:
        """See ``OutboxReader``."""
        with self._call("read") as connection:
            try:
                return str(connection.execute(NAME_OUTBOX).scalar())
            except ProgrammingError:
                # Not every provider lets everybody ask for the cluster.
                return None
            finally:
                connection.rollback()

    def last_mark(self) -> str | None:
        """See ``OutboxReader``."""
        with self._call("read") as connection:
            last = connection.execute(LAST_MARK).scalar()
            connection.rollback()
            return _text(last)

    def feed_again(self, after: str | None, upto: str) -> int:
        """See ``OutboxReader``. At most 5,000 a call."""
        known = int(after) if after is not None and after.isdecimal() else -1
        bounds = {"after": known, "upto": int(upto), "count": CHUNK_ROWS}
        return self._change(FEED_AGAIN, bounds)

    def prune(self, keep_seconds: float) -> int:
        """See ``OutboxReader``. At most 5,000 a call."""
        return self._change(PRUNE_RELAYED, {"keep_seconds": keep_seconds, "count": CHUNK_ROWS})

    def lead(self) -> bool:
        """See ``OutboxReader``."""
        if not self._leads:
            with self._call("read") as connection:
                self._leads = bool(connection.execute(LEAD_READERS, {"key": LEAD_LOCK}).scalar())
                connection.commit()
        return self._leads

    def status(self) -> OutboxStatus:
        """See ``OutboxReader``."""
        with self._call("read") as connection:
            waiting, oldest = connection.execute(COUNT_WAITING).one()
            connection.rollback()
            return OutboxStatus(waiting, None if oldest is None else float(oldest))

    def close(self) -> None:
        """See ``OutboxReader``."""
        if self._in_call.acquire(blocking=False):
            try:
                self._disconnect()
            finally:
                self._in_call.release()
        elif self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)

    def _change(self, change: TextClause, values: dict[str, Any]) -> int:
        with self._call("changed") as connection:
            changed = connection.execute(change, values).rowcount
            connection.commit()
            return changed

    @contextlib.contextmanager
    def _call(self, verb: str, ends_batch: bool = False) -> Iterator[Connection]:
        """A connection to work with. After an error of any kind it is not used again."""
        with self._in_call:
            try:
                if self._held is not None and not ends_batch:
                    raise RuntimeError("A batch is held: relayed() or give_back() comes first.")
                connection = self._connection or self._connect()
                if not connection.in_transaction():
                    connection.execute(BOUND_TRANSACTION)
                yield connection
            except SQLAlchemyError as error:
                self._disconnect()
                raise unavailable(verb, error) from error
            except BaseException:
                self._disconnect()
                raise

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        self._connection = connection
        driver: Any = connection.connection.driver_connection
        self._wire = socket.socket(fileno=os.dup(driver.fileno()))
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        wire, self._wire = self._wire, None
        self._leads, self._held = False, None
        if connection is not None:
            # Not handed back in order: a broken connection would be asked to roll back first.
            connection.invalidate()
            connection.close()
        if wire is not None:
            wire.close()


def _engine(url: str) -> Engine:
    """Kinto reads ``postgresql://`` as psycopg2, SQLAlchemy 2.1 as psycopg."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")
    arguments = {name: value for name, value in CONNECTION.items() if name not in parsed.query}
    # An error's text would hold the bodies of events otherwise.
    return create_engine(parsed, poolclass=NullPool, connect_args=arguments, hide_parameters=True)


def _text(mark: int | None) -> str | None:
    return None if mark is None else str(mark)
