"""Whether a server is fit to hold what must not be lost, by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kinto_dispatch.queue.protocol import QueueHealth


OLDEST = (6, 2)


def inspect(info: Mapping[str, Any]) -> QueueHealth:
    """Judge the answer to ``INFO``, which every user of the server may ask for."""
    server = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "?"))
    return QueueHealth(
        server=server,
        version=version,
        run_id=str(info.get("run_id", "")),
        used_memory_bytes=int(info.get("used_memory", 0)),
        max_memory_bytes=int(info.get("maxmemory", 0)),
        warnings=tuple(_warnings(info)),
    )


def _warnings(info: Mapping[str, Any]) -> Iterator[str]:
    spoken = str(info.get("redis_version", "0.0"))
    if tuple(int(part) for part in spoken.split(".")[:2]) < OLDEST:
        yield f"the server speaks Redis {spoken}; 6.2 or newer is needed."
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            f"maxmemory-policy is {policy}, so the server may drop what is queued without a word. "
            "Set maxmemory-policy noeviction."
        )
    if not int(info.get("aof_enabled", 0)):
        yield (
            "appendonly is off, so a crash of the server loses what is queued. Set appendonly yes."
        )
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if limit and used > 0.9 * limit:
        yield f"{used:,} of {limit:,} bytes of maxmemory are used. Raise maxmemory."
