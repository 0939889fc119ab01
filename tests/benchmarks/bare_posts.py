"""The yardstick: requests with aiohttp, 100 at a time, with nothing around them.

Prints the seconds that they took.
"""

import asyncio
import sys
import time

import aiohttp


async def main(url: str, count: int) -> None:
    """Post ``count`` times."""
    body = b"x" * 700
    left = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post() -> None:
            for _ in left:
                async with session.post(url, data=body) as answer:
                    await answer.read()

        started = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(100)))
        print(time.perf_counter() - started)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
