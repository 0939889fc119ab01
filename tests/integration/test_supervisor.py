"""Several workers under one where no process is to be had: it waits, says so, and goes on."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kinto_dispatch.cli.processes import Supervised, restart_seconds
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment

SCRIPT = """
import errno, logging, os, subprocess, sys
from kinto_dispatch.cli.processes import supervise

refusals, burst, *arguments = sys.argv[1:]
left = int(refusals)


def spawn(*arguments, **options):
    global left
    if left:
        left -= 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return subprocess.Popen(*arguments, **options)


logging.basicConfig(level=logging.INFO)
sys.exit(supervise(arguments, 2, burst == "burst", spawn=spawn))
"""
"""A supervisor whose first starts fail, as fork() does at a limit."""

NO_PROCESS = f"worker.not_started [Errno {errno.EAGAIN}] {os.strerror(errno.EAGAIN)}; the next try"


class Supervisor:
    """Runs ``SCRIPT`` over workers of a deployment."""

    def __init__(
        self, deployment: Deployment, refusals: int, *, burst: bool = False, script: str = SCRIPT
    ) -> None:
        self._log = deployment.directory / "supervisor.log"
        worker = ["worker", "--processes", "1", "--supervised", "--ini", str(deployment.ini)]
        words = [str(refusals), "burst" if burst else "", *worker, *["--burst"] * burst]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(deployment.directory)},
            )

    @property
    def said(self) -> str:
        """Its log, and that of those under it."""
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit code; ended in any case."""
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


def test_a_first_start_that_fails_is_tried_again(deploy: Deploy) -> None:
    """None of two could be started: both are, a second later, and the end is as ever."""
    deployment = deploy()
    supervisor = Supervisor(deployment, refusals=2)
    try:
        eventually(lambda: supervisor.said.count("worker.started") == 2, "both to start", 60)
        deployment.publish({"id": "r"})
        deployment.await_delivered(["r"])
    finally:
        supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0, supervisor.said
    assert supervisor.said.count(NO_PROCESS) == 2
    assert "Traceback" not in supervisor.said


def test_one_that_cannot_start_holds_up_no_other(deploy: Deploy) -> None:
    """The other delivers, and a signal ends both in good order."""
    deployment = deploy()
    deployment.publish({"id": "r"})
    supervisor = Supervisor(deployment, refusals=1)
    try:
        deployment.await_delivered(["r"])
    finally:
        supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0, supervisor.said
    assert supervisor.said.count(NO_PROCESS) == 1


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_burst_that_could_not_start_has_failed(deploy: Deploy, refusals: int) -> None:
    """It is not tried again, since a burst ends; whoever did start settled what there was."""
    deployment = deploy()
    deployment.publish({"id": "r"})
    supervisor = Supervisor(deployment, refusals, burst=True)
    assert supervisor.wait() == 1
    assert set(deployment.delivered()) == ({"r"} if refusals == 1 else set())
    assert supervisor.said.count(NO_PROCESS) == refusals


def test_a_worker_that_dies_where_there_is_no_room_for_another(deploy: Deploy) -> None:
    """Here no more files may be opened. The one above lives, says what is missing, and starts it
    when there is room again."""
    deployment = deploy()
    worker = deployment.worker("--processes", "2").start()
    victim = worker.children[0]
    before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    victim.kill()
    refused = f"worker.not_started [Errno {errno.EMFILE}] {os.strerror(errno.EMFILE)}"
    eventually(lambda: refused in worker.said, "it to be said", 30)
    assert f"worker.died pid={victim.pid} code=-9" in worker.said
    deployment.publish({"id": "r"})
    deployment.await_delivered(["r"])
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
    eventually(lambda: worker.said.count("worker.started") == 3, "another to start", 60)
    assert worker.stop() == 0


