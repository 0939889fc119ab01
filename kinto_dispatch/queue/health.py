"""Whether a server is fit to hold what must not be lost, by what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kinto_dispatch.queue.values import NEARLY_FULL, QueueHealth


OLDEST = (6, 2)


def read_info(text: bytes) -> Mapping[str, str]:
    """The answer to ``INFO`` as names and values."""
    lines = text.decode("utf-8", "replace").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def judge(info: Mapping[str, str], appendfsync: str | None = None) -> QueueHealth:
    """Judge a server. Its ``INFO`` is enough; ``appendfsync`` is told where ``CONFIG`` may be
    asked."""
    server = "valkey" if "valkey_version" in info else "redis"
    return QueueHealth(
        server=server,
        version=info.get(f"{server}_version", "?"),
        run_id=info.get("run_id", ""),
        used_memory_bytes=_number(info, "used_memory"),
        max_memory_bytes=_number(info, "maxmemory"),
        warnings=(*_misfits(info), *_durability(info, appendfsync), *_memory(info)),
        may_evict=_drops_what_is_queued(info) and _number(info, "maxmemory") > 0,
    )


def _misfits(info: Mapping[str, str]) -> Iterator[str]:
    # Valkey says here which Redis it speaks like.
    version = info.get("redis_version", "")
    if version and _is_too_old(version):
        yield f"The server speaks Redis {version}; 6.2 or newer is needed."
    if info.get("role") == "slave":
        yield "The server is a replica and takes no writes. Point queue_url to the primary."
    if info.get("cluster_enabled") == "1":
        yield "The server is a node of a cluster. Point queue_url to one without cluster mode."


def _is_too_old(version: str) -> bool:
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return tuple(numbers) < OLDEST


def _durability(info: Mapping[str, str], appendfsync: str | None) -> Iterator[str]:
    if info.get("aof_enabled") == "0":
        yield (
            "The server keeps no append-only file, so its end loses what was queued since its "
            "last snapshot. Set appendonly yes."
        )
    elif appendfsync == "no":
        yield (
            "The server leaves it to its system when to write (appendfsync no), so a crash loses "
            "about half a minute. Set appendfsync everysec or always."
        )
    for name, what in (
        ("aof_last_write_status", "append to its file"),
        ("aof_last_bgrewrite_status", "rewrite its append-only file"),
        ("rdb_last_bgsave_status", "save its snapshot"),
    ):
        if info.get(name, "ok") != "ok":
            yield f"The server could not {what}. Its log says why; often the disk is full."


def _memory(info: Mapping[str, str]) -> Iterator[str]:
    if _drops_what_is_queued(info):
        yield (
            "The server may drop what is queued without a word (maxmemory-policy is "
            f"{info['maxmemory_policy']}; "
            f"{_number(info, 'evicted_keys'):,} keys of any kind since its start), and nobody can "
            "tell which deliveries were among it. Set maxmemory-policy noeviction."
        )
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if limit and used >= limit:
        yield (
            f"The server is full, it uses {used:,} of {limit:,} bytes of maxmemory: nothing new "
            "is taken until what waits has been delivered. Raise maxmemory."
        )
    elif used > NEARLY_FULL * limit > 0:
        yield f"The server uses {used:,} of {limit:,} bytes of maxmemory. Raise maxmemory."


def _drops_what_is_queued(info: Mapping[str, str]) -> bool:
    """Whether it may, once its memory is full. The ``volatile-`` policies drop only keys that
    expire, and of ours those are the notes of channels and the buckets of rate limits."""
    policy = info.get("maxmemory_policy", "noeviction")
    return policy != "noeviction" and not policy.startswith("volatile-")


def _number(info: Mapping[str, str], name: str) -> int:
    value = info.get(name, "")
    return int(value) if value.isdigit() else 0
