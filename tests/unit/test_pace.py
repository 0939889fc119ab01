"""How many deliveries a lane takes, by how fast it goes."""

from __future__ import annotations

import pytest

from kinto_dispatch.lane.pace import AHEAD_MOST, RETRY_MOST, Pace
from kinto_dispatch.limit import RateLimit


def went(pace: Pace, attempts: int) -> Pace:
    for _ in range(attempts):
        pace.count()
    return pace


@pytest.mark.parametrize(("attempts", "ahead"), [(0, 0), (49, 0), (500, 10), (10**5, AHEAD_MOST)])
def test_as_many_are_claimed_ahead_as_are_attempted_soon(attempts: int, ahead: int) -> None:
    """Those of the next fiftieth of a second; none where deliveries are slow."""
    pace = went(Pace(10, None), attempts)
    pace.measure(1.0)
    assert pace.ahead == ahead
    pace.measure(2.0)
    assert pace.ahead == 0


def test_a_fifth_of_the_attempts_may_be_retries_while_others_wait() -> None:
    """What was not used is kept, up to a bound, and what came is spent."""
    pace = Pace(10, None)
    assert not pace.is_moving
    went(pace, 7)
    assert pace.is_moving
    assert pace.retries() == (10, 1)
    assert not pace.is_moving
    went(pace, 8)
    assert pace.retries() == (10, 3)
    pace.promoted(3)
    assert pace.retries() == (10, 0)
    pace.promoted(100)
    assert went(pace, 5).retries() == (10, 1)
    assert went(pace, 10_000).retries() == (10, int(RETRY_MOST))


def test_as_many_retries_wait_in_a_lane_as_begin_soon() -> None:
    """So what is new does not wait behind all that is due; and no more than the limit lets begin
    in a second."""
    pace = went(Pace(10, None), 1000)
    pace.measure(1.0)
    assert pace.retries()[0] == 10 + 5 * 20
    assert Pace(10, RateLimit(3, 1.0)).retries()[0] == 3
    assert Pace(10, RateLimit(1, 60.0)).retries()[0] == 1
    assert Pace(10, RateLimit(500, 1.0)).retries()[0] == 10
