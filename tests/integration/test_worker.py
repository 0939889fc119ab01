"""``kinto-dispatch worker`` as an operator runs it: started, stopped, killed, left alone."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
import requests

from kinto_dispatch.testing.valkey import LocalValkey
from kinto_dispatch.testing.waiting import eventually
from kinto_dispatch.testing.worker import LocalWorker


if TYPE_CHECKING:
    from tests.conftest import Deploy, Deployment


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server that the test may pause and kill; not yet started."""
    (tmp_path / "valkey").mkdir()
    server = LocalValkey(tmp_path / "valkey")
    yield server
    server.stop()


def publish(deployment: Deployment, count: int, **data: Any) -> set[str]:
    """Events in the log; the ids of their records."""
    ids = {f"r{number}" for number in range(count)}
    deployment.publish(*({"id": record_id, **data} for record_id in sorted(ids)))
    return ids


def begun(deployment: Deployment, count: int, channel: str = "ops") -> None:
    """Wait until so many attempts have begun."""
    eventually(lambda: len(deployment.begun(channel)) >= count, f"{count} to be in flight", 20)


def seconds(call: Callable[[], Any]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_lets_what_is_in_flight_finish(deploy: Deploy, processes: str) -> None:
    """Twenty deliveries of a second each: all end well, none is made twice, and nothing new is
    begun (R3)."""
    deployment = deploy({"ops": {"seconds": "1", "concurrency": "20"}})
    worker = deployment.worker("--processes", processes, "--concurrency", "10").start()
    ids = publish(deployment, 40)
    begun(deployment, 10)
    before = len(deployment.begun())
    assert worker.stop() == 0
    assert len(deployment.begun()) <= before + 10
    assert len(deployment.done()) == len(deployment.begun())
    assert set(deployment.delivered().values()) == {1}
    deployment.burst()
    assert deployment.delivered() == dict.fromkeys(ids, 1)
    assert {line["attempt"] for line in deployment.begun()} == {1}


def test_sigint_does_the_same(deploy: Deploy) -> None:
    """As Ctrl-C sends it (R3)."""
    deployment = deploy({"ops": {"seconds": "0.5"}})
    worker = deployment.worker().start()
    ids = publish(deployment, 5)
    begun(deployment, 5)
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0
    assert deployment.delivered() == dict.fromkeys(ids, 1)


def test_a_second_signal_gives_back_at_once(deploy: Deploy) -> None:
    """What runs is cancelled and does not count as an attempt (R4)."""
    deployment = deploy({"ops": {"seconds": "60"}})
    worker = deployment.worker().start()
    publish(deployment, 20)
    begun(deployment, 20)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "worker.stopping" in worker.said, "the first signal to be seen")
    worker.signal(signal.SIGTERM)
    assert seconds(lambda: _is_zero(worker.wait())) < 5
    (lane,) = deployment.status()
    assert (lane.waiting, lane.in_flight, lane.retry) == (20, 0, 0)
    assert deployment.attempts() == []
    assert deployment.done() == []


def test_what_takes_longer_than_the_stop_is_given_back(deploy: Deploy) -> None:
    """Within ``shutdown_seconds``; the next worker makes the same attempt (R4)."""
    deployment = deploy({"ops": {"seconds": "3"}}, shutdown_seconds="1.5")
    worker = deployment.worker().start()
    ids = publish(deployment, 10)
    begun(deployment, 10)
    assert seconds(lambda: _is_zero(worker.stop())) < 3
    assert deployment.attempts() == []
    deployment.burst()
    assert deployment.delivered() == dict.fromkeys(ids, 1)
    assert {line["attempt"] for line in deployment.begun()} == {1}
    assert len(deployment.begun()) == 20


@pytest.mark.parametrize("hook", ["swallow", "sleep"])
def test_a_hook_that_does_not_end_does_not_hold_up_the_end(deploy: Deploy, hook: str) -> None:
    """Neither one that swallows its cancellation nor a thread that sleeps."""
    plain = {"plugin": "recorder_channel:PlainChannel"} if hook == "sleep" else {}
    deployment = deploy({"ops": plain}, shutdown_seconds="1")
    worker = deployment.worker().start()
    publish(deployment, 3, do=hook)
    begun(deployment, 3)
    assert seconds(lambda: _is_zero(worker.stop())) < 3
    (lane,) = deployment.status()
    assert (lane.waiting, lane.in_flight) == (3, 0)


