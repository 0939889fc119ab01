"""One delivery, run once: whatever the hook does, there is a settlement, and in time."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import logging
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinto_dispatch.attempt import Attempter, run
from kinto_dispatch.attempt.verdict import Broken, Poison, judge
from kinto_dispatch.outcome import Delivered, Rejected, Retry
from kinto_dispatch.plugins import Channel
from kinto_dispatch.queue.values import Claim, Dead, Done, Fate, Later, Settlement
from kinto_dispatch.testing.builders import make_channel, make_event
from kinto_dispatch.testing.waiting import eventually_async


MakeChannel = Callable[..., Channel]

HEAD = """
import asyncio, contextvars, threading, time
from kinto_dispatch import Delivered, Rejected, Retry, hookimpl

seen = []
release = threading.Event()
"""
LATE = "no answer within 0.1 s (timeout_seconds)"

numbers = itertools.count()


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeChannel]:
    """``channel(body)``: a channel whose hook is ``async def`` with this body, or, where it is a
    whole source with a hook, the module of it."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def make(body: str, plain: bool = False, **settings: Any) -> Channel:
        name = f"plugin_to_attempt_{next(numbers)}"
        colour = "def" if plain else "async def"
        hook = f"@hookimpl\n{colour} on_event_async(event, channel, delivery):\n"
        source = HEAD + hook + textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return make_channel(name, **settings)

    yield make
    for name in names:
        if module := sys.modules.pop(name, None):
            module.release.set()


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    """A channel whose plugin cannot be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    source = "import kinto_dispatch\nraise RuntimeError('broken by an update')"
    (tmp_path / "plugin_that_is_broken.py").write_text(source)
    return make_channel("plugin_that_is_broken")


def plugin(channel: Channel) -> Any:
    """The module of a channel."""
    return sys.modules[channel.config.plugin]


def make_claim(**over: Any) -> Claim:
    fields: dict[str, Any] = {
        "lane": "test",
        "id": f"{next(numbers)}-0",
        "consumer": "worker",
        "token": 1,
        "key": "event:test",
        "body": make_event(id="event").encode(),
        "attempt": 1,
    }
    return Claim(**{**fields, **over})


async def attempt(channel: Channel, **over: Any) -> Settlement:
    return await Attempter(channel).attempt(make_claim(**over))


def record_of(settlement: Settlement) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(settlement.record)
    return record


def reason_of(settlement: Settlement) -> str:
    return str(record_of(settlement).get("reason"))


# --- what hooks return ---------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("returned", "fate", "outcome", "reason"),
    [
        ("None", Done, "delivered", None),
        ("Delivered()", Done, "delivered", None),
        ("Delivered('id 5')", Done, "delivered", "id 5"),
        ("Retry('busy')", Later, "retry", "busy"),
        ("Retry('busy', after=60)", Later, "retry", "busy"),
        ("Rejected('no such user')", Dead, "rejected", "no such user"),
    ],
)
async def test_every_outcome_has_its_fate(
    channel: MakeChannel,
    plain: bool,
    returned: str,
    fate: type,
    outcome: str,
    reason: str | None,
) -> None:
    """The same for ``async def`` and for ``def``, which runs in a thread."""
    settlement = await attempt(channel(f"return {returned}", plain))
    assert isinstance(settlement.fate, fate)
    record = record_of(settlement)
    assert (record["outcome"], record.get("reason")) == (outcome, reason)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ("True", "bool"),
        ("False", "bool"),
        ("'ok'", "str"),
        ("(Delivered(), 1)", "tuple"),
        ("Delivered", "type"),
        ("asyncio.sleep(0)", "coroutine"),
    ],
)
async def test_success_is_never_guessed(
    channel: MakeChannel, plain: bool, returned: str, found: str
) -> None:
    """Anything but None or an Outcome is a mistake of the plugin's, named, for somebody to see."""
    settlement = await attempt(channel(f"return {returned}", plain))
    assert isinstance(settlement.fate, Dead)
    assert settlement.fate.kind == "failed"
    allowed = "return None, Delivered, Retry or Rejected"
    assert f"on_event_async returned {found}; {allowed}" in settlement.fate.reason
    assert record_of(settlement)["outcome"] == "failed"


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("raises", "reason"),
    [
        ("ValueError('bad luck')", "ValueError: bad luck"),
        ("TimeoutError('of its own')", "TimeoutError: of its own"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("KeyboardInterrupt()", "KeyboardInterrupt: "),
        ("StopIteration('end')", "StopIteration"),
        ("GeneratorExit()", "GeneratorExit: "),
        ("BaseExceptionGroup('two', [SystemExit()])", "two"),
        ("ValueError('\\ud800')", "ValueError: \\ud800"),
    ],
)
async def test_an_exception_means_another_attempt(
    channel: MakeChannel, plain: bool, raises: str, reason: str
) -> None:
    """With the exception as its reason; none of them ends the event loop, or hangs."""
    settlement = await asyncio.wait_for(attempt(channel(f"raise {raises}", plain)), 5)
    assert isinstance(settlement.fate, Later)
    assert reason in reason_of(settlement)


