"""The outbox in Kinto's PostgreSQL: written in the request's transaction, read by the relay."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kinto.core.storage.exceptions import BackendError
from kinto.core.storage.postgresql import PostgreSQLPluginMigration
from sqlalchemy import Connection, Engine, TextClause, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from kinto_dispatch.errors import OutboxUnavailable
from kinto_dispatch.outbox.protocol import Batch, OutboxStatus


HERE = Path(__file__).parent

# psycopg2 sends bytes as hexadecimal text, and PostgreSQL takes 1 GB of text in one statement;
# Redis takes 512 MB in one value.
LARGEST_WRITE_BYTES = 256 * 1024 * 1024
# What a relay holds in memory at once, unless a single event is larger.
BATCH_BYTES = 8 * 1024 * 1024
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

UNDEFINED_TABLE = "42P01"


def _sql(name: str) -> TextClause:
    return text((HERE / f"{name}.sql").read_text())


BOUND_TRANSACTION = _sql("bound_transaction")
WRITE_EVENTS = _sql("write_events")
LOCK_BATCHES = _sql("lock_batches")
LEAD_READERS = _sql("lead_readers")
TAKE_BATCH = _sql("take_batch")
DRAW_MARK = _sql("draw_mark")
LAST_MARK = _sql("last_mark")
MARK_RELAYED = _sql("mark_relayed")
FEED_AGAIN = _sql("feed_again")
PRUNE_RELAYED = _sql("prune_relayed")
COUNT_WAITING = _sql("count_waiting")
FIND_TABLE = _sql("find_table")


class OutboxMigration(PostgreSQLPluginMigration):  # type: ignore[misc]  # kinto is untyped
    """Creates the outbox with ``kinto migrate``. Register with ``config.add_migration``."""

    name = "kinto_dispatch"
    # Kinto takes a plugin without a version for version 1; ours begins with the next.
    schema_version = 2
    migrations_directory = str(HERE / "migrations")


def table_exists(storage_client: Any) -> bool:
    """Whether ``kinto migrate`` has made the outbox, in the database of Kinto's storage.

    Uses a connection beside the running transaction. Raises ``OutboxUnavailable`` when the
    database does not answer.
    """
    try:
        with storage_client.session_factory.get_bind().connect() as connection:
            return bool(connection.execute(FIND_TABLE).scalar())
    except SQLAlchemyError as error:
        raise _unavailable("looked up", error) from error


class PostgresOutbox:
    """Writes through Kinto's own storage client, hence into the transaction of the request."""

    def __init__(self, storage_client: Any) -> None:
        self._client = storage_client

    def write(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Store the events with one INSERT; they commit or roll back with the record.

        Raises ``OutboxUnavailable``, also above 256 MiB of events in one transaction.
        """
        if not events:
            return
        size = sum(len(body) for _, body in events)
        if size > LARGEST_WRITE_BYTES:
            raise OutboxUnavailable(
                f"The events of one request have {size:,} bytes; the outbox takes at most "
                f"{LARGEST_WRITE_BYTES:,}. Change or delete fewer objects in one request."
            )
        values = {
            "event_ids": [event_id for event_id, _ in events],
            "bodies": [body for _, body in events],
        }
        try:
            with self._client.connect() as session:
                session.execute(WRITE_EVENTS, values)
        except BackendError as error:
            raise _unavailable("written", error.original) from error


class PostgresOutboxReader:
    """Reads with a connection of its own, made when first needed and again after it broke.

    Outside a held batch no transaction is open. The server ends a statement after 10 s, and a
    held batch after 15 s without a word from us.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._connection: Connection | None = None
        self._wire: socket.socket | None = None
        self._in_call = threading.Lock()
        self._leads = False
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
        rows = connection.execute(TAKE_BATCH, {"count": count, "bytes": BATCH_BYTES}).all()
        if not rows:
            return Batch()
        # After the lock, and in a statement of its own: it has to see the batch before.
        mark, last = connection.execute(DRAW_MARK).one()
        self._held = (mark, [row.id for row in rows])
        events = [(row.event_id, bytes(row.body)) for row in rows]
        return Batch(events, str(mark), _text(last))

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

    def _change(self, statement: TextClause, values: dict[str, Any]) -> int:
        with self._call("changed") as connection:
            changed = connection.execute(statement, values).rowcount
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
                raise _unavailable(verb, error) from error
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


def _unavailable(verb: str, error: Exception) -> OutboxUnavailable:
    cause = error.orig if isinstance(error, DBAPIError) else error
    advice = "Check that PostgreSQL runs and that storage_url is right."
    if getattr(cause, "pgcode", None) == UNDEFINED_TABLE:
        advice = "Run `kinto migrate`."
    reason = " ".join(str(cause).split()).rstrip(".")
    return OutboxUnavailable(f"The outbox cannot be {verb}: {reason}. {advice}")


def _text(mark: int | None) -> str | None:
    return None if mark is None else str(mark)
