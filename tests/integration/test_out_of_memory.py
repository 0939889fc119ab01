"""A hook that takes memory until there is no more, within a limit of its own process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

PLUGIN = """
import ctypes, os, resource
from recorder_channel import DO, RecorderChannel as HungryChannel

MOST_BYTES = 200_000_000


def bound():
    '''This process gets so much more and nothing else does, so that the machine never notices.'''
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def eater(size):
    async def eat():
        bound()
        eaten = []
        while True:
            eaten.append(os.urandom(16) * (size // 16))
    return eat


async def abort():
    '''As a C library does that cannot go on without.'''
    bound()
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    while (found := libc.malloc(10_000_000)):
        ctypes.memset(found, 1, 10_000_000)
    libc.abort()


DO.update(gulp=eater(10_000_000), nibble=eater(1_024), abort=abort)
"""

OTHERS = {f"r{number}" for number in range(20)}


def hungry(
    deploy: Deploy, directory: Path, options: Mapping[str, str] = {}, **settings: str
) -> Deployment:
    """A deployment whose channel may be told to take all memory."""
    (directory / "hungry_channel.py").write_text(PLUGIN)
    plugin = {"plugin": "hungry_channel:HungryChannel", "path": str(directory / "ops.jsonl")}
    return deploy({"ops": {**plugin, **options}}, **settings)


@pytest.mark.parametrize("how", ["gulp", "nibble"])
def test_a_hook_that_gets_no_more_memory_fails_its_attempt(
    deploy: Deploy, tmp_path: Path, how: str
) -> None:
    """Like any other error, and until it is out of attempts. Its worker lives on and delivers
    everything else, before and after (R15)."""
    delays = {"max_attempts": "2", "retry_delays_seconds": "0.1"}
    deployment = hungry(deploy, tmp_path, delays)
    worker = deployment.worker().start()
    deployment.publish(*({"id": name} for name in sorted(OTHERS)), {"id": "fat", "do": how})
    eventually(lambda: len(deployment.dead_letters()) == 1, "it to be a dead letter", 60)
    deployment.publish({"id": "behind"})
    assert deployment.await_delivered([*OTHERS, "behind"]) == dict.fromkeys([*OTHERS, "behind"], 1)
    (letter,) = deployment.dead_letters()
    assert (letter.kind, letter.attempts) == ("failed", 2)
    assert "MemoryError" in letter.reason
    assert {line["pid"] for line in deployment.begun()} == {worker.pid}
    assert worker.stop() == 0


def test_a_process_that_dies_for_want_of_memory_is_poison(deploy: Deploy, tmp_path: Path) -> None:
    """The first time it takes its worker along, which proves nothing; dying alone twice does.
    Everything else is delivered (R15)."""
    deployment = hungry(deploy, tmp_path, lease_seconds="2")
    worker = deployment.worker("--processes", "2").start()
    deployment.publish(*({"id": name} for name in sorted(OTHERS)), {"id": "fat", "do": "abort"})
    eventually(lambda: len(deployment.dead_letters()) == 1, "it to be a dead letter", 60)
    deployment.publish({"id": "behind"})
    deployment.await_delivered([*OTHERS, "behind"])
    (letter,) = deployment.dead_letters()
    assert letter.kind == "poison"
    assert "alone died (killed by SIGABRT)" in letter.reason
    deaths = [line["pid"] for line in deployment.begun() if line["ids"] == ["fat"]]
    assert len(deaths) == len(set(deaths)) <= 3
    assert worker.said.count("worker.died") <= 1
    assert len(deployment.dead_letters()) == 1
    assert worker.stop() == 0