@pytest.mark.parametrize("plain", [False, True])
async def test_an_exception_without_a_text(channel: MakeChannel, plain: bool) -> None:
    """Its type is told."""
    body = """
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError
        raise Mute
    """
    settlement = await attempt(channel(body, plain))
    assert reason_of(settlement) == "Mute: Mute without a text (RuntimeError)"


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("Retry('\\ud800')", "\\ud800"),
        ("Rejected(ValueError('as it came'))", "as it came"),
        ("Delivered(204)", "204"),
        ("Retry('')", "no reason given"),
        ("Rejected('x' * 5000)", "x" * 1000),
        ("Retry('soon', after='tomorrow')", "soon"),
        ("Retry('soon', after=float('nan'))", "soon"),
        ("Retry('soon', after=-5)", "soon"),
    ],
)
async def test_outcomes_may_hold_anything(channel: MakeChannel, returned: str, told: str) -> None:
    """What a plugin passes on was written by a server."""
    assert reason_of(await attempt(channel(f"return {returned}"))) == told


async def test_an_outcome_that_cannot_be_read(channel: MakeChannel) -> None:
    """A class of the plugin's own that breaks when looked at is a failed attempt."""
    body = """
        class Odd(Retry):
            def __getattribute__(self, name):
                raise RuntimeError("no")
        return Odd("x")
    """
    settlement = await attempt(channel(body))
    assert isinstance(settlement.fate, Later)
    assert reason_of(settlement) == "its outcome cannot be read: RuntimeError"


# --- what stands between us and the hook ---------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"v": 99}', b"[" * 100_000 + b"]" * 100_000]
)
async def test_what_is_no_event_is_a_dead_letter(channel: MakeChannel, body: bytes) -> None:
    """At the first attempt, since it will never be one; the hook is not called (R16, R29)."""
    one = channel("seen.append(event)")
    settlement = await attempt(one, body=body)
    assert isinstance(settlement.fate, Dead)
    assert "Not an event of a known version" in settlement.fate.reason
    assert plugin(one).seen == []


async def test_what_cannot_be_rendered_is_a_dead_letter(channel: MakeChannel) -> None:
    """The template will not be another one at the next attempt."""
    one = channel("channel.render(event)", subject="{{ change.new.title / 0 }}")
    settlement = await attempt(one)
    assert isinstance(settlement.fate, Dead)
    assert settlement.fate.kind == "failed"
    assert "subject" in settlement.fate.reason


async def test_a_failed_channel_keeps_its_deliveries(broken: Channel) -> None:
    """Where a plugin could not be loaded, an attempt fails with the reason, and comes again."""
    settlement = await attempt(broken)
    assert isinstance(settlement.fate, Later)
    assert "broken by an update" in reason_of(settlement)


async def test_a_hook_gets_what_it_asks_for(channel: MakeChannel) -> None:
    """The event, the channel, and the delivery with its key, its number and its deadline."""
    one = channel("seen.append((event, channel, delivery))", timeout_seconds=7)
    await attempt(one, attempt=3, replay=True)
    ((event, got, delivery),) = plugin(one).seen
    assert event.id == "event"
    assert got is one
    assert (delivery.key, delivery.attempt) == ("event:test", 3)
    assert (delivery.replay, delivery.timeout_seconds) == (True, 7.0)


