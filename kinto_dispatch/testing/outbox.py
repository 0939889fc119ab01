"""Kinto's PostgreSQL storage with the outbox in it, without the rest of Kinto."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kinto.core.storage.postgresql import load_from_config
from psycopg2.extensions import cursor  # type: ignore[import-untyped]  # it has no types
from pyramid.config import Configurator
from sqlalchemy import event

from kinto_dispatch.outbox.postgres import OutboxMigration


def open_storage(url: str) -> Any:
    """Kinto's storage client for ``url``, joined to the running transaction as in a request,
    after the migrations of Kinto's storage and of the outbox."""
    settings = {
        "storage_backend": "kinto.core.storage.postgresql",
        "storage_url": url,
        "storage_max_fetch_size": 10000,
        "transaction_per_request": True,
        "readonly": False,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Reuse existing PostgreSQL connection")
        storage = load_from_config(Configurator(settings=settings))
    storage.initialize_schema()
    OutboxMigration().initialize_schema(storage.client)
    return storage.client


@contextmanager
def statements(client: Any) -> Iterator[list[str]]:
    """What is sent to PostgreSQL through this storage client, by whatever layer, in transactions
    that begin meanwhile: every statement on one line, savepoints included, and each commit or
    rollback as ``COMMIT`` and ``ROLLBACK``."""
    sent: list[str] = []

    class NotingCursor(cursor):  # type: ignore[misc]  # see its import
        def execute(self, query: Any, values: Any = None) -> None:
            text = query.decode() if isinstance(query, bytes) else str(query)
            sent.append(" ".join(text.split()))
            super().execute(query, values)

    def note_cursors_of(connection: Any, *_: Any) -> None:
        connection.cursor_factory = NotingCursor

    def forget_cursors_of(connection: Any, *_: Any) -> None:
        if connection is not None:
            connection.cursor_factory = None

    listened = {
        "checkout": note_cursors_of,
        "checkin": forget_cursors_of,
        "commit": lambda _: sent.append("COMMIT"),
        "rollback": lambda _: sent.append("ROLLBACK"),
    }
    engine = client.session_factory.get_bind()
    for name, listener in listened.items():
        event.listen(engine, name, listener)
    try:
        yield sent
    finally:
        for name, listener in listened.items():
            event.remove(engine, name, listener)