def test_tries_become_rarer() -> None:
    """As with one that dies again and again, and each says when the next one is."""
    tries: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        tries.append(options["pass_fds"])
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    child = Supervised(["worker"], refuse)
    assert not child.revive()  # too early
    assert len(tries) == 1
    assert not child.runs
    assert not child.vitals().is_live
    assert child.vitals().stuck == ("could not be started; it is tried again",)
    child.pass_on(signal.SIGTERM)
    assert not child.was_asked_to_stop
    eventually(lambda: child.revive() or len(tries) == 3, "two more tries", 30)
    assert not child.runs
    assert restart_seconds(2) == 4 * restart_seconds(0)


# --- one that stands still -----------------------------------------------------------------------

IMPATIENT = """
import logging, sys
from kinto_dispatch import vitals
from kinto_dispatch.cli.processes import supervise

vitals.SILENT_SECONDS = 3.0
logging.basicConfig(level=logging.INFO)
sys.exit(supervise(sys.argv[3:], 2, False, ask_seconds=1.0, kill_seconds=1.0))
"""
"""A supervisor that does not wait for a minute."""


def test_one_that_stands_still_is_replaced(deploy: Deploy) -> None:
    """It is asked, killed and started again, which the log says; what it held arrives, and the
    other one goes on."""
    deployment = deploy({"ops": {"seconds": "1"}}, lease_seconds="3")
    supervisor = Supervisor(deployment, 0, script=IMPATIENT)
    try:
        eventually(lambda: supervisor.said.count("worker.started") == 2, "both to start", 60)
        victim, other = psutil.Process(supervisor.process.pid).children()
        deployment.publish(*({"id": f"r{number}"} for number in range(20)))
        eventually(
            lambda: {line["pid"] for line in deployment.begun()} == {victim.pid, other.pid},
            "both to have something in flight",
        )
        victim.suspend()
        eventually(lambda: supervisor.said.count("worker.started") == 3, "another to start", 60)
        eventually(lambda: len(deployment.delivered()) == 20, "what it held to arrive", 60)
        assert other.is_running()
    finally:
        supervisor.process.send_signal(signal.SIGTERM)
    assert supervisor.wait() == 0, supervisor.said
    stuck = re.findall(rf"worker\.stuck pid={victim.pid} (.*); (.*)", supervisor.said)
    assert [what for _, what in stuck] == ["asking it to stop", "killing it"]
    assert all(re.match(r"its event loop has stood still for \d+ s", why) for why, _ in stuck)
    assert f"worker.died pid={victim.pid} code=-9; starting it again" in supervisor.said


def test_a_signal_that_reaches_all_of_them_is_one(deploy: Deploy) -> None:
    """As systemd sends it: what is in flight finishes, and nothing is given back. A second one is
    for the one above to pass on."""
    deployment = deploy({"ops": {"seconds": "2"}})
    worker = deployment.worker("--processes", "2", "--concurrency", "5").start()
    children = worker.children
    deployment.publish(*({"id": f"r{number}"} for number in range(10)))
    eventually(lambda: len(deployment.begun()) == 10, "all to be in flight")
    worker.signal(signal.SIGTERM)
    for child in children:
        child.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert len(deployment.done()) == 10
    assert len(deployment.attempts()) == 10


def test_a_second_signal_reaches_them(deploy: Deploy) -> None:
    """What runs is given back at once, and does not count as an attempt."""
    deployment = deploy({"ops": {"seconds": "60"}})
    worker = deployment.worker("--processes", "2").start()
    deployment.publish(*({"id": f"r{number}"} for number in range(10)))
    eventually(lambda: len(deployment.begun()) == 10, "all to be in flight")
    worker.signal(signal.SIGTERM)
    eventually(lambda: worker.said.count("worker.stopping") == 2, "the first signal to be seen")
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    (lane,) = deployment.status()
    assert (lane.waiting, lane.in_flight, lane.retry) == (10, 0, 0)
    assert deployment.attempts() == []