async def test_deliveries_do_not_share_their_context(channel: MakeChannel) -> None:
    """What one hook sets in a context variable, the next one does not see."""
    body = """
        seen.append(variable.get())
        variable.set(delivery.key)
    """
    one = channel(body)
    plugin(one).variable = contextvars.ContextVar("variable", default="nothing")
    attempter, settled = Attempter(one), []

    def again(settlement: Settlement) -> None:
        settled.append(settlement)
        if len(settled) < 3:
            attempter.start(make_claim(), again)

    attempter.start(make_claim(), again)
    await eventually_async(lambda: _true(len(settled) == 3), "three attempts")
    assert plugin(one).seen == ["nothing"] * 3


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
async def test_a_hook_that_takes_too_long(channel: MakeChannel, plain: bool) -> None:
    """Ends with its deadline, and is attempted again; a thread is left behind."""
    body = "release.wait(30)" if plain else "await asyncio.sleep(30)"
    started = time.monotonic()
    settlement = await attempt(channel(body, plain, timeout_seconds=0.1))
    assert time.monotonic() - started < 3
    assert isinstance(settlement.fate, Later)
    assert reason_of(settlement) == LATE
    assert 0.1 <= record_of(settlement)["duration_seconds"] < 3


async def test_a_hook_that_swallows_its_cancellation(channel: MakeChannel) -> None:
    """Is left behind as well, and what it returns at last is not waited for."""
    body = """
        while not release.is_set():
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                seen.append("cancelled")
                while not release.is_set():
                    await asyncio.sleep(0.01)
        seen.append("ended")
    """
    one = channel(body, timeout_seconds=0.1)
    settled: list[Settlement] = []
    Attempter(one).start(make_claim(), settled.append)
    await eventually_async(lambda: _true(settled), "a settlement", 5)
    assert plugin(one).seen == ["cancelled"]
    assert reason_of(settled[0]) == f"{LATE}, and the hook did not end when it was cancelled"
    plugin(one).release.set()
    await eventually_async(lambda: _true("ended" in plugin(one).seen), "the hook to end")
    assert len(settled) == 1


@pytest.mark.parametrize(
    ("late", "fate", "reason"),
    [
        ("return None", Later, LATE),
        ("return Delivered('just so')", Done, "just so"),
        ("return Rejected('no')", Dead, "no"),
        ("raise OSError('broken pipe')", Later, "OSError: broken pipe"),
        ("raise", Later, LATE),
    ],
)
async def test_what_a_cancelled_hook_says(
    channel: MakeChannel, late: str, fate: type, reason: str
) -> None:
    """An outcome counts, also a late one; None does not, since any hook may end with it."""
    body = f"""
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            {late}
    """
    settlement = await attempt(channel(body, timeout_seconds=0.1))
    assert isinstance(settlement.fate, fate)
    assert reason_of(settlement) == reason


@pytest.mark.parametrize(
    "body",
    [
        "asyncio.current_task().cancel()\nawait asyncio.sleep(30)",
        "raise asyncio.CancelledError",
        "task = asyncio.ensure_future(asyncio.sleep(30))\ntask.cancel()\nawait task",
    ],
)
async def test_a_hook_that_cancels_itself(channel: MakeChannel, body: str) -> None:
    """Is a failed attempt, and takes nobody along."""
    settlement = await attempt(channel(body))
    assert isinstance(settlement.fate, Later)
    assert reason_of(settlement) == "the hook was cancelled from within"


async def test_a_cancelled_run_tells_nobody(channel: MakeChannel) -> None:
    """The hook is cancelled and its delivery is given back by whoever holds it."""
    body = """
        try:
            await asyncio.sleep(30)
        finally:
            seen.append("cancelled")
    """
    one = channel(body, timeout_seconds=0.2)
    settled: list[Settlement] = []
    run = Attempter(one).start(make_claim(), settled.append)
    await asyncio.sleep(0)
    run.cancel()
    await eventually_async(lambda: _true(plugin(one).seen), "the hook to end")
    # Past its deadline, and past the time for which it would have been waited.
    await asyncio.sleep(0.3)
    assert settled == []


