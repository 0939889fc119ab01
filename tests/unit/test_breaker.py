"""When a breaker opens, who may probe, and when it closes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch import breaker as judge
from kinto_dispatch.breaker import CLOSED, FAILURES, Breaker


NOW = 1_700_000_000_000
SPAN = round(judge.SPAN_SECONDS * 1000)


def never() -> float:
    """No jitter."""
    return 0.0


def keys(count: int, begin: int = 0) -> list[str]:
    """So many different deliveries."""
    return [f"event-{number}:ops" for number in range(begin, begin + count)]


def opened(now_ms: int = NOW) -> Breaker:
    """A breaker that opened at that moment."""
    begun = judge.failed(CLOSED, keys(1), now_ms - SPAN, never)
    return judge.failed(begun, keys(FAILURES), now_ms, never)


# --- opening -----------------------------------------------------------------------------


def test_ten_failures_over_three_seconds_open_it() -> None:
    """Both are needed: a row of failures, and that it lasts."""
    assert opened().state == "open"
    begun = judge.failed(CLOSED, keys(1), NOW, never)
    assert judge.failed(begun, keys(FAILURES - 1), NOW + SPAN, never).is_closed
    quick = judge.failed(begun, keys(1001), NOW + SPAN - 1, never)
    assert (quick.state, quick.failures) == ("closed", 1001)
    assert judge.failed(quick, keys(1), NOW + SPAN, never).state == "open"


def test_a_delivery_that_fails_again_and_again_is_counted_once() -> None:
    """An odd record, or a plugin that has a bug with it, tells nothing of the destination; nine
    of them don't either."""
    state = CLOSED
    for attempt in range(100):
        state = judge.failed(state, keys(FAILURES - 1), NOW + attempt * SPAN, never)
    assert (state.state, state.failures) == ("closed", FAILURES - 1)
    assert not state.is_in_doubt
    assert judge.failed(state, ["another:ops"], NOW + 100 * SPAN, never).state == "open"


def test_any_worker_knows_again_what_another_saw_fail() -> None:
    """It stands in the text that they share, and what came before the first release that
    wrote it still counts."""
    for known in (keys(3), [key.replace("event", "évènement \ud800") for key in keys(3)]):
        there = Breaker.decode(judge.failed(CLOSED, known, NOW, never).encode())
        assert judge.failed(there, known, NOW + SPAN, never) == there
    earlier = Breaker.decode(f"closed {FAILURES - 1} {NOW - SPAN} 0 0 ")
    assert judge.failed(earlier, keys(1), NOW, never).state == "open"


def test_failures_that_come_all_at_once_are_one_moment() -> None:
    """A hundred attempts that hang end together, and tell no more than one does."""
    assert judge.failed(CLOSED, keys(100), NOW, never).is_closed


def test_in_doubt_it_waits_for_the_rest_of_the_time() -> None:
    """Closed still, but what failed all at once is not attempted again before it can tell."""
    doubtful = judge.failed(CLOSED, keys(FAILURES), NOW, never)
    assert doubtful.is_closed
    assert doubtful.is_in_doubt
    assert judge.wait_seconds(doubtful, NOW + 1000) == judge.SPAN_SECONDS - 1
    assert judge.wait_seconds(doubtful, NOW + SPAN) == 0
    assert judge.wait_seconds(doubtful, NOW - 60_000) == 0, "the clock was set back"
    assert judge.probed(doubtful, "a", NOW + SPAN) == doubtful
    assert not judge.failed(CLOSED, keys(FAILURES - 1), NOW, never).is_in_doubt
    assert not opened().is_in_doubt


def test_what_was_under_way_changes_an_open_breaker_no_more() -> None:
    """Only the probe tells anything new."""
    once = opened()
    assert judge.failed(once, keys(50), NOW + 9, never) == once
    probing = judge.probed(once, "a", once.until_ms)
    assert judge.failed(probing, keys(50), once.until_ms, never) == probing


def test_nothing_failed_is_nothing() -> None:
    """No failures, no change."""
    assert judge.failed(CLOSED, [], NOW, never) == CLOSED


# --- probing -----------------------------------------------------------------------------


def test_nobody_probes_before_the_rest_is_over() -> None:
    """Five seconds after it opened one worker may, and until then none."""
    rests = opened()
    assert judge.wait_seconds(rests, NOW) == judge.FIRST_REST_SECONDS
    assert judge.probed(rests, "a", rests.until_ms - 1) == rests
    probing = judge.probed(rests, "a", rests.until_ms)
    assert (probing.state, probing.prober) == ("half-open", "a")


def test_one_worker_probes_until_its_permission_ends() -> None:
    """It may prolong it; when it died, another one takes over."""
    probing = judge.probed(opened(), "a", NOW + 5000)
    assert judge.probed(probing, "b", NOW + 5001) == probing
    longer = judge.probed(probing, "a", NOW + 9000)
    assert longer.until_ms == NOW + 9000 + judge.PROBING_SECONDS * 1000
    assert judge.probed(longer, "b", longer.until_ms).prober == "b"


def test_each_failed_probe_doubles_the_rest_up_to_a_minute() -> None:
    """5, 10, 20, 40, 60, 60 seconds."""
    state, now_ms, rests = opened(), NOW, []
    for _ in range(6):
        rests.append(judge.wait_seconds(state, now_ms))
        now_ms = state.until_ms
        state = judge.probe_failed(judge.probed(state, "a", now_ms), "a", now_ms, never)
    assert rests == [5, 10, 20, 40, 60, 60]


