"""The ledger of the chaos runs notices what it is there for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import check, find_repeats
from tests.chaos.client import Operation, _outcome_in_batch
from tests.chaos.ledger import DeadLetter, Delivery, Fault, Ledger, presence
from tests.chaos.page import BEGIN, END, put_into, summary
from tests.chaos.plan import FULL_FAULTS, GROUPS, LEAST_FAULTS, Plan, plan_for, schedule
from tests.chaos.report import Played, report_of
from tests.chaos.run import Run
from tests.chaos.stage import Stage, stage


WORKER, CHILD, OTHER = 10, 11, 20


def operation(name: str = "a", outcome: str = "ok", **other: Any) -> Operation:
    """A create of a record of that name."""
    given = {"kind": "create", "collection": "c", "record": name, "started": 0.0, **other}
    return Operation(name=name, outcome=outcome, **given)


def delivery(
    name: str = "a", at: float = 1.0, outcome: str = "delivered", **other: Any
) -> Delivery:
    """A first attempt in the channel ``ops``."""
    given: dict[str, Any] = {"began": at, "pid": WORKER, "parent": 1, "attempt": 1, **other}
    return Delivery(
        at=at, channel="ops", key=f"key-{name}", outcome=outcome, event=name, ops=(name,), **given
    )


def letter(name: str, kind: str = "refused") -> DeadLetter:
    """A dead letter of the channel ``ops``."""
    return DeadLetter(channel="ops", key=f"key-{name}", kind=kind, reason="", ops=(name,))


def ledger(*operations: Operation, **other: Any) -> Ledger:
    """A ledger of the one channel ``ops``."""
    given = {"present": {}, "deliveries": [], "channels": ["ops"], **other}
    return Ledger(operations=operations, **given)


def causes(*deliveries: Delivery, fault: Fault) -> list[str]:
    """Why these came again, with that fault."""
    made = ledger(operation(), deliveries=deliveries, faults=[fault])
    return [repeat.cause for repeat in find_repeats(made)]


# --- sets --------------------------------------------------------------------------------


def test_what_was_acknowledged_and_delivered_is_right() -> None:
    """One write, one delivery: nothing is wrong."""
    account = check(ledger(operation(), deliveries=[delivery()]))
    assert account["wrong"] == []
    assert (account["acknowledged"], account["delivered"]) == (1, 1)


def test_equal_numbers_do_not_make_up_for_different_sets() -> None:
    """As many deliveries as writes, but of something else: lost and unexpected."""
    account = check(
        ledger(operation("a"), operation("b"), deliveries=[delivery("a"), delivery("c")])
    )
    assert account["wrong"] == ["lost: 1", "unexpected: 1"]


def test_each_channel_is_owed_each_write() -> None:
    """What one channel got, another may have lost."""
    account = check(ledger(operation(), deliveries=[delivery()], channels=["ops", "other"]))
    assert account["examples"]["lost"] == [("other", "a")]


def test_what_is_unknown_may_arrive_where_the_storage_has_it() -> None:
    """A write without an answer that was stored has to be delivered, and is recovered."""
    account = check(
        ledger(operation(outcome="unknown"), present={"a": True}, deliveries=[delivery()])
    )
    assert account["wrong"] == []
    assert account["recovered"] == 1
    account = check(ledger(operation(outcome="unknown"), present={"a": True}))
    assert account["wrong"] == ["lost: 1"]


@pytest.mark.parametrize("outcome", ["unknown", "failed"])
def test_what_was_not_committed_must_not_arrive(outcome: str) -> None:
    """A write that the storage does not have was rolled back: its delivery is unexpected."""
    account = check(
        ledger(operation(outcome=outcome), present={"a": False}, deliveries=[delivery()])
    )
    assert account["wrong"] == ["unexpected: 1"]


def test_a_retry_alone_is_no_delivery() -> None:
    """Who was only told to come again has not got it."""
    account = check(ledger(operation(), deliveries=[delivery(outcome="retry")]))
    assert account["wrong"] == ["lost: 1"]


def test_what_its_receiver_refused_is_a_dead_letter() -> None:
    """A refusal is settled by its dead letter, and lost without it."""
    refused = delivery(outcome="rejected")
    assert check(ledger(operation(), deliveries=[refused], dead=[letter("a")]))["wrong"] == []
    assert check(ledger(operation(), deliveries=[refused]))["wrong"] == ["lost: 1"]


def test_a_dead_letter_that_nobody_asked_for_is_wrong() -> None:
    """Neither what was delivered nor what was never run belongs among the dead letters."""
    account = check(ledger(operation(), deliveries=[delivery()], dead=[letter("a", "poison")]))
    assert account["wrong"] == ["wrongly_dead_lettered: 1"]


def test_the_storage_has_the_last_word() -> None:
    """An acknowledged write that is not stored, and a refused one that is, are found."""
    operations = [operation("a"), operation("b", outcome="failed")]
    present = presence(operations, {"b": {"op": "b"}})
    assert check(ledger(*operations, present=present))["stored_otherwise"] == 2


def test_the_storage_tells_what_an_unknown_operation_did() -> None:
    """A record holds the name of the operation that wrote it last."""
    history = [
        operation("a"),
        operation("b", "unknown", kind="update", record="a"),
        operation("c"),
        operation("delete-c", "unknown", kind="delete", record="c"),
    ]
    stored: Mapping[str, Mapping[str, Any]] = {"a": {"op": "a"}, "c": {"deleted": True}}
    assert presence(history, stored) == {"a": True, "b": False, "delete-c": True}


def test_a_conflict_makes_unknown_what_stands_before_it() -> None:
    """In a batch, a 409 takes back what was answered before it; a 5xx takes back everything."""
    assert [_outcome_in_batch([201, 409, 201, 404], place) for place in (0, 2, 3)] == [
        "unknown",
        "ok",
        "failed",
    ]
    assert _outcome_in_batch([201, 503], 0) == "unknown"


# --- repeats -----------------------------------------------------------------------------


def test_a_repeat_without_a_reason_is_wrong() -> None:
    """One of many is below the bound, but needs a fault that explains it."""
    many = [operation(str(number)) for number in range(1000)]
    deliveries = [delivery(one.name) for one in many]
    account = check(ledger(*many, deliveries=[*deliveries, delivery("7", at=9.0)]))
    assert account["wrong"] == ["duplicated without a fault near: 1"]


def test_repeats_have_a_bound() -> None:
    """Explained or not, too many are too many."""
    fault = Fault(kind="kill_worker", at=1.1, until=1.2, pid=WORKER)
    account = check(ledger(operation(), deliveries=[delivery(), delivery(at=4.0)], faults=[fault]))
    assert account["wrong"] == ["duplicated: 50.00% of what was accepted"]
    assert account["duplicated"]["by_cause"] == {"kill_worker": 1}


def test_no_more_is_repeated_than_was_in_flight() -> None:
    """A short run is not held to a share, but to what its faults can have interrupted."""
    fault = Fault(kind="kill_worker", at=1.1, until=1.2, pid=WORKER)
    operations = [operation(str(number)) for number in range(3)]
    first = [delivery(one.name) for one in operations]
    again = [delivery(one.name, at=4.0, pid=OTHER) for one in operations]
    given: dict[str, Any] = {"deliveries": [*first, *again], "faults": [fault]}
    assert check(ledger(*operations, slots=3, **given), most_repeats=1.0)["wrong"] == []
    account = check(ledger(*operations, slots=2, **given), most_repeats=1.0)
    assert account["wrong"] == ["duplicated: 3, with 2 in flight"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault(kind="kill_worker", at=1.1, until=1.2, pid=WORKER), "kill_worker"),
        (Fault(kind="kill_worker", at=1.1, until=1.2, pid=OTHER), "unexplained"),
        (Fault(kind="kill_worker", at=3.0, until=3.1, pid=WORKER), "unexplained"),
        (Fault(kind="restart_worker", at=1.1, until=1.2, pid=WORKER), "unexplained"),
        (Fault(kind="stop_worker", at=1.1, until=5.0, pid=WORKER), "stop_worker"),
        (Fault(kind="kill_valkey", at=0.5, until=1.5), "kill_valkey"),
        (Fault(kind="kill_valkey", at=7.0, until=8.0), "unexplained"),
        (Fault(kind="flush_valkey", at=3.0, until=3.0), "fed_again"),
        (Fault(kind="flush_valkey", at=9.5, until=9.5), "unexplained"),
        (Fault(kind="power_cut_valkey", at=3.0, until=4.0, since=1.5), "fed_again"),
        (Fault(kind="power_cut_valkey", at=7.0, until=8.0, since=5.5), "unexplained"),
        (Fault(kind="promote_valkey", at=3.0, until=4.0, since=1.5), "fed_again"),
        (Fault(kind="promote_valkey", at=7.0, until=8.0, since=5.5), "unexplained"),
        (Fault(kind="reset_valkey", at=0.5, until=1.5), "unexplained"),
    ],
)
def test_why_a_delivery_came_again(fault: Fault, cause: str) -> None:
    """Noted at 1 s and again at 9 s: the fault has to lie where it could hinder the first from
    being settled, or where the queue forgot it."""
    assert causes(delivery(at=1.0), delivery(at=9.0, pid=30), fault=fault) == [cause]


def test_the_death_of_a_parent_explains_what_its_child_did() -> None:
    """A child on quarantine goes on when its worker is killed, and nobody settles what it did."""
    fault = Fault(kind="kill_worker", at=0.9, until=0.95, pid=WORKER)
    first = delivery(pid=CHILD, parent=WORKER)
    assert causes(first, delivery(at=4.0, pid=OTHER), fault=fault) == ["kill_worker"]


@pytest.mark.parametrize(("began", "cause"), [(0.4, "stop_worker"), (3.2, "unexplained")])
def test_who_wakes_up_may_only_finish_what_had_begun(began: float, cause: str) -> None:
    """A frozen worker goes on in the middle of an attempt; to begin another one with a lease that
    is lost would be wrong."""
    fault = Fault(kind="stop_worker", at=0.5, until=3.0, pid=OTHER)
    again = delivery(at=3.3, began=began, pid=OTHER)
    assert causes(delivery(at=2.0), again, fault=fault) == [cause]


# --- the plan ----------------------------------------------------------------------------


def test_the_seed_decides_the_plan() -> None:
    """The same seed brings the same faults at the same times, another one others."""
    first, other = plan_for(60, seed=1), plan_for(60, seed=2)
    for group in GROUPS:
        assert schedule(first, group) == schedule(plan_for(60, seed=1), group)
        assert schedule(first, group) != schedule(other, group)


def test_a_short_run_has_every_fault() -> None:
    """Scaled down, no kind of fault is left out, and a full run has more than it needs."""
    assert all(plan_for(10, seed=1).faults[kind] >= 1 for kind in FULL_FAULTS)
    assert all(FULL_FAULTS[kind] >= least for kind, least in LEAST_FAULTS.items())


# --- for people --------------------------------------------------------------------------


def report(**over: Any) -> dict[str, Any]:
    """What a small run without faults said."""
    plan = Plan(seed=7, faults={}, least_faults={}, least_deliveries=over.pop("least", 0))
    faults, at = over.pop("faults", []), over.pop("at", 1.0)
    deliveries = [delivery(name, at=at) for name in over.pop("names", "a")]
    account = ledger(operation(), deliveries=deliveries, faults=faults)
    played = Played(
        plan=plan,
        ledger=account,
        drained=True,
        control={},
        exit_codes=[0],
        unasked=[],
        postgresql=over.pop("postgresql", {}),
        seconds={},
    )
    return report_of(played, over.pop("directory"))


def test_the_summary_says_what_was_wrong_and_with_which_seed(tmp_path: Path) -> None:
    """Who reads only the last lines of a failed run can play it again."""
    words = summary(report(directory=tmp_path, names="ab", least=5))
    assert words.startswith("FAILED, seed 7: 2 deliveries of 1 acknowledged")
    assert "wrong: unexpected: 1" in words
    assert "not valid: 2 of 5 deliveries" in words


def test_a_postgresql_that_forgets_proves_nothing(tmp_path: Path) -> None:
    """A commit has to be on disk before it is acknowledged."""
    made = report(directory=tmp_path, postgresql={"fsync": "on", "synchronous_commit": "off"})
    assert made["wrong"] == ["PostgreSQL without synchronous_commit"]


@pytest.mark.parametrize(("at", "is_late"), [(12.0, False), (15.0, True)])
def test_workers_have_to_go_on_by_themselves(tmp_path: Path, at: float, is_late: bool) -> None:
    """Ten seconds after the return of a server something is delivered, or the run has failed."""
    fault = Fault(kind="kill_valkey", at=3.0, until=4.0)
    made = report(directory=tmp_path, faults=[fault], at=at)
    late = ["nothing was delivered for 11.0 s after kill_valkey"]
    assert made["wrong"] == (late if is_late else [])


def test_the_figures_of_a_run_go_into_a_page(tmp_path: Path) -> None:
    """What stands between the marks is replaced, and nothing else."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nof yesterday\n{END}\nafter\n")
    put_into(page, report(directory=tmp_path))
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nA full run, `make chaos SEED=7`, passed:")
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert "| **lost** | **0** | 0 |" in text
    assert "yesterday" not in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        put_into(page, report(directory=tmp_path))