async def test_whoever_stops_waiting_cancels_the_hook(channel: MakeChannel) -> None:
    """As everywhere in asyncio."""
    body = """
        try:
            await asyncio.sleep(30)
        finally:
            seen.append("cancelled")
    """
    one = channel(body)
    waiting = asyncio.ensure_future(attempt(one))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually_async(lambda: _true(plugin(one).seen), "the hook to end")


async def test_each_attempt_has_its_own_deadline(channel: MakeChannel) -> None:
    """One timer does for all, and is late for none."""
    one = channel("await asyncio.sleep(30)", timeout_seconds=0.2)
    attempter = Attempter(one)
    ends: list[float] = []
    begun: list[float] = []
    for _ in range(5):
        begun.append(time.monotonic())
        attempter.start(make_claim(), lambda settlement: ends.append(time.monotonic()))
        await asyncio.sleep(0.05)
    await eventually_async(lambda: _true(len(ends) == 5), "all to end", 5)
    took = [end - start for start, end in zip(begun, ends, strict=True)]
    assert min(took) >= 0.199
    assert max(took) < 2


# --- threads -------------------------------------------------------------------------------------


async def test_threads_that_hang_are_counted(channel: MakeChannel) -> None:
    """Each keeps its thread after its deadline; when none is free an attempt fails at once."""
    one = channel("release.wait(30)", plain=True, timeout_seconds=0.05, concurrency=1)
    attempter = Attempter(one)
    room = attempter.room
    for hanging in range(room):
        assert attempter.room == room - hanging
        assert reason_of(await attempter.attempt(make_claim())).startswith("no answer")
    assert attempter.room == 0
    settlement = await attempter.attempt(make_claim())
    assert isinstance(settlement.fate, Later)
    assert reason_of(settlement) == (
        f"all {room} threads of channel 'test' are still busy; earlier attempts hang"
    )
    plugin(one).release.set()
    await eventually_async(lambda: _true(attempter.room == room), "the threads to come free")
    assert isinstance((await attempter.attempt(make_claim())).fate, Done)


async def test_a_thread_is_free_when_its_outcome_is_told(channel: MakeChannel) -> None:
    """So that whoever waits for a free one can begin the next attempt at once."""
    attempter = Attempter(channel("pass", plain=True))
    room = attempter.room
    for _ in range(200):
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        attempter.start(
            make_claim(), lambda settlement, told=told: told.set_result(attempter.room)
        )
        assert await asyncio.wait_for(told, 5) == room


async def test_a_thread_that_ends_after_the_loop_disturbs_nobody(channel: MakeChannel) -> None:
    """As after a test message to a channel that hangs."""
    one = channel("release.wait(30)", plain=True, timeout_seconds=0.05)
    raised: list[Any] = []
    before = threading.excepthook
    threading.excepthook = raised.append
    try:
        await asyncio.to_thread(lambda: asyncio.run(attempt(one)))
        plugin(one).release.set()
        busy = [thread for thread in threading.enumerate() if thread.name == "dispatch-test"]
        await eventually_async(lambda: _true(all(map(_is_idle, busy))), "the thread to end")
    finally:
        threading.excepthook = before
    assert raised == []


# --- the judge -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "attempt_number", "expected"),
    [
        (None, 1, Done()),
        (Delivered("x"), 1, Done()),
        (Retry("busy"), 2, Dead("refused", "busy (attempt 2 of 2)", answered=False)),
        (Rejected("no"), 1, Dead("refused", "no", answered=True)),
        (Rejected("no"), 2, Dead("refused", "no", answered=True)),
        (Rejected("no", pause=True), 1, Dead("refused", "no", answered=True, pause=True)),
        (Broken("raised"), 2, Dead("failed", "raised (attempt 2 of 2)", answered=False)),
        (Broken("raised", final=True), 1, Dead("failed", "raised")),
        (Poison("died"), 1, Dead("poison", "died")),
        (Broken("raised"), 10**15, Dead("failed", f"raised (attempt {10**15} of 2)", False)),
    ],
)
def test_what_ends_a_delivery(
    channel: MakeChannel, result: Any, attempt_number: int, expected: Fate
) -> None:
    """Refused, broken for good, poison, or out of attempts: each with its kind, and with whether
    the destination answered, which is not asked where it had no part in it."""
    fate, _, _ = judge(result, make_claim(attempt=attempt_number), channel("pass", max_attempts=2))
    assert fate == expected


