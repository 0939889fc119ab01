"""Kinto's PostgreSQL storage with the outbox in it, without the rest of Kinto."""

from __future__ import annotations

import warnings
from typing import Any

from kinto.core.storage.postgresql import load_from_config
from pyramid.config import Configurator

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
