"""The yardstick: a Redis Streams consumer with nothing around it, in a process of its own.

Reads 256 at a time, acknowledges and deletes each batch in one round trip. Prints the seconds from
the first read to the last acknowledgement.
"""

import asyncio
import sys
import time

import redis.asyncio


async def main(url: str, count: int) -> None:
    """Consume ``count`` entries of the stream ``bare``."""
    client = redis.asyncio.Redis.from_url(url)
    await client.xgroup_create("bare", "workers", "0")
    started = time.perf_counter()
    seen = 0
    while seen < count:
        ((_, entries),) = await client.xreadgroup("workers", "one", {"bare": ">"}, count=256)
        ids = [entry_id for entry_id, fields in entries if fields[b"b"]]
        async with client.pipeline(transaction=False) as pipe:
            pipe.xack("bare", "workers", *ids)
            pipe.xdel("bare", *ids)
            await pipe.execute()
        seen += len(ids)
    print(time.perf_counter() - started)
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