@pytest.mark.parametrize("result", [Retry("busy"), Broken("raised")])
def test_what_comes_again(channel: MakeChannel, result: Any) -> None:
    """With the next number, after the delay of the schedule."""
    one = channel("pass", retry_delays_seconds="10 20")
    for number, delay in ((1, 10), (2, 20), (3, 20)):
        fate, _, _ = judge(result, make_claim(attempt=number), one)
        assert isinstance(fate, Later)
        assert fate.attempt == number + 1
        assert fate.delay_seconds == pytest.approx(delay, rel=0.11)
        assert not fate.suspect


def test_a_destination_may_ask_for_more_time(channel: MakeChannel) -> None:
    """Its ``after`` is a lower bound."""
    one = channel("pass", retry_delays_seconds="1")
    fate, _, _ = judge(Retry("busy", after=100), make_claim(), one)
    assert isinstance(fate, Later)
    assert fate.delay_seconds >= 100


# --- the record ----------------------------------------------------------------------------------


async def test_the_record_says_what_where_when_how_long(channel: MakeChannel) -> None:
    """Everything an operator may ask for, and nothing that is empty."""
    one = channel("await asyncio.sleep(0.05)\nreturn Delivered('id 5')")
    settlement = await Attempter(one, clock=lambda: 1_000.5).attempt(
        make_claim(key="event:test:3", attempt=4, replay=True)
    )
    record = record_of(settlement)
    assert 0.05 <= record.pop("duration_seconds") < 5
    assert record == {
        "event_id": "event",
        "key": "event:test:3",
        "channel": "test",
        "attempt": 4,
        "outcome": "delivered",
        "at": 1000.5,
        "reason": "id 5",
        "replay": True,
    }


@pytest.mark.parametrize(
    ("returned", "level"),
    [("None", logging.DEBUG), ("Retry('x')", logging.INFO), ("Rejected('x')", logging.WARNING)],
)
async def test_each_attempt_is_one_line_in_the_log(
    channel: MakeChannel, caplog: pytest.LogCaptureFixture, returned: str, level: int
) -> None:
    """With all its fields; only what needs a person is a warning."""
    caplog.set_level(logging.DEBUG, logger="kinto_dispatch.attempt")
    await attempt(channel(f"return {returned}"))
    (line,) = [one for one in caplog.records if one.name == "kinto_dispatch.attempt"]
    assert line.levelno == level
    assert line.getMessage().startswith("delivery.attempted event_id='event' key='event:test'")
    assert line.__dict__["outcome"] in line.getMessage()
    assert ("retry_in_seconds" in line.__dict__) is (level == logging.INFO)
    assert line.__dict__.get("dead_letter") == ("refused" if level == logging.WARNING else None)


async def test_attempts_made_elsewhere_are_reported_alike(channel: MakeChannel) -> None:
    """What brought no outcome comes again, what kills does not."""
    attempter = Attempter(channel("pass"), clock=lambda: 100.0)
    given_up = attempter.give_up(make_claim(), "its process was killed", 5.0)
    assert isinstance(given_up.fate, Later)
    assert (record_of(given_up)["at"], record_of(given_up)["duration_seconds"]) == (95.0, 5.0)
    condemned = attempter.condemn(make_claim(), "it died twice")
    assert condemned.fate == Dead("poison", "it died twice")
    assert record_of(condemned)["outcome"] == "poison"


def test_a_second_is_given_to_end() -> None:
    """Long enough to close a connection, short enough not to hold up a lane."""
    assert run.GIVE_UP_SECONDS == 1.0


async def _true(value: object) -> bool:
    return bool(value)


def _is_idle(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    names = set()
    while frame:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return "_next" in names or not names
