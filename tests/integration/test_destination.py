"""What workers know together of a lane's destination."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kinto_dispatch.breaker import CLOSED, FAILURES, SPAN_SECONDS, Breaker
from kinto_dispatch.lane.destination import Destination
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Claim, Dead, Done, Fate, Later, Settlement


RECORD = b"""{"event_id":"e","key":"k","channel":"ops","attempt":1,"outcome":"failed","at":0,
"duration_seconds":0,"reason":"it is not there"}"""
FAILURE, ANSWER = Later(1.0, 2), Done()


@pytest.fixture
async def queue(queue_url: str) -> AsyncIterator[StreamsQueue]:
    """A real queue."""
    queue = StreamsQueue(lambda: queue_url, "kd", ["ops"])
    yield queue
    await queue.close()


@pytest.fixture
def here(queue: StreamsQueue) -> Destination:
    """As one worker sees it."""
    return Destination("ops", queue, "here", random=lambda: 0.0)


@pytest.fixture
def there(queue: StreamsQueue) -> Destination:
    """As another worker sees it."""
    return Destination("ops", queue, "there", random=lambda: 0.0)


def claim(entry_id: str = "1-0", key: str = "k", attempt: int = 1) -> Claim:
    return Claim("ops", entry_id, "here", 1, key, b"", attempt)


def ended(fate: Fate, count: int = 1, entry_id: str = "1-0") -> list[Settlement]:
    """So many different deliveries ended like this."""
    keys = (f"{entry_id}:{fate}:{number}" for number in range(count))
    return [Settlement(claim(entry_id, key), fate, RECORD) for key in keys]


async def breaker(queue: StreamsQueue) -> Breaker:
    text, _ = await queue.breaker("ops")
    return Breaker.decode(text)


async def put(queue: StreamsQueue, after: Breaker) -> None:
    text, _ = await queue.breaker("ops")
    assert await queue.move_breaker("ops", text, after.encode())


async def put_open(queue: StreamsQueue, rest_seconds: float = 0.0) -> None:
    _, now_ms = await queue.breaker("ops")
    until_ms = now_ms + round(rest_seconds * 1000)
    await put(queue, replace(CLOSED, state="open", failures=FAILURES, until_ms=until_ms))


async def failed_for_long(queue: StreamsQueue) -> None:
    """All failures but one, over all the time that it takes."""
    _, now_ms = await queue.breaker("ops")
    since_ms = now_ms - round(SPAN_SECONDS * 1000)
    await put(queue, Breaker("closed", FAILURES - 1, since_ms))


async def test_failures_in_a_row_are_counted_together(
    queue: StreamsQueue, here: Destination, there: Destination
) -> None:
    """Whoever saw them. What tells nothing of the destination does not count."""
    here.learn(ended(FAILURE, 3))
    await here.share()
    there.learn([*ended(Dead("refused", "", answered=False), 2), *ended(Dead("poison", ""), 9)])
    await there.share()
    assert (await breaker(queue)).failures == 5
    assert here.is_trusted
    assert there.is_trusted


async def test_a_retry_that_fails_again_is_counted_once(
    queue: StreamsQueue, here: Destination, there: Destination
) -> None:
    """By all workers together: one bad delivery closes nobody's way."""
    for worker in (here, there, here):
        for entry_id in ("1-0", "2-0"):
            worker.learn([Settlement(claim(entry_id, "bad"), FAILURE, RECORD)])
            await worker.share()
    assert (await breaker(queue)).failures == 1
    there.learn(ended(FAILURE))
    await there.share()
    assert (await breaker(queue)).failures == 2


async def test_what_is_new_is_probed_with_rather_than_a_retry(
    queue: StreamsQueue, here: Destination
) -> None:
    """What failed before may fail for a reason of its own. Where all did, and each was looked
    at, the first one has to do."""
    await put_open(queue)
    assert await here.ask_to_probe() == 0
    here.takes([claim("1-0", "bad", 2)])
    here.takes([claim("2-0", "worse", 3)])
    assert here.probe == ""
    here.takes([claim("3-0", "new", 1)])
    assert here.probe == "3-0"
    assert not here.may_attempt(claim("1-0"))
    here.learn([Settlement(claim("3-0", "new"), FAILURE, RECORD)])
    for entry_id, key in (("4-0", "bad"), ("5-0", "worse")):
        here.takes([claim(entry_id, key, 2)])
        assert here.probe == ""
    here.takes([claim("6-0", "bad", 2)])
    assert here.probe == "6-0"


