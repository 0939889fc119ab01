"""Three web processes and two workers that share the embedded queue, started in either order, all
killed at once, and started again."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import psutil
import pytest

from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

WEB_PROCESSES = 3
WORKERS = 2
WRITES = 60


@pytest.mark.parametrize("first", ["kinto", "workers"])
def test_either_may_start_first_and_all_may_die(
    deploy: Deploy, postgresql_url: str, first: str
) -> None:
    """One server on the directory at a time, nothing lost and nothing invented, before and after
    everything was killed in the middle of its work (R1, R12, R22)."""
    deployment = deploy(
        {"ops": {"resources": "record", "seconds": "0.05"}},
        kinto={"kinto.storage_url": postgresql_url},
        processes=WEB_PROCESSES,
        lease_seconds="2",
    )
    start(deployment, first)
    deployment.make_collections()
    written = deployment.post_all(WRITES, batch=5)
    kill(deployment)
    assert len(started_servers(deployment)) == 1
    start(deployment, "workers" if first == "kinto" else "kinto")
    written |= deployment.post_all(WRITES, batch=5)
    delivered = deployment.await_delivered(written, seconds=60)
    assert set(delivered) == written
    assert deployment.dead_letters() == []
    assert len(started_servers(deployment)) == 2
    assert len(running_servers(deployment)) == 1


def start(deployment: Deployment, first: str) -> None:
    """Kinto and the workers, the one after the other."""
    workers = deployment.workers or [deployment.worker() for _ in range(WORKERS)]
    for what in ("kinto", "workers") if first == "kinto" else ("workers", "kinto"):
        if what == "kinto":
            deployment.kinto.start()
            continue
        for worker in workers:
            worker.start()


def kill(deployment: Deployment) -> None:
    """SIGKILL for every process of it, the queue's included."""
    deployment.kinto.kill()
    for worker in deployment.workers:
        worker.kill()
    # The guardian would start its server again.
    for process in (*guardians(deployment), *running_servers(deployment)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    eventually(lambda: not deployment.leftovers(), "everything to be gone")


def guardians(deployment: Deployment) -> list[psutil.Process]:
    """Those of this deployment that run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            words = process.cmdline()
            if "guardian.py" in " ".join(words[:6]) and str(deployment.queue_dir) in words:
                found.append(process)
    return found


def started_servers(deployment: Deployment) -> list[int]:
    """All servers that ever started on its directory, by their own log."""
    log = deployment.queue_dir / "valkey.log"
    return [int(pid) for pid in re.findall(r"pid=(\d+), just started", log.read_text())]


def running_servers(deployment: Deployment) -> list[psutil.Process]:
    """Those of them that run."""
    found = []
    for pid in started_servers(deployment):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