@pytest.mark.parametrize("away", ["paused", "killed"])
@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_while_the_queue_is_away(
    deploy: Deploy, valkey: LocalValkey, away: str, busy: bool
) -> None:
    """The worker ends within ``shutdown_seconds`` all the same, and with 0 (R5)."""
    valkey.start()
    deployment = deploy(
        {"ops": {"seconds": "0.5" if busy else "0"}}, queue_url=valkey.url, shutdown_seconds="3"
    )
    worker = deployment.worker().start()
    if busy:
        publish(deployment, 10)
        begun(deployment, 10)
    valkey.pause() if away == "paused" else valkey.kill()
    assert seconds(lambda: _is_zero(worker.stop())) < 3 + 1


def test_an_idle_worker_ends_at_once(deploy: Deploy) -> None:
    """All of its processes."""
    worker = deploy().worker("--processes", "2").start()
    children = worker.children
    assert len(children) == 2
    assert seconds(lambda: _is_zero(worker.stop())) < 4
    assert not any(child.is_running() for child in children)


def test_a_worker_that_finishes_still_lives(deploy: Deploy) -> None:
    """For those who ask; it says how much it still has in flight."""
    deployment = deploy({"ops": {"seconds": "3"}})
    worker = deployment.worker().start()
    publish(deployment, 2)
    begun(deployment, 2)
    worker.signal(signal.SIGTERM)

    def draining() -> list[Any]:
        return list(deployment.with_queue(lambda queue: queue.workers()))

    eventually(lambda: draining() and draining()[0]["in_flight"] == 2, "the worker to say so")
    assert worker.wait() == 0
    assert draining() == []


# --- several processes ---------------------------------------------------------------------------


def test_a_process_that_dies_is_started_again(deploy: Deploy) -> None:
    """By the one above it, which says so; what it held arrives."""
    deployment = deploy({"ops": {"seconds": "0.5"}}, lease_seconds="2")
    worker = deployment.worker("--processes", "2").start()
    victim, other = worker.children
    ids = publish(deployment, 30)
    begun(deployment, 30)
    victim.kill()
    deployment.await_delivered(ids)
    eventually(lambda: worker.said.count("worker.started") == 3, "another process", 20)
    assert f"worker.died pid={victim.pid} code=-9; starting it again" in worker.said
    assert other.is_running()
    assert worker.stop() == 0


def test_a_process_that_cannot_start_is_no_storm(deploy: Deploy) -> None:
    """It is started again at longer and longer intervals, and each time is said."""
    deployment = deploy()
    worker = deployment.worker("--processes", "2").start()
    (deployment.directory / "sitecustomize.py").write_text("raise SystemExit(3)\n")
    started = time.monotonic()
    victim, other = worker.children
    victim.kill()
    eventually(lambda: worker.said.count("worker.died") == 3, "it to die again and again", 20)
    assert time.monotonic() - started > 1 + 2
    assert worker.said.count("code=1; starting it again") == 2
    assert other.is_running()
    assert worker.stop() == 0


def test_processes_without_the_one_above_end_by_themselves(deploy: Deploy) -> None:
    """After they have finished what is in flight."""
    deployment = deploy({"ops": {"seconds": "1"}})
    worker = deployment.worker("--processes", "2", "--concurrency", "5").start()
    ids = publish(deployment, 10)
    begun(deployment, 10)
    children = worker.children
    psutil.Process(worker.pid).kill()
    eventually(lambda: not any(map(_runs, children)), "the processes to end", 20)
    worker.wait()
    assert deployment.delivered() == dict.fromkeys(ids, 1)


def test_what_runs_alone_ends_with_its_worker(deploy: Deploy) -> None:
    """Also when it never ends by itself, and the worker had no time to end it."""
    deployment = deploy({"ops": {"timeout_seconds": "60"}}, lease_seconds="1")
    first = deployment.worker().start()
    deployment.publish({"id": "r", "do": "sleep"})
    begun(deployment, 1)
    first.kill()
    second = deployment.worker().start()
    begun(deployment, 2)
    alone = deployment.begun()[1]["pid"]
    assert alone != second.pid
    psutil.Process(second.pid).kill()
    eventually(lambda: not psutil.pid_exists(alone), "what runs alone to end")
    second.wait()
    eventually(lambda: not second.leftovers, "all of it to end")


# --- options -------------------------------------------------------------------------------------