async def test_a_better_probe_is_not_looked_for_for_ever(
    here: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a lane with thousands of retries, or where a rate limit gives out one at a time."""
    monkeypatch.setattr("kinto_dispatch.lane.destination.PASS_OVER_SECONDS", 0.0)
    here.takes([claim("1-0", "bad", 2)])
    here.takes([claim("2-0", "worse", 2)])
    assert here.probe == "2-0"


@pytest.mark.parametrize("answer", [ANSWER, Dead("refused", "", answered=True)])
async def test_an_answer_ends_the_row(
    queue: StreamsQueue, here: Destination, answer: Fate
) -> None:
    """Only what failed after it counts; to say that nothing failed costs nothing."""
    here.learn([*ended(FAILURE, 50), *ended(answer), *ended(FAILURE, 2)])
    assert here.has_news
    await here.share()
    assert (await breaker(queue)).failures == 2
    assert not here.has_news
    await put(queue, CLOSED)
    await here.look()
    here.learn(ended(answer, 100))
    assert not here.has_news


async def test_the_last_failure_opens_it(
    queue: StreamsQueue,
    here: Destination,
    there: Destination,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Then nothing may be attempted, by anybody who looks, and the log says for how long and
    why."""
    await failed_for_long(queue)
    here.learn(ended(FAILURE))
    await here.share()
    assert (await breaker(queue)).state == "open"
    said = "breaker.opened channel=ops rests_seconds=5.0 probes=0 reason='it is not there'"
    assert caplog.messages == [said]
    await there.look()
    for one in (here, there):
        assert not one.is_trusted
        assert not one.may_attempt(claim())
        assert 4 < await one.ask_to_probe() <= 5


async def test_in_doubt_each_waits_and_tries_one(queue: StreamsQueue, here: Destination) -> None:
    """A destination that refuses at once does not cost thousands of attempts until it is known
    to be down."""
    here.learn(ended(FAILURE, 500))
    await here.share()
    assert (await breaker(queue)).state == "closed"
    assert not here.is_trusted
    assert not here.needs_permission
    assert SPAN_SECONDS - 2 < await here.ask_to_probe() <= SPAN_SECONDS
    _, now_ms = await queue.breaker("ops")
    await put(queue, Breaker("closed", 500, now_ms - round(SPAN_SECONDS * 1000)))
    assert await here.ask_to_probe() == 0
    here.takes([claim("7-0")])
    assert here.may_attempt(claim("7-0"))
    assert not here.may_attempt(claim("8-0"))
    here.learn(ended(ANSWER, entry_id="7-0"))
    await put(queue, CLOSED)  # as the call does that settles it
    await here.share()
    assert here.is_trusted


async def test_one_of_all_workers_probes(
    queue: StreamsQueue,
    here: Destination,
    there: Destination,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As long as it takes; when it fails the next rest is longer, when it is answered the breaker
    is closed for all."""
    caplog.set_level("INFO")
    await put_open(queue)
    assert await here.ask_to_probe() == 0
    assert here.needs_permission
    assert await there.ask_to_probe() > 5
    here.takes([claim("7-0")])
    assert await here.ask_to_probe() == 0
    here.learn(ended(FAILURE, entry_id="7-0"))
    await here.share()
    now = await breaker(queue)
    assert (now.state, now.probes) == ("open", 1)
    assert "rests_seconds=10.0 probes=1" in caplog.text
    await put(queue, replace(now, until_ms=0))
    assert await there.ask_to_probe() == 0
    there.takes([claim("9-0")])
    there.learn(ended(ANSWER, entry_id="9-0"))
    await there.share()
    assert await breaker(queue) == CLOSED
    assert caplog.messages[-1] == "breaker.closed channel=ops: it answers again"
    assert there.is_trusted
    assert await here.ask_to_probe() == 0
    assert here.is_trusted


async def test_any_answer_closes_it(queue: StreamsQueue, here: Destination) -> None:
    """Also of what was under way when it opened."""
    await put_open(queue, 30)
    await here.look()
    here.learn(ended(ANSWER))
    await here.share()
    assert await breaker(queue) == CLOSED


async def test_failures_of_others_end_no_probe(queue: StreamsQueue, here: Destination) -> None:
    """What was under way when it opened fails late, and changes nothing."""
    await put_open(queue)
    await here.ask_to_probe()
    here.takes([claim("7-0")])
    here.learn(ended(FAILURE, 20, entry_id="1-0"))
    await here.share()
    assert (await breaker(queue)).state == "half-open"


async def test_what_one_worker_is_told_all_wait_for(
    queue: StreamsQueue, here: Destination, there: Destination, caplog: pytest.LogCaptureFixture
) -> None:
    """The longest of what was said; what is answered meanwhile changes nothing. Nobody needs to
    read of it, as nothing is broken."""
    caplog.set_level("INFO")
    told = [Later(1.0, 2, rest_seconds=2.0), Dead("refused", "", False, rest_seconds=60.0)]
    here.learn([*ended(ANSWER), *ended(told[1]), *ended(told[0]), *ended(ANSWER)])
    await here.share()
    assert not here.is_trusted
    there.learn(ended(ANSWER, 2))
    await there.look()
    await there.share()
    assert 59 < await there.ask_to_probe() <= 60
    assert (await breaker(queue)).state == "throttled"
    (line,) = caplog.records
    assert line.getMessage().startswith("breaker.throttled channel=ops rests_seconds=60.0 ")
    assert line.levelname == "INFO"
    _, now_ms = await queue.breaker("ops")
    await put(queue, replace(await breaker(queue), until_ms=now_ms))
    assert await here.ask_to_probe() == 0
    here.takes([claim("8-0")])
    here.learn(ended(ANSWER, entry_id="8-0"))
    await here.share()
    assert await breaker(queue) == CLOSED
    assert {one.levelname for one in caplog.records} == {"INFO"}


async def test_who_leaves_lets_others_probe(
    queue: StreamsQueue, here: Destination, there: Destination
) -> None:
    """At once."""
    await put_open(queue)
    assert await here.ask_to_probe() == 0
    await there.leave()
    assert await there.ask_to_probe() > 0
    await here.leave()
    assert await there.ask_to_probe() == 0


async def test_a_long_probe_stays_the_only_one(
    queue: StreamsQueue, here: Destination, there: Destination
) -> None:
    """Its permission is prolonged whenever it is asked for again."""
    await put_open(queue)
    await here.ask_to_probe()
    now = await breaker(queue)
    await put(queue, replace(now, until_ms=now.until_ms - 9_000))
    assert await here.ask_to_probe() == 0
    assert await there.ask_to_probe() > 5
