"""How a loop lives through the absence of a server."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from kinto_dispatch.errors import OutboxUnavailable, QueueRejected, QueueUnavailable
from kinto_dispatch.patience import LONGEST_SECONDS, Patience


class Server:
    """Answers what it is told to, one after the other, then always the last."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.asked_at: list[float] = []

    async def ask(self) -> object:
        self.asked_at.append(time.monotonic())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


AWAY = QueueUnavailable("redis://localhost", "nothing listens there")


async def test_the_result_of_the_step_is_returned() -> None:
    """At once, and nothing is said."""
    assert await Patience(asyncio.Event()).attempt(Server(5).ask, "work") == 5


@pytest.mark.parametrize("error", [AWAY, OutboxUnavailable("The outbox cannot be used")])
async def test_an_absence_is_waited_for(error: Exception) -> None:
    """``None`` after a wait, so that the loop decides what to do next."""
    server = Server(error, "back")
    patience = Patience(asyncio.Event())
    started = time.monotonic()
    assert await patience.attempt(server.ask, "work") is None
    assert time.monotonic() - started >= 0.045
    assert await patience.attempt(server.ask, "work") == "back"


async def test_waits_grow_up_to_a_bound() -> None:
    """So that a server that comes back is noticed within the longest of them."""
    server, patience = Server(AWAY), Patience(asyncio.Event())
    for _ in range(4):
        await patience.attempt(server.ask, "work")
    gaps = [b - a for a, b in zip(server.asked_at, server.asked_at[1:], strict=False)]
    for gap, longest in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 * 0.99 <= gap < longest + 1
    assert LONGEST_SECONDS == 2.0


async def test_an_absence_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And its end; each loop for itself."""
    caplog.set_level(logging.INFO)
    patience, server = Patience(asyncio.Event()), Server(AWAY, AWAY, "back", "back")
    for _ in range(4):
        await patience.attempt(server.ask, "settling")
    await patience.attempt(Server(AWAY).ask, "claiming")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"settling waits: {AWAY}", "settling goes on", f"claiming waits: {AWAY}"]


async def test_what_the_server_rejects_is_borne_and_known() -> None:
    """By what it was for, until it is rejected no longer."""
    rejection = QueueRejected("redis://localhost", "no such command")
    server, patience = Server(rejection, AWAY, "back"), Patience(asyncio.Event())
    await patience.attempt(server.ask, "settling")
    await patience.attempt(Server(AWAY).ask, "claiming")
    assert patience.rejected == {"settling": rejection}
    await patience.attempt(server.ask, "settling")
    assert patience.rejected == {}
    await patience.attempt(server.ask, "settling")
    assert patience.rejected == {}


async def test_stopping_ends_a_wait() -> None:
    """At once, whatever it waits for."""
    stopping = asyncio.Event()
    patience = Patience(stopping)
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    started = time.monotonic()
    await patience.pause(60)
    assert time.monotonic() - started < 5


async def test_what_is_no_absence_is_raised() -> None:
    """A bug is not waited for."""
    with pytest.raises(ZeroDivisionError):
        await Patience(asyncio.Event()).attempt(Server(ZeroDivisionError()).ask, "work")
