"""A bounded pool of threads that can be left behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial

import pytest

from kinto_dispatch import threads
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.threads import PoolExhausted, ThreadPool


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the end of the test, for threads that wait at it."""
    gate = threading.Event()
    yield gate
    gate.set()


def named(pool: ThreadPool) -> list[threading.Thread]:
    """The threads of a pool that live."""
    return [one for one in threading.enumerate() if one.name == f"dispatch-{pool.name}"]


def is_told_at(call: Future[object], pool: ThreadPool) -> int:
    """How many threads were busy when the result of a call was told."""
    seen: list[int] = []
    call.add_done_callback(lambda future: seen.append(pool.busy))
    eventually(lambda: seen, "the call to end")
    return seen[0]


def test_calls_run_side_by_side(gate: threading.Event) -> None:
    """As many as there are threads, each in its own."""
    pool = ThreadPool("side-by-side", 3)
    barrier = threading.Barrier(3, timeout=10)
    calls = [pool.submit(barrier.wait) for _ in range(3)]
    wait(calls, 10)
    assert sorted(call.result() for call in calls) == [0, 1, 2]


def test_what_is_put_in_line_runs_in_its_turn(gate: threading.Event) -> None:
    """In the order of the calls; what was cancelled before its turn does not run at all."""
    pool, ran = ThreadPool("line", 2), list[int]()
    busy = [pool.enqueue(gate.wait) for _ in range(2)]
    eventually(lambda: all(call.running() for call in busy), "both threads to be busy")
    first, second, third = (pool.enqueue(partial(ran.append, number)) for number in range(3))
    assert second.cancel()
    assert not any(call.cancel() for call in busy)
    gate.set()
    wait([first, third], 10)
    assert sorted(ran) == [0, 2]
    eventually(lambda: pool.busy == 0, "the threads to come free")
    assert len(named(pool)) <= 2


