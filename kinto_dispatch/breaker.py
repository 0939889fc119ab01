"""When a lane rests because its destination is down, and when that is looked into. Pure.

The breaker of a lane is shared by all of its workers, and is one of four things:

* *closed*: the lane runs, and the different deliveries that failed in a row are counted, each of
  them once: one that fails whenever it is attempted, since its record is odd or a plugin has a
  bug, tells nothing of the destination. Any answer, also a refusal, ends the row. ``FAILURES`` of
  them over at least ``SPAN_SECONDS`` open the breaker: ten, since a few errors in a row come by
  chance where every third attempt fails (one in 59,000 rows of ten), and
  three seconds, since a destination that is being restarted is back by then, and the deliveries
  that failed meanwhile are due again in a few seconds anyway. In doubt, when there were as many
  failures in less time, each worker waits for the rest of it and then attempts one: a destination
  that refuses at once would otherwise cost thousands of attempts in those three seconds.
* *open*: nothing is read from the lane, so no attempts are spent, for ``FIRST_REST_SECONDS`` and
  twice as long after each probe that fails, up to ``LONGEST_REST_SECONDS``: nobody should have to
  wait for more than a minute after a repair.
* *throttled*: nothing is read either, for as long as the destination asked for, but at most for
  ``LONGEST_THROTTLE_SECONDS``, since some ask for years by mistake. What was under way and is
  answered meanwhile changes nothing.
* *half-open*: one worker runs one delivery, the probe. An answer closes the breaker.

Times are milliseconds of the server's clock. ``random`` returns numbers from 0 to 1.
"""

from __future__ import annotations

import math
from binascii import crc32
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args


State = Literal["closed", "open", "throttled", "half-open"]

FAILURES = 10
SPAN_SECONDS = 3.0
FIRST_REST_SECONDS = 5.0
LONGEST_REST_SECONDS = 60.0
LONGEST_THROTTLE_SECONDS = 3600.0

JITTER = 0.2
"""Rests are shorter by up to this share, so that many lanes with one destination spread."""

PROBING_SECONDS = 10.0
"""How long a worker may probe until it has to ask again; one that died blocks others as long."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker of a lane at one moment.

    ``failures``: how many deliveries failed in a row, the first noted at ``since_ms``; by
    ``marks`` the first ten are known again while it is closed. ``probes`` that failed since the
    breaker opened. While it is open or throttled nobody probes before ``until_ms``, while it is
    half-open nobody but ``prober``.
    """

    state: State = "closed"
    failures: int = 0
    since_ms: int = 0
    probes: int = 0
    until_ms: int = 0
    prober: str = ""
    marks: tuple[str, ...] = ()

    @property
    def is_closed(self) -> bool:
        """Whether the lane may be read from."""
        return self.state == "closed"

    @property
    def has_failed(self) -> bool:
        """Whether it is not closed because the destination failed, and was not only too busy."""
        return not self.is_closed and self.failures >= FAILURES

    @property
    def is_in_doubt(self) -> bool:
        """Closed still, but only because the failures did not yet last long enough."""
        return self.is_closed and self.failures >= FAILURES

    def encode(self) -> str:
        """As text that begins with the state; empty where there is nothing to remember."""
        if self == CLOSED:
            return ""
        numbers = (self.failures, self.since_ms, self.probes, self.until_ms)
        # What is closed has no prober: earlier releases read the marks as one that is idle.
        last = ",".join(self.marks) if self.is_closed else self.prober
        return " ".join((self.state, *map(str, numbers), last))

    @classmethod
    def decode(cls, text: str) -> Breaker:
        """From ``encode``. What somebody wrote by hand counts as far as it can be understood."""
        words = (*text.split(" ", 5), "", "", "", "", "", "")
        states: tuple[State, ...] = get_args(State)
        closed: State = "closed"
        state = next((one for one in states if one == words[0]), closed)
        numbers = (int(one) if one.isdecimal() and len(one) < 19 else 0 for one in words[1:5])
        failures, since_ms, probes, until_ms = numbers
        if state == "closed":
            marks = tuple(filter(None, words[5].split(",")))[:FAILURES]
            return cls(state, failures, since_ms, probes, until_ms, "", marks)
        return cls(state, failures, since_ms, probes, until_ms, words[5])


