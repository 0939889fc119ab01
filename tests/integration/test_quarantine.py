"""Suspects run alone: a death hurts nobody else, and is told from everything else."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kinto_dispatch.plugins import Configuration, configure
from kinto_dispatch.quarantine import Died, Postponed, Quarantine, Unfinished, quarantine
from kinto_dispatch.queue.values import Claim, Dead, Done, Later
from kinto_dispatch.testing.builders import make_change, make_event
from kinto_dispatch.testing.waiting import eventually_async


PLUGIN = """
import asyncio, ctypes, os, re, signal, sys, time
from pydantic import BaseModel
from kinto_dispatch import Delivered, Rejected, Retry, hookimpl


class Channel:
    class Settings(BaseModel):
        path: str

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    async def on_event_async(self, event, channel, delivery):
        with open(self.settings.path, "a") as file:
            print(os.getpid(), file=file)
        return await eval(event.changes[0].new["do"], globals())

    async def close(self):
        with open(self.settings.path, "a") as file:
            print("closed", file=file)
        at_close()


def at_close():
    pass


async def say_then(do):
    global at_close
    at_close = do


def cancelled():
    raise asyncio.CancelledError


async def call(function, *arguments):
    function(*arguments)


async def say(outcome):
    return outcome


async def spin():
    while True:
        pass


async def swallow():
    while True:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            pass


async def leave_a_child(path):
    if (child := os.fork()) == 0:
        time.sleep(60)
        os._exit(0)
    with open(path, "w") as file:
        print(child, file=file)
    os._exit(3)
"""

numbers = itertools.count()


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configuration]:
    """Channels whose records say what their hooks shall do: ``ops``, with 0.3 seconds for each,
    and ``slow``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "suspect_plugin.py").write_text(PLUGIN)
    base = "kinto.event_listeners.dispatch."
    settings = {
        "kinto.event_listeners": "dispatch",
        f"{base}use": "kinto_dispatch",
        f"{base}channels": "ops slow",
        f"{base}channels.ops.timeout_seconds": "0.3",
    }
    for name in ("ops", "slow"):
        settings[f"{base}channels.{name}.plugin"] = "suspect_plugin:Channel"
        settings[f"{base}channels.{name}.path"] = str(tmp_path / "pids")
    yield configure(settings, {})
    sys.modules.pop("suspect_plugin", None)


@pytest.fixture
async def alone(configuration: Configuration) -> AsyncIterator[Quarantine]:
    """A quarantine; nothing of it is left at the end."""
    alone = Quarantine(configuration.source, grace_seconds=0.3)
    yield alone
    alone.close()
    assert keepers() == []


def keepers() -> list[psutil.Process]:
    """Those of this process, which has other children: the servers of the whole run."""
    return [child for child in psutil.Process().children() if _keeps(child)]


def _keeps(process: psutil.Process) -> bool:
    try:
        return "kinto_dispatch.quarantine.keeper" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def suspect(do: str, size: int = 0, lane: str = "ops") -> Claim:
    change = make_change(new={"do": do, "text": "x" * size})
    event = make_event(id=f"e{next(numbers)}", changes=(change,))
    return Claim(lane, "1-0", "worker", 2, f"{event.id}:{lane}", event.encode(), 3, suspect=True)


def pids(tmp_path: Path) -> list[str]:
    path = tmp_path / "pids"
    return path.read_text().split() if path.exists() else []


async def test_what_was_lost_while_it_waited_does_not_begin(
    alone: Quarantine, tmp_path: Path
) -> None:
    """A worker may stand still until the keeper is ready, and lose its lease meanwhile."""
    with pytest.raises(Postponed):
        await alone.attempt(suspect("say(None)"), 0.3, lambda: False)
    assert not (tmp_path / "pids").exists()


@pytest.mark.parametrize(
    ("do", "fate"),
    [
        ("say(None)", Done()),
        ("say(Rejected('no'))", Dead("refused", "no", answered=True)),
        ("say(Rejected('no', True))", Dead("refused", "no", answered=True, pause=True)),
        ("say(42)", Dead),
        ("say(Retry('busy'))", Later),
        ("call(sys.exit, 3)", Later),
        ("asyncio.sleep(100)", Later),
    ],
)
async def test_an_attempt_that_ends_is_settled_as_anywhere(
    alone: Quarantine, do: str, fate: Any
) -> None:
    """With its record, and with the attempt number that it had."""
    claim = suspect(do)
    settlement = await alone.attempt(claim, 0.3)
    assert settlement.claim is claim
    assert settlement.fate == fate or isinstance(settlement.fate, fate)
    assert json.loads(settlement.record)["attempt"] == 3