def test_where_the_system_has_no_thread_others_are_waited_for(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are none at all, the call is refused."""
    pool, ran = ThreadPool("poor", 3), list[str]()
    pool.enqueue(gate.wait)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        call = pool.enqueue(partial(ran.append, "in line"))
        with pytest.raises(PoolExhausted, match="the system has no thread"):
            ThreadPool("poorer", 3).enqueue(gate.wait)
    assert not call.done()
    gate.set()
    wait([call], 10)
    assert ran == ["in line"]


def test_what_can_hope_for_no_thread_is_refused_at_once(gate: threading.Event) -> None:
    """Where each is held by a call that was given up; it waits as long as one may come free."""
    pool = ThreadPool("hopeless", 2)
    first, second = (pool.enqueue(gate.wait) for _ in range(2))
    eventually(lambda: pool.under_way == (2, 0), "both threads to be busy")
    assert pool.give_up(first)
    waiting = pool.enqueue(time.monotonic)
    assert pool.give_up(second)
    assert not pool.give_up(waiting)
    with pytest.raises(PoolExhausted, match="all 2 threads"):
        pool.enqueue(time.monotonic)
    assert pool.under_way == (2, 2)
    gate.set()
    eventually(lambda: pool.busy == 0, "the threads to come free")
    assert pool.enqueue(lambda: "again").result(10) == "again"
    eventually(lambda: pool.under_way == (0, 0), "nothing to be held")


def test_a_system_without_more_threads_is_hopeless_where_all_hang(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the pool might have more of them."""
    pool = ThreadPool("few", 3)
    call = pool.enqueue(gate.wait)
    eventually(call.running, "the call to begin")
    pool.give_up(call)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(PoolExhausted, match="all 1 threads"):
        pool.enqueue(time.monotonic)


def test_what_finds_no_thread_is_refused_at_once(gate: threading.Event) -> None:
    """With what is busy; nothing waits in line behind what may hang."""
    pool = ThreadPool("busy", 2)
    for _ in range(2):
        pool.submit(gate.wait)
    with pytest.raises(PoolExhausted, match="all 2 threads of channel 'busy' are still busy"):
        pool.submit(time.monotonic)
    gate.set()
    eventually(lambda: pool.busy == 0, "the threads to come free")
    assert pool.submit(lambda: "again").result(10) == "again"


def test_threads_are_started_when_needed_and_used_again() -> None:
    """Not one for each call."""
    pool = ThreadPool("again", 50)
    assert named(pool) == []
    used = {pool.submit(threading.get_ident).result(10) for _ in range(200)}
    assert len(used) == len(named(pool)) <= 2


def test_a_thread_is_free_before_its_caller_hears(gate: threading.Event) -> None:
    """Or the next call would be refused although a thread is about to be free."""
    pool = ThreadPool("free", 1)
    call = pool.submit(gate.wait)
    gate.set()
    assert is_told_at(call, pool) == 0
    for _ in range(500):
        assert pool.submit(lambda: 1).result(10) == 1


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_call_raises_is_its_result(raised: BaseException) -> None:
    """And the thread goes on."""
    pool = ThreadPool("raises", 1)

    def call() -> None:
        raise raised

    assert pool.submit(call).exception(10) is raised
    assert pool.submit(lambda: "on").result(10) == "on"


async def test_stop_iteration_is_told_to_asyncio() -> None:
    """Whose futures do not take it: whoever waited would wait for ever."""
    pool = ThreadPool("stop", 1)

    def call() -> object:
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(asyncio.wrap_future(pool.submit(call)), 5)


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And new ones come when they are needed."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.05)
    pool = ThreadPool("idle", 4)
    barrier = threading.Barrier(4, timeout=10)
    for _ in range(3):
        wait([pool.submit(barrier.wait) for _ in range(4)], 10)
        eventually(lambda: named(pool) == [], "the threads to end")


def test_no_call_is_lost_where_threads_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may come in the moment in which the thread that would take it gives up waiting."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.001)
    pool = ThreadPool("coming", 2)
    for number in range(300):
        time.sleep(0.0009 + number % 5 / 10_000)  # around the moment, not until it
        assert pool.submit(lambda: "there").result(10) == "there"


def test_a_cancelled_call_does_not_run() -> None:
    """Unless it has begun already; its thread takes the next one in any case."""
    pool = ThreadPool("cancelled", 1)
    ran: set[int] = set()
    cancelled = set()
    for number in range(30):
        if pool.submit(partial(ran.add, number)).cancel():
            cancelled.add(number)
        eventually(lambda: pool.busy == 0, "the thread to come free")
    assert ran.isdisjoint(cancelled)
    assert ran | cancelled == set(range(30))


def test_a_system_without_threads_is_a_full_pool() -> None:
    """Nothing is counted that never began, so there is one when the system has one again."""
    pool = ThreadPool("none", 5)
    before = threading.stack_size(1 << 46)
    try:
        with pytest.raises(PoolExhausted):
            pool.submit(time.monotonic)
    finally:
        threading.stack_size(before)
    assert pool.busy == 0
    assert pool.submit(lambda: "there").result(10) == "there"


def test_a_call_that_hangs_does_not_keep_the_process() -> None:
    """It is left behind, as its caller has left it."""
    script = (
        "import threading\n"
        "from kinto_dispatch.threads import ThreadPool\n"
        "ThreadPool('hangs', 1).submit(threading.Event().wait)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


FORKS = """
import os, threading
from kinto_dispatch.threads import ThreadPool
pool, gate = ThreadPool("forks", 2), threading.Event()
assert pool.submit(lambda: "before").result(10) == "before"
calls = [pool.enqueue(gate.wait) for _ in range(3)]
assert pool.give_up(calls[0])
child = os.fork()
if child == 0:
    try:
        told = [run(lambda: "there").result(10) for run in (pool.enqueue, pool.submit)]
        os._exit(0 if told == ["there"] * 2 and pool.under_way[1] == 0 else 1)
    finally:
        os._exit(2)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
assert [call.result(10) for call in calls] == [True] * 3
raise SystemExit(status)
"""


def test_a_fork_has_threads_of_its_own() -> None:
    """Those of its parent are not in it, idle or hanging; the parent keeps its own."""
    script = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    done = subprocess.run(script, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