CLOSED = Breaker()
"""What any answer of the destination makes of a breaker that is open or half-open."""


# --- what happens to it ------------------------------------------------------------------


def failed(
    breaker: Breaker, keys: Iterable[str], now_ms: int, random: Callable[[], float]
) -> Breaker:
    """After attempts of the deliveries of these keys were not answered, and none was in between.
    Those that were under way when the breaker opened change nothing any more."""
    marks = dict.fromkeys(map(_mark, keys))
    if not breaker.is_closed or not marks:
        return breaker
    since_ms = min(breaker.since_ms, now_ms) if breaker.failures else now_ms
    new = [mark for mark in marks if mark not in breaker.marks]
    count = breaker.failures + len(new)
    if count < FAILURES or now_ms - since_ms < SPAN_SECONDS * 1000:
        known = (*breaker.marks, *new)[:FAILURES]
        return Breaker("closed", count, since_ms, marks=known)
    return Breaker("open", count, since_ms, 0, now_ms + rest_ms(0, random))


def answered(breaker: Breaker) -> Breaker:
    """After attempts were answered."""
    return breaker if breaker.is_closed or breaker.state == "throttled" else CLOSED


def throttled(breaker: Breaker, seconds: float, now_ms: int) -> Breaker:
    """After the destination asked for so many seconds without deliveries. The longest counts of
    what it said to those that were under way."""
    left = wait_seconds(breaker, now_ms) if breaker.state == "throttled" else 0.0
    rest = max(left, min(LONGEST_THROTTLE_SECONDS, seconds))
    until_ms = now_ms + math.ceil(rest * 1000)
    return replace(breaker, state="throttled", until_ms=until_ms, prober="", marks=())


def _mark(key: str) -> str:
    """What is short enough to be kept. Of ten, two are alike once in a hundred million rows."""
    return f"{crc32(key.encode('utf-8', 'surrogatepass')):x}"


def probe_failed(
    breaker: Breaker, prober: str, now_ms: int, random: Callable[[], float]
) -> Breaker:
    """After the probe of ``prober`` was not answered: a longer rest."""
    if breaker.state != "half-open" or breaker.prober != prober:
        return breaker
    probes = breaker.probes + 1
    until_ms = now_ms + rest_ms(probes, random)
    return replace(breaker, state="open", probes=probes, until_ms=until_ms, prober="")


def probe_told_nothing(breaker: Breaker, prober: str, now_ms: int) -> Breaker:
    """After a probe that never reached the destination: the next one may come at once."""
    if breaker.state != "half-open" or breaker.prober != prober:
        return breaker
    return replace(breaker, state="open", until_ms=now_ms, prober="")


def probed(breaker: Breaker, prober: str, now_ms: int) -> Breaker:
    """With the permission to probe for ``prober``, if it is free or already its own."""
    is_own = (breaker.state, breaker.prober) == ("half-open", prober)
    if breaker.is_closed or (wait_seconds(breaker, now_ms) > 0 and not is_own):
        return breaker
    until_ms = now_ms + round(PROBING_SECONDS * 1000)
    return replace(breaker, state="half-open", until_ms=until_ms, prober=prober)


def wait_seconds(breaker: Breaker, now_ms: int) -> float:
    """How long nobody, or nobody else, may probe. No longer than the longest rest, also where the
    server's clock was set back."""
    until_ms, longest = breaker.until_ms, LONGEST_REST_SECONDS
    if breaker.state == "throttled":
        longest = LONGEST_THROTTLE_SECONDS
    if breaker.is_in_doubt:
        until_ms, longest = round(breaker.since_ms + SPAN_SECONDS * 1000), SPAN_SECONDS
    left = (until_ms - now_ms) / 1000
    return left if 0 < left <= longest else 0.0


def rest_ms(probes: int, random: Callable[[], float]) -> int:
    """How long an open breaker rests after so many failed probes."""
    doubled = min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 2.0 ** min(probes, 30))
    return math.ceil(doubled * (1 - JITTER * random()) * 1000)
