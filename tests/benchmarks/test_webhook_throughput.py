"""Webhooks per second of one worker process, as a share of a bare aiohttp loop."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from kinto_dispatch.plugins import configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.testing.builders import make_event


pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
DELIVERIES = 20_000
ROUNDS = 3
AIM = 0.5


@pytest.fixture
def receiver() -> Iterator[str]:
    """The URL of a receiver in a process of its own."""
    command = [sys.executable, str(HERE / "webhook_receiver.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/hook"
        process.terminate()


def test_webhooks_reach_their_share_of_a_bare_loop(
    queue_url: str, receiver: str, tmp_path: Path
) -> None:
    """One worker process with 100 in flight posts at 0.5 of a bare aiohttp loop or more."""
    settings = _settings(queue_url, receiver)
    ini = tmp_path / "kinto.ini"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    ini.write_text("\n".join(["[app:main]", "use = egg:kinto", *lines]))
    pairs = [(_bare(receiver), asyncio.run(_ours(settings, ini))) for _ in range(ROUNDS)]
    ratios = [ours / bare for bare, ours in pairs]
    result = {
        "deliveries": DELIVERIES,
        "bare_per_second": [round(bare) for bare, _ in pairs],
        "worker_per_second": [round(ours) for _, ours in pairs],
        "ratio_median": round(statistics.median(ratios), 3),
    }
    print("\n" + json.dumps(result))
    assert statistics.median(ratios) >= AIM


def _bare(url: str) -> float:
    return DELIVERIES / float(_run([str(HERE / "bare_posts.py"), url, str(DELIVERIES)]))


async def _ours(settings: dict[str, str], ini: Path) -> float:
    """Per second from the first attempt's start to the last one's end, by the attempt records."""
    redis.Redis.from_url(settings["kinto.event_listeners.shop.queue_url"]).flushall()
    queue = open_queue(configure(settings).settings)
    body = make_event().encode()
    await queue.register(["shop"])
    entries = [Entry(f"event-{number}:shop", body) for number in range(DELIVERIES)]
    for start in range(0, DELIVERIES, 1_000):
        await queue.enqueue("shop", entries[start : start + 1_000])
    arguments = ["-m", "kinto_dispatch", "worker", "--quiet", "--burst", "--ini", str(ini)]
    await asyncio.to_thread(_run, arguments)
    records, after = [], "0-0"
    while page := await queue.attempts("shop", after):
        records += [json.loads(record) for _, record in page]
        after = page[-1][0]
    await queue.close()
    assert [record["outcome"] for record in records] == ["delivered"] * DELIVERIES
    first = min(record["at"] for record in records)
    last = max(record["at"] + record["duration_seconds"] for record in records)
    return DELIVERIES / (last - first)


def _run(arguments: list[str]) -> str:
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=HERE
    ).stdout


def _settings(queue_url: str, receiver: str) -> dict[str, str]:
    listener = "kinto.event_listeners.shop"
    return {
        "kinto.event_listeners": "shop",
        f"{listener}.use": "kinto_dispatch",
        f"{listener}.queue_url": queue_url,
        f"{listener}.plugin": "webhook",
        f"{listener}.url": receiver,
        f"{listener}.secrets": "whsec_" + "c2VjcmV0" * 4,
        f"{listener}.allow_networks": "127.0.0.0/8",
        f"{listener}.concurrency": "100",
    }