def test_only_the_probe_of_who_may_probe_counts() -> None:
    """One that comes after its permission went to another worker changes nothing."""
    probing = judge.probed(opened(), "b", NOW + 5000)
    assert judge.probe_failed(probing, "a", NOW + 5001, never) == probing
    assert judge.probe_told_nothing(probing, "a", NOW + 5001) == probing
    assert judge.probe_failed(CLOSED, "a", NOW, never) == CLOSED


def test_a_probe_that_told_nothing_is_made_again_at_once() -> None:
    """As of an event that cannot be decoded: the destination was never asked."""
    after = judge.probe_told_nothing(judge.probed(opened(), "a", NOW + 5000), "a", NOW + 5100)
    assert (after.state, after.probes) == ("open", 0)
    assert judge.probed(after, "b", NOW + 5100).prober == "b"


def test_a_closed_breaker_needs_no_probe() -> None:
    """It stays as it is."""
    assert judge.probed(CLOSED, "a", NOW) == CLOSED


def test_a_clock_that_was_set_back_holds_no_lane() -> None:
    """As after a failover to a server whose clock is an hour behind."""
    rests = opened()
    assert judge.probed(rests, "a", NOW - 3_600_000).state == "half-open"
    throttled = judge.throttled(CLOSED, 60, NOW)
    assert judge.probed(throttled, "a", NOW - 3_600_000).state == "half-open"
    begun = judge.failed(CLOSED, keys(9), NOW, never)
    begun = judge.failed(begun, keys(1, 9), NOW - 3_600_000, never)
    assert judge.failed(begun, keys(1), NOW - 3_600_000 + SPAN, never).state == "open"


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_rest_is_never_long_and_never_nothing(probes: int, draw: float) -> None:
    """However many probes failed."""
    assert 4_000 <= judge.rest_ms(probes, lambda: draw) <= 60_000


# --- throttled ---------------------------------------------------------------------------


def test_what_the_destination_asked_for_is_waited_for() -> None:
    """Also for longer than any rest of ours, but not for more than an hour."""
    for asked, waits in ((0.5, 0.5), (600, 600), (86_400, 3600), (float("inf"), 3600)):
        state = judge.throttled(CLOSED, asked, NOW)
        assert (state.state, judge.wait_seconds(state, NOW)) == ("throttled", waits)
        assert judge.probed(state, "a", state.until_ms - 1) == state
        assert judge.probed(state, "a", state.until_ms).prober == "a"


def test_the_longest_of_what_it_asked_for_counts() -> None:
    """Those that were under way together may come back in any order."""
    state = judge.throttled(judge.throttled(CLOSED, 60, NOW), 5, NOW + 1000)
    assert judge.wait_seconds(state, NOW + 1000) == 59
    assert judge.wait_seconds(judge.throttled(state, 90, NOW + 1000), NOW + 1000) == 90
    set_back = judge.throttled(state, 5, NOW - 4 * 3_600_000)
    assert judge.wait_seconds(set_back, NOW - 4 * 3_600_000) == 5


def test_only_the_answer_to_a_probe_ends_it() -> None:
    """What was under way when the destination asked for a rest may be answered, or fail."""
    state = judge.throttled(CLOSED, 60, NOW)
    assert judge.answered(state) == state
    assert judge.failed(state, keys(FAILURES), NOW + SPAN, never) == state
    assert judge.answered(judge.probed(state, "a", state.until_ms)) == CLOSED
    assert judge.answered(opened()) == CLOSED


def test_a_probe_may_be_throttled() -> None:
    """Then it waits again; whether it was open because of failures is known still."""
    probing = judge.probed(opened(), "a", NOW + 5000)
    state = judge.throttled(probing, 7, NOW + 5000)
    assert (state.state, state.prober, state.has_failed) == ("throttled", "", True)
    assert not judge.throttled(CLOSED, 7, NOW).has_failed


# --- on the server -----------------------------------------------------------------------


NUMBERS: dict[str, st.SearchStrategy[int]] = {
    "failures": st.integers(0, 10**9),
    "since_ms": st.integers(0, 10**14),
    "probes": st.integers(0, 10**6),
    "until_ms": st.integers(0, 10**14),
}
MARKS = st.lists(st.from_regex("[0-9a-f]{1,8}", fullmatch=True), max_size=FAILURES).map(tuple)


@given(
    st.builds(Breaker, state=st.just("closed"), marks=MARKS, **NUMBERS)
    | st.builds(
        Breaker,
        state=st.sampled_from(["open", "throttled", "half-open"]),
        prober=st.text(),
        **NUMBERS,
    )
)
def test_what_is_written_is_read(state: Breaker) -> None:
    """The text begins with the state; nothing at all is a closed breaker."""
    assert Breaker.decode(state.encode()) == state
    assert state.encode().startswith(state.state) or state == CLOSED


@pytest.mark.parametrize("text", ["", "nonsense", "closed", "closed x y z", " ", "-1 5"])
def test_what_cannot_be_read_is_closed(text: str) -> None:
    """Nobody's typing stops a lane for ever."""
    assert Breaker.decode(text).is_closed


def test_a_breaker_opened_by_hand_is_probed() -> None:
    """It has no time to rest until."""
    assert judge.probed(Breaker.decode("open"), "a", NOW).state == "half-open"