def test_a_burst_leaves_what_is_due_later(deploy: Deploy) -> None:
    """It ends when everything due has been settled."""
    deployment = deploy({"ops": {"retry_delays_seconds": "600"}})
    deployment.publish(
        {"id": "good"}, {"id": "later", "do": "retry"}, {"id": "bad", "do": "reject"}
    )
    deployment.burst()
    assert set(deployment.delivered()) == {"good"}
    (lane,) = deployment.status()
    assert (lane.waiting, lane.in_flight, lane.retry, lane.dead) == (0, 0, 1, 1)


def test_only_the_channels_asked_for(deploy: Deploy) -> None:
    """The others' lanes fill, in the order of the log, until somebody runs them."""
    deployment = deploy({"ops": {}, "news": {}})
    deployment.publish({"id": "r"})
    deployment.burst("--channels", "news")
    assert set(deployment.delivered("news")) == {"r"}
    assert deployment.begun("ops") == []
    assert [lane.waiting for lane in deployment.status()] == [1, 0]
    deployment.burst("--channels", "ops")
    assert set(deployment.delivered("ops")) == {"r"}


def test_no_more_at_a_time_than_asked_for(deploy: Deploy) -> None:
    """Whatever the channel's setting says, also for hooks that run in threads."""
    deployment = deploy(
        {
            "ops": {"seconds": "0.1", "concurrency": "50"},
            "plain": {
                "plugin": "recorder_channel:PlainChannel",
                "seconds": "0.1",
                "concurrency": "2",
            },
        }
    )
    publish(deployment, 24)
    deployment.burst("--concurrency", "6")
    for channel in ("ops", "plain"):
        records = deployment.attempts(channel)
        assert [one["outcome"] for one in records] == ["delivered"] * 24
        assert _most_at_a_time(deployment, channel) == 6


def test_a_burst_does_not_wait_for_a_queue(deploy: Deploy, valkey: LocalValkey) -> None:
    """Whoever started it waits for its end, and is told."""
    worker = deploy(queue_url=valkey.url).worker("--burst").start(wait=False)
    assert worker.wait() == 69
    assert f"The queue at {valkey.url} cannot be used: there is no such socket." in worker.said


def test_a_worker_with_a_shorter_lease_takes_nothing_from_who_lives(deploy: Deploy) -> None:
    """Workers tell each other theirs: where one is to be changed, not all have to stop (R25)."""
    deployment = deploy({"ops": {"seconds": "3"}}, lease_seconds="30")
    long = deployment.worker().start()
    ids = publish(deployment, 3)
    begun(deployment, 3)
    ini = deployment.ini.with_name("short.ini")
    text = deployment.ini.read_text()
    ini.write_text(text.replace("lease_seconds = 30", "lease_seconds = 1"))
    assert ini.read_text() != text
    with LocalWorker(ini, name="short") as short:
        deployment.await_delivered(ids)
        assert {line["pid"] for line in deployment.begun()} == {long.pid}
        publish(deployment, 6)
        begun(deployment, 9)
        long.kill()
        eventually(lambda: len(deployment.done()) == 9, "the rest to arrive", 60)
        assert short.stop() == 0


# --- values that are not ours --------------------------------------------------------------------


def damage(queue_url: str) -> None:
    """Put something into the keys of the lane ``ops`` that makes a script of its fail."""
    with redis.Redis.from_url(queue_url) as server:
        server.rpush("kinto-dispatch:{lane:ops}:members:r", b"\xc1")
        server.zadd("kinto-dispatch:{lane:ops}:collecting", {"r": 1})


def test_what_the_queue_rejects_in_one_lane_holds_up_no_other(
    deploy: Deploy, queue_url: str
) -> None:
    """The worker lives, says what is wrong, is not ready, and goes on where it was put right."""
    deployment = deploy({"ops": {"digest_seconds": "1"}, "news": {}}, queue_url=queue_url)
    damage(queue_url)
    worker = deployment.worker("--health-port", "0").start()
    eventually(lambda: "lane 'ops' waits: The queue at" in worker.said, "it to be said")
    ids = publish(deployment, 5)
    deployment.await_delivered(ids, "news")
    address = re.search(r"worker\.health url=(\S+)", worker.said)
    assert address is not None
    ready, live = (f"{address[1]}/{path}" for path in ("readyz", "livez"))
    eventually(lambda: "lane 'ops': The queue at" in requests.get(ready, timeout=5).text, "it")
    answer = requests.get(ready, timeout=5)
    assert (answer.status_code, "somebody else changed its keys" in answer.text) == (503, True)
    assert requests.get(live, timeout=5).status_code == 200
    with redis.Redis.from_url(queue_url) as server:
        server.delete("kinto-dispatch:{lane:ops}:members:r")
    eventually(lambda: "lane 'ops' goes on" in worker.said, "it to go on")
    eventually(lambda: deployment.done("ops"), "the digest")
    eventually(lambda: requests.get(ready, timeout=5).status_code == 200, "it to be ready")