# --- real runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    """PostgreSQL and Valkey for all runs of this module."""
    with stage() as place:
        yield place


def play(place: Stage, **over: Any) -> dict[str, Any]:
    """The report of a small run without faults, except for what is given."""
    small: dict[str, Any] = {
        "seed": 20261123,
        "seconds": 2.0,
        "control_seconds": 0.0,
        "writes_per_second": 40.0,
        "webs": 1,
        "workers": 2,
        "faults": {},
        "least_faults": {},
        "least_deliveries": 100,
    }
    return Run(Plan(**{**small, **over}), place).play()


@pytest.mark.chaos
def test_nothing_is_wrong_where_nothing_was_broken(place: Stage) -> None:
    """A small run with some of each fault passes, or the tests below would say nothing."""
    plan = plan_for(6.0, seed=20261123)
    report = play(
        place,
        seconds=6.0,
        control_seconds=1.0,
        faults=plan.faults,
        webs=2,
        least_faults=plan.least_faults,
    )
    assert report["wrong"] == []
    assert report["missing"] == []


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("plant", "noticed"),
    [("drop", "lost"), ("duplicate", "duplicated"), ("invent", "unexpected")],
)
def test_what_is_dropped_repeated_or_invented_is_noticed(
    place: Stage, plant: str, noticed: str
) -> None:
    """A worker that loses, repeats or makes up deliveries turns the run red."""
    report = play(place, plant=plant)
    assert not report["passed"]
    assert all(what.startswith(noticed) for what in report["wrong"])


@pytest.mark.chaos
def test_a_relay_that_forgets_too_early_is_noticed(place: Stage) -> None:
    """Rows that are deleted before the log has them are lost when the worker is killed."""
    report = play(place, plant="relay_deletes_first", seconds=5.0, faults={"kill_worker": 10})
    assert any(what.startswith("lost") for what in report["wrong"])


@pytest.mark.chaos
def test_a_settlement_without_a_fence_is_noticed(place: Stage) -> None:
    """A worker that wakes up and schedules a retry of what others have settled long ago makes
    a repeat that no fault explains."""
    report = play(
        place,
        plant="settle_without_fence",
        seconds=9.0,
        faults={"stop_worker": 2},
        frozen_leases=(3.5, 4.0),
        channels={"flaky": {"delay_seconds": "0.5", "retry_every": "2", "concurrency": "100"}},
    )
    assert any("without a fault near" in what for what in report["wrong"])
