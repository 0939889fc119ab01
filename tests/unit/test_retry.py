"""When a delivery is attempted again, or that it is not."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch import retry
from kinto_dispatch.retry import exhausted, next_delay_seconds
from kinto_dispatch.settings import ChannelSettings


DAY = 86_400.0

ANYTHING = st.none() | st.floats() | st.integers() | st.text() | st.booleans()


def always(value: float) -> Callable[[], float]:
    """A random source that knows one number."""
    return lambda: value


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, 5), (2, 10), (3, 20), (4, 40), (9, 1280), (10, 2560), (11, 3600), (15, 3600)],
)
def test_the_longest_wait_doubles_up_to_an_hour(attempt: int, longest: float) -> None:
    """The schedule is the one that the documentation promises."""
    assert next_delay_seconds(attempt, random=always(1.0)) == longest


def test_the_documented_table_is_what_happens() -> None:
    """Each row of the docstring's table holds for the attempts it names."""
    rows = re.findall(r"^(\d+)(?: to (\d+))? +([\d,]+) s ", retry.__doc__ or "", re.MULTILINE)
    told = {
        attempt: float(longest.replace(",", ""))
        for first, last, longest in rows
        for attempt in range(int(first), int(last or first) + 1)
    }
    assert told == {n: next_delay_seconds(n, random=always(1.0)) for n in range(1, 15)}


def test_the_concepts_tell_the_waits_of_the_default() -> None:
    """Each row of the page's table, and the sums of all attempts: on average and at most."""
    page = (Path(__file__).parents[2] / "docs/concepts.md").read_text("utf-8")
    section = page.partition("## When an attempt fails")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \| (\d+) s \|$", section, re.MULTILINE)
    told = {
        attempt: float(longest)
        for first, last, longest in rows
        for attempt in range(int(first), int(last or first) + 1)
    }
    attempts = ChannelSettings.__dataclass_fields__["max_attempts"].default
    longest = {n: next_delay_seconds(n, random=always(1.0)) for n in range(1, attempts)}
    assert told == longest
    draws = [(number + 0.5) / 1000 for number in range(1000)]
    average = sum(
        sum(next_delay_seconds(n, random=always(draw)) for draw in draws) / len(draws)
        for n in longest
    )
    assert f"All {attempts} attempts" in section
    assert f"{span(average)} on average and {span(sum(longest.values()))} at most" in " ".join(
        section.split()
    )
    assert f"varies by {retry.JITTER:.0%}".replace("%", " %") in section
    assert retry.LONGEST_AFTER_SECONDS == DAY


def span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def test_waits_are_spread_over_the_whole_interval() -> None:
    """Full jitter: those who failed together come back at any time up to the longest wait."""
    source = random.Random(1)
    waits = [next_delay_seconds(8, random=source.random) for _ in range(2_000)]
    assert min(waits) < 16
    assert max(waits) > 624
    assert 300 < sum(waits) / len(waits) < 340


def test_a_wait_is_never_so_short_that_it_spins() -> None:
    """Where jitter draws nothing at all, a second remains."""
    assert next_delay_seconds(1, random=always(0.0)) == 1.0


def test_listed_delays_are_taken_in_order_and_the_last_repeats() -> None:
    """An operator's own schedule replaces ours."""
    waits = [next_delay_seconds(n, (10, 60, 600), random=always(0.5)) for n in range(1, 6)]
    assert waits == pytest.approx([10, 60, 600, 600, 600])


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 90.0), (0.5, 100.0), (1.0, 110.0)])
def test_listed_delays_vary_by_a_tenth(draw: float, expected: float) -> None:
    """What failed together does not come back together, even by a fixed schedule."""
    assert next_delay_seconds(1, (100.0,), random=always(draw)) == pytest.approx(expected)


def test_a_short_listed_delay_is_obeyed() -> None:
    """An operator may want less than a second; only our own schedule has a floor."""
    assert next_delay_seconds(1, (0.1,), random=always(0.5)) == pytest.approx(0.1)


def test_what_the_destination_asks_for_is_the_least_wait() -> None:
    """A Retry-After longer than the schedule's wait replaces it, a shorter one does not."""
    assert 30 <= next_delay_seconds(1, after=30.0, random=always(0.3)) <= 33
    assert next_delay_seconds(3, after=1.0, random=always(0.5)) == 10.0


def test_all_who_were_told_the_same_second_do_not_come_in_it() -> None:
    """A tenth of what the destination asked for is spread out."""
    source = random.Random(1)
    waits = {round(next_delay_seconds(1, after=600.0, random=source.random)) for _ in range(200)}
    assert min(waits) >= 600
    assert len(waits) > 40


@pytest.mark.parametrize("after", [1e6, 1e300, math.inf, 10**400, str(10**9)])
def test_a_server_postpones_us_by_a_day_at_most(after: float) -> None:
    """Some answer with years."""
    assert next_delay_seconds(1, after=after) == DAY


@pytest.mark.parametrize("after", [math.nan, -1.0, 0.0, -math.inf, "soon", "", object()])
def test_an_after_that_is_no_time_is_ignored(after: float) -> None:
    """The schedule holds where a server, or a plugin, says nonsense."""
    assert next_delay_seconds(1, after=after, random=always(1.0)) == 5.0


def test_a_list_longer_than_a_day_is_not_cut_by_the_servers_wish() -> None:
    """The bound is for the server's wish, which never makes the wait shorter."""
    delay = next_delay_seconds(1, (2 * DAY,), after=3 * DAY, random=always(0.5))
    assert delay == pytest.approx(2 * DAY)


@given(
    attempt=st.integers(),
    delays=st.none() | st.lists(st.floats()).map(tuple),
    after=ANYTHING,
    draw=st.floats(0, 1),
)
def test_every_wait_is_a_bounded_number(
    attempt: int, delays: tuple[float, ...] | None, after: float, draw: float
) -> None:
    """Whatever comes in, out comes a number of seconds between 0 and eight days."""
    delay = next_delay_seconds(attempt, delays, after, always(draw))
    assert 0 <= delay <= 8 * DAY


@given(attempt=st.integers(1, 10**9), after=st.none() | st.floats(0, DAY))
def test_our_schedule_is_within_its_bounds(attempt: int, after: float | None) -> None:
    """From a second to an hour, or what the destination asked for and a tenth."""
    delay = next_delay_seconds(attempt, after=after)
    assert max(1.0, after or 0) <= delay <= max(3600.0, 1.1 * (after or 0))


@pytest.mark.parametrize(
    ("attempt", "most", "expected"), [(1, 3, False), (2, 3, False), (3, 3, True), (4, 3, True)]
)
def test_the_last_allowed_attempt_exhausts(attempt: int, most: int, expected: bool) -> None:
    """``max_attempts`` counts the first one, too."""
    assert exhausted(attempt, most) is expected
