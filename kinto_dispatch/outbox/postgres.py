"""The outbox in Kinto's PostgreSQL: its table, and how a request writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import transaction
from kinto.core.storage.exceptions import BackendError
from kinto.core.storage.postgresql import PostgreSQLPluginMigration
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from kinto_dispatch.errors import EventTooLarge
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.outbox.statements import driver_statement, statement, unavailable


__all__ = ["OutboxMigration", "PostgresOutbox", "PostgresOutboxReader", "tables_exist"]

# psycopg2 sends bytes as hexadecimal text, and PostgreSQL takes 1 GB of text in one statement;
# Redis takes 512 MB in one value.
LARGEST_WRITE_BYTES = 256 * 1024 * 1024

WRITE_EVENT = driver_statement("write_event")
WRITE_EVENTS = driver_statement("write_events")
ANNOUNCE_LANES = statement("announce_lanes")
BOUND_TRANSACTION = statement("bound_transaction")
FIND_TABLES = statement("find_tables")


class OutboxMigration(PostgreSQLPluginMigration):  # type: ignore[misc]  # kinto is untyped
    """Creates the outbox with ``kinto migrate``. Register with ``config.add_migration``."""

    name = "kinto_dispatch"
    # Kinto takes a plugin without a version for version 1; ours begins with the next.
    schema_version = 2
    migrations_directory = str(Path(__file__).parent / "migrations")

    def get_installed_version(self) -> int:
        """See Kinto. An outbox without the table of lanes, as it was before the first release, is
        migrated again."""
        return super().get_installed_version() if tables_exist(self.client) else 1


def tables_exist(storage_client: Any) -> bool:
    """Whether ``kinto migrate`` has made the outbox, in the database of Kinto's storage.

    Uses a connection beside the running transaction. Raises ``OutboxUnavailable`` when the
    database does not answer.
    """
    try:
        with storage_client.session_factory.get_bind().connect() as connection:
            return bool(connection.execute(FIND_TABLES).scalar())
    except SQLAlchemyError as error:
        raise unavailable("looked up", error) from error


class PostgresOutbox:
    """Writes through Kinto's own storage client, hence into the transaction of the request.

    ``lanes`` are those of the async channels. No event is committed before they are.
    """

    def __init__(self, storage_client: Any, lanes: Sequence[str] = ()) -> None:
        self._client = storage_client
        self._lanes = list(lanes)
        self._is_announced = not lanes

    def announce(self) -> None:
        """Make the lanes known in a transaction of its own, beside the running one, so that no
        write has to. Takes at most ten seconds. Raises ``OutboxUnavailable``."""
        if self._is_announced:
            return
        try:
            with self._client.session_factory.get_bind().begin() as connection:
                connection.execute(BOUND_TRANSACTION)
                connection.execute(ANNOUNCE_LANES, {"names": self._lanes})
        except SQLAlchemyError as error:
            raise unavailable("told of its lanes", error) from error
        self._is_announced = True

    def write(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Store the events with one INSERT; they commit or roll back with the record.

        Before it goes another one with the lanes, until a transaction with that is committed.
        Above 256 MiB there are several. Raises ``OutboxUnavailable``, and ``EventTooLarge`` where
        a single event is larger than that.
        """
        if not events:
            return
        batches = list(_batches(events))
        try:
            with self._client.connect() as session:
                connection = session.connection()
                self._announce_once(connection)
                for batch in batches:
                    _insert(connection, batch)
        except BackendError as error:
            raise unavailable("written", error.original) from error

    def _announce_once(self, connection: Connection) -> None:
        if not self._is_announced:
            connection.execute(ANNOUNCE_LANES, {"names": self._lanes})
            transaction.get().addAfterCommitHook(self._on_announced)

    def _on_announced(self, succeeded: bool) -> None:
        # Where the transaction failed, another may have succeeded meanwhile.
        self._is_announced = self._is_announced or succeeded


def _batches(events: Iterable[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """The events in parts that fit into one statement, in their order."""
    batch: list[tuple[str, bytes]] = []
    room = LARGEST_WRITE_BYTES
    for event in events:
        size = len(event[1])
        if size > LARGEST_WRITE_BYTES:
            raise EventTooLarge(
                f"What one request changed of one kind has {size:,} bytes as an event; at most "
                f"{LARGEST_WRITE_BYTES:,} can be announced. Change or delete fewer objects in one "
                "request."
            )
        if size > room:
            yield batch
            batch, room = [], LARGEST_WRITE_BYTES
        batch.append(event)
        room -= size
    yield batch


def _insert(connection: Connection, events: Sequence[tuple[str, bytes]]) -> None:
    """Through the driver's own cursor: what SQLAlchemy makes ready around a statement, and is not
    used here, is a tenth of what the outbox takes of a write."""
    if len(events) == 1:
        event_id, body = events[0]
        sql, values = WRITE_EVENT, {"event_id": event_id, "body": body}
    else:
        event_ids, bodies = map(list, zip(*events, strict=True))
        sql, values = WRITE_EVENTS, {"event_ids": event_ids, "bodies": bodies}
    driver: Any = connection.connection
    try:
        with contextlib.closing(driver.cursor()) as cursor:
            cursor.execute(sql, values)
    except connection.dialect.loaded_dbapi.Error as error:
        if driver.closed:
            # The pool, and the rollback that follows, have to know that it broke.
            connection.invalidate(error)
        raise unavailable("written", error) from error