@pytest.mark.parametrize(
    ("do", "how"),
    [
        ("call(os._exit, 3)", "exit code 3"),
        ("call(os._exit, 0)", "exit code 0"),
        ("call(ctypes.string_at, 0)", "killed by SIGSEGV"),
        ("call(os.kill, os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("call(os.abort)", "killed by SIGABRT"),
    ],
)
async def test_a_death_is_told_with_its_cause(alone: Quarantine, do: str, how: str) -> None:
    """It was alone, so there is no doubt who did it. The next one finds everything as it was
    (R15)."""
    claim = suspect(do)
    with pytest.raises(Died) as caught:
        await alone.attempt(claim, 0.3)
    assert str(caught.value) == f"the process that ran {claim.key} alone died ({how})"
    assert (await alone.attempt(suspect("say(None)"), 0.3)).fate == Done()


@pytest.mark.parametrize(
    "do", ["spin()", "call(time.sleep, 100)", "call(re.match, '(a+)+$', 'a' * 64 + 'b')"]
)
async def test_what_does_not_end_is_killed(alone: Quarantine, do: str, tmp_path: Path) -> None:
    """After its deadline; that speaks for no death, so it is no strike (R17)."""
    with pytest.raises(Unfinished) as caught:
        await alone.attempt(suspect(do), 0.3)
    late = "no answer within 0.3 s (timeout_seconds), and its process had to be killed"
    assert str(caught.value) == late
    assert 0.3 <= caught.value.took_seconds < 5
    (pid,) = pids(tmp_path)
    assert not psutil.pid_exists(int(pid))


async def test_what_swallows_its_cancellation_is_left_behind(
    configuration: Configuration,
) -> None:
    """Also here, before its process has to be killed."""
    alone = Quarantine(configuration.source)
    settlement = await alone.attempt(suspect("swallow()"), 0.3)
    alone.close()
    assert isinstance(settlement.fate, Later)
    reason = json.loads(settlement.record)["reason"]
    assert reason.endswith("and the hook did not end when it was cancelled")


async def test_a_process_that_left_another_one_behind(alone: Quarantine, tmp_path: Path) -> None:
    """Which keeps everything open that says of its end: it is over at its deadline."""
    with pytest.raises(Unfinished):
        await alone.attempt(suspect(f"leave_a_child({str(tmp_path / 'child')!r})"), 0.3)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


async def test_many_run_at_once_each_in_its_own(alone: Quarantine, tmp_path: Path) -> None:
    """Slow ones don't wait for each other."""
    await alone.attempt(suspect("say(None)"), 30)  # the first has to wait until all is loaded
    started = time.monotonic()
    slow = [suspect("asyncio.sleep(1)", lane="slow") for _ in range(20)]
    attempts = [alone.attempt(claim, 30) for claim in slow]
    settlements = await asyncio.gather(*attempts)
    assert time.monotonic() - started < 10
    assert all(settlement.fate == Done() for settlement in settlements)
    assert len(set(pids(tmp_path)) - {"closed"}) == 21


async def test_channels_are_closed(alone: Quarantine, tmp_path: Path) -> None:
    """As in the worker, so that what a plugin keeps back until then gets out."""
    await alone.attempt(suspect("say(None)"), 0.3)

    async def is_closed() -> bool:
        return pids(tmp_path)[1:] == ["closed"]

    await eventually_async(is_closed, "the channel to be closed")


@pytest.mark.parametrize("do", ["cancelled", "lambda: os._exit(0)", "lambda: time.sleep(60)"])
async def test_what_was_delivered_is_settled_however_its_channel_closes(
    alone: Quarantine, do: str
) -> None:
    """Else it would be sent again, or be taken for poison; and the next one can run."""
    assert (await alone.attempt(suspect(f"say_then({do})"), 5)).fate == Done()
    assert (await alone.attempt(suspect("say(None)"), 5)).fate == Done()


async def test_large_events_get_there(alone: Quarantine) -> None:
    """Whatever a pipe holds at a time."""
    assert (await alone.attempt(suspect("say(None)", 20_000_000), 30)).fate == Done()


async def test_whoever_stops_waiting_ends_the_process(alone: Quarantine, tmp_path: Path) -> None:
    """At once, and not at its deadline."""
    waiting = asyncio.ensure_future(alone.attempt(suspect("asyncio.sleep(100)"), 100))
    await eventually_async(lambda: asyncio.to_thread(pids, tmp_path), "the hook to run")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (pid,) = pids(tmp_path)
    await eventually_async(lambda: _is_gone(int(pid)), "its process to end")


async def test_a_keeper_that_dies_is_nobodys_fault(alone: Quarantine, tmp_path: Path) -> None:
    """What it kept ends with it and comes again, and there is another keeper."""
    waiting = asyncio.ensure_future(alone.attempt(suspect("spin()"), 100))
    await eventually_async(lambda: asyncio.to_thread(pids, tmp_path), "the hook to run")
    (pid,) = pids(tmp_path)
    (keeper,) = keepers()
    keeper.kill()
    await eventually_async(lambda: _is_gone(int(pid)), "what it kept to end")
    with pytest.raises(Unfinished, match="it could not be run alone: its process ended"):
        await waiting
    assert (await alone.attempt(suspect("say(None)"), 0.3)).fate == Done()


async def test_a_keeper_that_does_not_answer_is_ended(
    alone: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a process hangs in the kernel: what else it kept comes again with another one."""
    monkeypatch.setattr(quarantine, "ANSWER_SECONDS", 0.5)
    await alone.attempt(suspect("say(None)"), 0.3)
    (keeper,) = keepers()
    keeper.suspend()
    with pytest.raises(Unfinished, match="it cannot get rid of a process"):
        await alone.attempt(suspect("say(None)"), 0.3)
    assert not keeper.is_running()
    monkeypatch.setattr(quarantine, "ANSWER_SECONDS", 30)
    assert (await alone.attempt(suspect("say(None)"), 0.3)).fate == Done()


async def test_a_keeper_that_cannot_start_is_nobodys_fault(
    alone: Quarantine, configuration: Configuration
) -> None:
    """An ini that was broken meanwhile, for example."""
    source = {**configuration.source, "kinto.event_listeners.dispatch.channels": "nobody"}
    broken = Quarantine(source)
    with pytest.raises(Unfinished, match="it could not be run alone: its process ended"):
        await broken.attempt(suspect("say(None)"), 0.3)


@pytest.mark.parametrize(
    ("of", "room"), [("worker", -1), ("keeper", -1), ("keeper", 1), ("keeper", 2)]
)
async def test_without_room_for_a_process_a_suspect_waits(
    alone: Quarantine, of: str, room: int
) -> None:
    """It is no death, so no strike; when there is room again it runs. With some room there is a
    process, which has none for its event loop."""
    if of == "keeper":
        await alone.attempt(suspect("say(None)"), 0.3)
    limited = psutil.Process() if of == "worker" else keepers()[0]
    if of == "keeper":
        await eventually_async(lambda: _is_childless(limited), "the first suspect to be gone")
    files = limited.num_fds() + room
    # Not through psutil, which opens a file to set the limit back.
    before = resource.prlimit(limited.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(limited.pid, resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        with pytest.raises(Unfinished, match=r"it could not be run alone: .* open files"):
            await alone.attempt(suspect("say(None)"), 0.3)
    finally:
        resource.prlimit(limited.pid, resource.RLIMIT_NOFILE, before)
    assert (await alone.attempt(suspect("say(None)"), 0.3)).fate == Done()


async def test_a_lane_whose_suspects_hang_holds_up_no_other(
    alone: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lane has places of its own (R19)."""
    monkeypatch.setattr(quarantine, "AT_ONCE", 2)
    hanging = [
        asyncio.ensure_future(alone.attempt(suspect("asyncio.sleep(100)"), 100)) for _ in range(5)
    ]
    await asyncio.sleep(0)
    fate = (await alone.attempt(suspect("say(None)", lane="slow"), 30)).fate
    assert fate == Done()
    assert not any(one.done() for one in hanging)
    for one in hanging:
        one.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_an_idle_keeper_ends(alone: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory is worth more than the second that the next start takes."""
    monkeypatch.setattr(quarantine, "IDLE_SECONDS", 0.1)
    await alone.attempt(suspect("say(None)"), 0.3)
    await eventually_async(lambda: _none_keeps(), "the keeper to end")
    assert (await alone.attempt(suspect("say(None)"), 0.3)).fate == Done()


async def _is_gone(pid: int) -> bool:
    """Whether it has ended; nobody may be there to reap it."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def _is_childless(process: psutil.Process) -> bool:
    return not process.children()


async def _none_keeps() -> bool:
    return not keepers()
