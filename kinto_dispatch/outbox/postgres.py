"""The outbox in Kinto's PostgreSQL: its table, and how a request writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kinto.core.storage.exceptions import BackendError
from kinto.core.storage.postgresql import PostgreSQLPluginMigration
from sqlalchemy.exc import SQLAlchemyError

from kinto_dispatch.errors import OutboxUnavailable
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.outbox.statements import statement, unavailable


__all__ = ["OutboxMigration", "PostgresOutbox", "PostgresOutboxReader", "table_exists"]

# psycopg2 sends bytes as hexadecimal text, and PostgreSQL takes 1 GB of text in one statement;
# Redis takes 512 MB in one value.
LARGEST_WRITE_BYTES = 256 * 1024 * 1024

WRITE_EVENTS = statement("write_events")
FIND_TABLE = statement("find_table")


class OutboxMigration(PostgreSQLPluginMigration):  # type: ignore[misc]  # kinto is untyped
    """Creates the outbox with ``kinto migrate``. Register with ``config.add_migration``."""

    name = "kinto_dispatch"
    # Kinto takes a plugin without a version for version 1; ours begins with the next.
    schema_version = 2
    migrations_directory = str(Path(__file__).parent / "migrations")


def table_exists(storage_client: Any) -> bool:
    """Whether ``kinto migrate`` has made the outbox, in the database of Kinto's storage.

    Uses a connection beside the running transaction. Raises ``OutboxUnavailable`` when the
    database does not answer.
    """
    try:
        with storage_client.session_factory.get_bind().connect() as connection:
            return bool(connection.execute(FIND_TABLE).scalar())
    except SQLAlchemyError as error:
        raise unavailable("looked up", error) from error


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
            raise unavailable("written", error.original) from error
