"""No-op deliveries per second of one worker process, as a share of a bare Streams loop."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from kinto_dispatch.plugins import configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.testing.builders import make_change, make_event


pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
DELIVERIES = 20_000
ROUNDS = 3
AIM = 0.3


def test_one_worker_reaches_its_share_of_a_bare_loop(queue_url: str, tmp_path: Path) -> None:
    """One worker process drains a backlog at 0.3 of a bare Streams loop or more."""
    ini = _write_ini(tmp_path, queue_url)
    pairs = [(_bare(queue_url), _ours(queue_url, ini)) for _ in range(ROUNDS)]
    ratios = [ours / bare for bare, ours in pairs]
    result = {
        "deliveries": DELIVERIES,
        "bare_per_second": [round(bare) for bare, _ in pairs],
        "worker_per_second": [round(ours) for _, ours in pairs],
        "ratio_median": round(statistics.median(ratios), 3),
    }
    print("\n" + json.dumps(result))
    assert statistics.median(ratios) >= AIM


def _body() -> bytes:
    return make_event(changes=(make_change(new={"id": "r", "text": "x" * 300}),)).encode()


def _bare(url: str) -> float:
    client = redis.Redis.from_url(url)
    client.flushall()
    body = _body()
    with client.pipeline(transaction=False) as pipe:
        for _ in range(DELIVERIES):
            pipe.xadd("bare", {"b": body})
        pipe.execute()
    client.close()
    output = _run([str(HERE / "bare_streams.py"), url, str(DELIVERIES)])
    return DELIVERIES / float(output)


def _ours(url: str, ini: Path) -> float:
    """Per second of wall time from the first attempt's start to the last one's end, by the
    attempt records that the worker itself keeps."""
    redis.Redis.from_url(url).flushall()
    return asyncio.run(_drain(ini))


async def _drain(ini: Path) -> float:
    queue = open_queue(configure(_settings(ini)).settings)
    body = _body()
    await queue.register(["noop"])
    entries = [Entry(f"event-{number}:noop", body) for number in range(DELIVERIES)]
    for start in range(0, DELIVERIES, 1_000):
        await queue.enqueue("noop", entries[start : start + 1_000])
    arguments = ["-m", "kinto_dispatch", "worker", "--quiet", "--burst", "--ini", str(ini)]
    await asyncio.to_thread(_run, arguments)
    records = await _records(queue)
    await queue.close()
    assert len(records) == DELIVERIES
    first = min(record["at"] for record in records)
    last = max(record["at"] + record["duration_seconds"] for record in records)
    return DELIVERIES / (last - first)


async def _records(queue: Queue) -> list[dict[str, float]]:
    records: list[dict[str, float]] = []
    after = "0-0"
    while page := await queue.attempts("noop", after):
        records += [json.loads(record) for _, record in page]
        after = page[-1][0]
    return records


def _run(arguments: list[str]) -> str:
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=HERE
    ).stdout


def _write_ini(directory: Path, url: str) -> Path:
    path = directory / "kinto.ini"
    lines = [f"{name} = {value}" for name, value in _lines(url).items()]
    path.write_text("\n".join(["[app:main]", "use = egg:kinto", *lines]))
    return path


def _lines(url: str) -> dict[str, str]:
    listener = "kinto.event_listeners.dispatch"
    return {
        "kinto.event_listeners": "dispatch",
        f"{listener}.use": "kinto_dispatch",
        f"{listener}.queue_url": url,
        f"{listener}.channels": "noop",
        f"{listener}.channels.noop.plugin": "noop_channel:NoopChannel",
    }


def _settings(ini: Path) -> dict[str, str]:
    sys.path.insert(0, str(HERE))
    lines = ini.read_text().splitlines()[2:]
    return dict(line.split(" = ", 1) for line in lines)
