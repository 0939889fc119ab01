"""The channel keeps the contract of all channels, on a real Valkey."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from kinto_dispatch.testing import ChannelContract, LocalValkey


class ListServer:
    """A Valkey that wants a password."""

    secret = "canary-91be40"

    def __init__(self, server: LocalValkey) -> None:
        self._client = redis.Redis.from_url(server.url)
        self._client.config_set("requirepass", self.secret)
        self._client.close()
        path = server.url.removeprefix("unix://")
        self.options: Mapping[str, str] = {
            "url": f"unix://:{self.secret}@{path}",
            "listname": "eventqueue",
        }
        self._client = redis.Redis.from_url(self.options["url"])

    def texts(self) -> list[str]:
        """Who is named as the user, oldest first, as consumers read it."""
        if self._client.type("eventqueue") != b"list":
            return []
        items = self._client.lrange("eventqueue", 0, -1)
        return [json.loads(item)["user_id"] for item in items]

    def refuse(self) -> None:
        """The key holds something else."""
        self._client.set("eventqueue", "text")

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with the password, over TCP."""
        return {"url": f"redis://:{self.secret}@{address}/0", "listname": "eventqueue"}

    def close(self) -> None:
        """Give back the connection."""
        self._client.close()


class TestRedis(ChannelContract):
    """Redis, by the name of its entry point."""

    plugin = "redis"

    @pytest.fixture
    def destination(self, tmp_path: Path) -> Iterator[ListServer]:
        with LocalValkey(tmp_path) as server:
            lists = ListServer(server)
            yield lists
            lists.close()
