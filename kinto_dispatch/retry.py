"""When a delivery is attempted again, or that it is not. Pure, but for the injected randomness.

Exponential backoff with full jitter, as in "Exponential Backoff And Jitter" (Marc Brooker, AWS
Architecture Blog, 2015): of the strategies compared there it makes competing clients do the least
work, since they come back spread over the whole interval instead of together.

The wait after attempt n is drawn evenly from 0 to ``min(3600, 5 * 2 ** (n - 1))`` seconds, and is
at least 1 s:

======== ============== ============ =========================
attempt  at most        on average   since the first, at most
======== ============== ============ =========================
1        5 s            2.6 s        5 s
2        10 s           5 s          15 s
3        20 s           10 s         35 s
4        40 s           20 s         75 s
5        80 s           40 s         2 min 35 s
6        160 s          80 s         5 min 15 s
7        320 s          160 s        10 min 35 s
8        640 s          320 s        21 min
9        1,280 s        640 s        43 min
10       2,560 s        1,280 s      1 h 25 min
11 to 14 3,600 s        1,800 s      5 h 25 min
======== ============== ============ =========================

So the 15 attempts of the default span 2 h 43 min on average and 5 h 25 min at most: a night's
maintenance passes, and a dead letter still comes on the same day.
"""

from __future__ import annotations

import math
import random as _random
from collections.abc import Callable, Sequence


BASE_SECONDS = 5.0
CAP_SECONDS = 3600.0

FLOOR_SECONDS = 1.0
"""The least wait of the built-in schedule: full jitter may draw 0, which would spin."""

LONGEST_AFTER_SECONDS = 86_400.0
"""How far a server may postpone us; some answer with years, or with garbage."""

LONGEST_DELAY_SECONDS = 7 * 86_400.0

JITTER = 0.1
"""Listed delays vary by this share: what failed together must not come back together."""


def next_delay_seconds(
    attempt: int,
    delays: Sequence[float] | None = None,
    after: float | None = None,
    random: Callable[[], float] = _random.random,
) -> float:
    """The seconds to wait after ``attempt`` (from 1: the one that just failed). Never raises.

    ``delays`` replaces the built-in schedule: its last one repeats, each varies by 10 %.
    ``after``, what the destination asked for, is a lower bound where it is a positive number, but
    never more than a day; up to a tenth is added to it, so that those who were all told the same
    second do not all come in it. ``random`` returns numbers from 0 to 1.
    """
    delay = _listed(attempt, delays, random()) if delays else _exponential(attempt, random())
    asked = positive(after)
    if asked is None or asked <= delay:
        return delay
    return max(delay, min(LONGEST_AFTER_SECONDS, asked * (1 + JITTER * random())))


def exhausted(attempt: int, max_attempts: int) -> bool:
    """Whether ``attempt`` (from 1) was the last one allowed."""
    return attempt >= max_attempts


def _exponential(attempt: int, draw: float) -> float:
    doublings = min(max(attempt, 1) - 1, 30)  # 2 ** a billion would be computed before the cap
    ceiling: float = min(CAP_SECONDS, BASE_SECONDS * 2.0**doublings)
    return max(FLOOR_SECONDS, ceiling * draw)


def _listed(attempt: int, delays: Sequence[float], draw: float) -> float:
    listed = delays[min(max(attempt, 1), len(delays)) - 1]
    delay = min(positive(listed) or 0.0, LONGEST_DELAY_SECONDS)
    return delay * (1 - JITTER + 2 * JITTER * draw)


def positive(seconds: object) -> float | None:
    """``seconds`` as a float above zero; ``None`` for anything that is not such a number.

    A plugin passes on what a server wrote, so this may be text, nan or minus one.
    """
    try:
        value = float(seconds)  # type: ignore[arg-type]  # refused below
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf
    return value if value > 0 else None