def test_a_burst_ends_with_what_the_queue_rejects(deploy: Deploy, queue_url: str) -> None:
    """Whoever started it waits for its end, and is told."""
    deployment = deploy({"ops": {"digest_seconds": "1"}}, queue_url=queue_url)
    damage(queue_url)
    worker = deployment.worker("--burst").start(wait=False)
    assert worker.wait() == 69
    assert "it rejected a request" in worker.said
    assert "Traceback" not in worker.said


# --- hooks that do not end -----------------------------------------------------------------------


def test_hooks_that_hang_hurt_only_themselves(deploy: Deploy) -> None:
    """Each ends with its deadline and is a dead letter at last; another channel does not
    wait (R17) (B29)."""
    limits = {"timeout_seconds": "0.5", "max_attempts": "2", "retry_delays_seconds": "0.1"}
    deployment = deploy(
        {
            "ops": {**limits, "concurrency": "2"},
            "plain": {**limits, "plugin": "recorder_channel:PlainChannel"},
            "well": {"when": "new.do == `null`"},
        }
    )
    ids = {f"r{number}" for number in range(20)}
    records = [{"id": one} for one in sorted(ids)]
    with deployment.worker() as worker:
        deployment.publish(
            {"id": "sleeps", "do": "sleep"}, {"id": "swallows", "do": "swallow"}, *records
        )
        assert seconds(lambda: deployment.await_delivered(ids, "well")) < 5
        deployment.await_delivered(ids, "ops")
        deployment.await_delivered(ids, "plain")
        eventually(lambda: len(deployment.dead_letters("ops")) == 2, "two dead letters", 20)
        eventually(lambda: len(deployment.dead_letters("plain")) == 1, "one more", 20)
        assert worker.stop() == 0
    for letter in (*deployment.dead_letters("ops"), *deployment.dead_letters("plain")):
        assert letter.kind == "failed"
        assert letter.reason.startswith("no answer within 0.5 s (timeout_seconds)")
        assert letter.attempts == 2


def test_a_hook_that_blocks_its_worker(deploy: Deploy) -> None:
    """The process ends with its stacks in the log and is started again; what blocked runs alone
    from then on, fails at its deadline, and is a dead letter. All else arrives
    (R17)."""
    limits = {"timeout_seconds": "0.5", "max_attempts": "2", "retry_delays_seconds": "0.1"}
    deployment = deploy({"ops": limits, "well": {"when": "new.do == `null`"}}, lease_seconds="2")
    ids = {f"r{number}" for number in range(20)}
    worker = deployment.worker("--processes", "2", "--standstill-seconds", "3").start()
    deployment.publish({"id": "blocks", "do": "spin"}, *({"id": one} for one in sorted(ids)))
    deployment.await_delivered(ids, "well")
    deployment.await_delivered(ids, "ops")
    letters = eventually(deployment.dead_letters, "a dead letter", 40)
    assert [(one.kind, one.attempts) for one in letters] == [("failed", 2)]
    assert "no answer within 0.5 s (timeout_seconds), and its process had to be killed" in (
        letters[0].reason
    )
    eventually(lambda: "starting it again" in worker.said, "the process to end", 40)
    assert "code=70; starting it again" in worker.said
    assert "recorder_channel.py" in worker.said
    assert worker.said.count("starting it again") == 1, worker.said
    assert worker.stop() == 0, worker.said


def _is_zero(code: int) -> None:
    assert code == 0


def _runs(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _most_at_a_time(deployment: Deployment, channel: str) -> int:
    """How many attempts of a channel were under way at once."""
    begins = [line["at"] for line in deployment.begun(channel)]
    ends = [line["at"] for line in deployment.done(channel)]
    return max(
        sum(begin <= moment for begin in begins) - sum(end <= moment for end in ends)
        for moment in begins
    )
