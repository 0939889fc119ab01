"""Compares sets and says what was lost, invented or repeated: pure.

An operation counts as committed if it was acknowledged, or if its fate was unknown and the storage
has it. Each committed operation has to arrive at every channel, or stand there as a dead letter
that its receiver asked for; nothing else may arrive.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median, quantiles
from typing import Any

from tests.chaos.ledger import Delivery, Fault, Ledger


SETTLE_SECONDS = 1.0
"""A delivery is settled within this time after it was noted, unless something hinders it."""

SERVER_FAULTS = (
    "kill_valkey",
    "stop_valkey",
    "cut_valkey",
    "power_cut_valkey",
    "promote_valkey",
    "flush_valkey",
)
"""What may make a repeat. That an answer was lost (``reset_valkey``) may not: who asks again is
told that it has been done."""

MEMORY_LOSSES = ("power_cut_valkey", "promote_valkey", "flush_valkey")
WORKER_FAULTS = ("kill_worker", "stop_worker")
MOST_REPEATS = 0.005
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Repeat:
    """A delivery that its receiver had before, and why it came again: ``fed_again`` after the
    queue had lost its memory, a fault that made its settlement or its lease go astray, or
    ``unexplained``."""

    first: Delivery
    again: Delivery
    cause: str


def check(ledger: Ledger, most_repeats: float = MOST_REPEATS) -> dict[str, Any]:
    """The account of a run, as plain values for JSON. ``wrong`` lists what must not be.
    ``most_repeats`` is the share of repeats from which on there are too many."""
    committed = committed_operations(ledger)
    arrived, refused = _by_channel(ledger, "delivered"), _by_channel(ledger, "rejected")
    buried = _buried(ledger)
    lost: list[tuple[str, str]] = []
    unexpected: list[tuple[str, str]] = []
    for channel in ledger.channels:
        settled = arrived[channel] | (refused[channel] & buried[channel])
        lost += [(channel, name) for name in sorted(committed - settled)]
        given = arrived[channel] | refused[channel] | buried[channel]
        unexpected += [(channel, name) for name in sorted(given - committed)]
    repeats = list(find_repeats(ledger))
    wrongly_dead = _wrongly_dead(ledger)
    accepted = [one.key for one in ledger.deliveries if one.outcome == "delivered"]
    outcomes = Counter(operation.outcome for operation in ledger.operations)
    unknown = {one.name for one in ledger.operations if one.outcome == "unknown"}
    astray = contradictions(ledger)
    account = {
        "attempted": len(ledger.operations),
        "acknowledged": outcomes["ok"],
        "refused": outcomes["failed"],
        "unknown": outcomes["unknown"],
        "recovered": len(committed & unknown),
        "delivered": len(set(accepted)),
        "accepted": len(accepted),
        "attempts": len(ledger.deliveries),
        "dead_letters": len(ledger.dead),
        "lost": len(lost),
        "unexpected": len(unexpected),
        "wrongly_dead_lettered": len(wrongly_dead),
        "stored_otherwise": len(astray),
        "duplicated": _count_repeats(repeats, accepted, in_flight(ledger)),
        "examples": {
            "lost": lost[:EXAMPLES],
            "unexpected": unexpected[:EXAMPLES],
            "wrongly_dead_lettered": wrongly_dead[:EXAMPLES],
            "stored_otherwise": astray[:EXAMPLES],
            "unexplained": [
                {"key": one.again.key, "first": one.first.at, "again": one.again.at}
                for one in repeats
                if one.cause == "unexplained"
            ][:EXAMPLES],
        },
    }
    account["wrong"] = list(_wrong(account, most_repeats))
    return account


def _wrong(account: Mapping[str, Any], most_repeats: float) -> Iterable[str]:
    for name in ("lost", "unexpected", "wrongly_dead_lettered", "stored_otherwise"):
        if account[name]:
            yield f"{name}: {account[name]}"
    duplicated = account["duplicated"]
    if duplicated["share"] >= most_repeats:
        yield f"duplicated: {duplicated['share']:.2%} of what was accepted"
    explained = duplicated["rest"] - duplicated["unexplained"]
    if explained > duplicated["in_flight"]:
        yield f"duplicated: {explained}, with {duplicated['in_flight']} in flight"
    if duplicated["unexplained"]:
        yield f"duplicated without a fault near: {duplicated['unexplained']}"


# --- sets --------------------------------------------------------------------------------


def committed_operations(ledger: Ledger) -> set[str]:
    """What has to be announced."""
    return {
        operation.name
        for operation in ledger.operations
        if operation.outcome == "ok"
        or (operation.outcome == "unknown" and ledger.present.get(operation.name))
    }


def uncovered(ledger: Ledger) -> int:
    """How many deliveries are still to come, however they end."""
    committed = committed_operations(ledger)
    arrived, refused = _by_channel(ledger, "delivered"), _by_channel(ledger, "rejected")
    return sum(len(committed - arrived[channel] - refused[channel]) for channel in ledger.channels)


def contradictions(ledger: Ledger) -> Sequence[str]:
    """What the storage has otherwise than Kinto had told the client."""
    return [
        f"{operation.name} was {operation.outcome}"
        for operation in ledger.operations
        if operation.outcome != "unknown"
        and ledger.present.get(operation.name, operation.outcome == "ok")
        != (operation.outcome == "ok")
    ]


def _by_channel(ledger: Ledger, outcome: str) -> Mapping[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    for delivery in ledger.deliveries:
        if delivery.outcome == outcome:
            names[delivery.channel].update(delivery.ops)
    return names


def _buried(ledger: Ledger) -> Mapping[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    for letter in ledger.dead:
        names[letter.channel].update(letter.ops)
    return names


def _wrongly_dead(ledger: Ledger) -> Sequence[str]:
    asked_for = {one.key for one in ledger.deliveries if one.outcome == "rejected"}
    return [
        f"{letter.key}: {letter.kind}, {letter.reason}"
        for letter in ledger.dead
        if letter.key not in asked_for or letter.kind != "refused"
    ]


# --- repeats -----------------------------------------------------------------------------


def find_repeats(ledger: Ledger) -> Iterable[Repeat]:
    """Every delivery whose receiver had accepted it before."""
    by_key: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in ledger.deliveries:
        if delivery.outcome == "delivered":
            by_key[delivery.key].append(delivery)
    for given in by_key.values():
        for first, again in pairwise(given):
            yield Repeat(first, again, _cause(first, again, ledger))


def _cause(first: Delivery, again: Delivery, ledger: Ledger) -> str:
    for fault in ledger.faults:
        if fault.kind in MEMORY_LOSSES and _is_forgotten(first, again, fault):
            return "fed_again"
    for fault in ledger.faults:
        if _hinders(fault, first, again, ledger.lease_seconds):
            return fault.kind
    return "unexplained"


def _is_forgotten(first: Delivery, again: Delivery, fault: Fault) -> bool:
    """Whether the queue forgot, between the two, that the first had been settled."""
    since = float("-inf") if fault.since is None else fault.since - SETTLE_SECONDS
    # What was claimed before may be delivered a moment after, and comes again all the same.
    return since <= first.at <= fault.until + SETTLE_SECONDS and again.at >= fault.at


def _hinders(fault: Fault, first: Delivery, again: Delivery, lease_seconds: float) -> bool:
    """Whether the fault kept the first from being settled, or from keeping its lease; or whether
    it froze the process of the second in the middle of its attempt."""
    if fault.kind in SERVER_FAULTS:
        return overlaps(fault, first.at - lease_seconds, first.at + SETTLE_SECONDS)
    if fault.kind not in WORKER_FAULTS:
        return False
    if fault.pid in (first.pid, first.parent):
        return overlaps(fault, first.at - lease_seconds, first.at + SETTLE_SECONDS)
    return (
        fault.kind == "stop_worker"
        and fault.pid in (again.pid, again.parent)
        and again.began <= fault.at
        and first.at >= fault.at
    )


def overlaps(fault: Fault, start: float, end: float) -> bool:
    """Whether the fault lasted into this time."""
    return fault.at <= end and fault.until >= start


def in_flight(ledger: Ledger) -> int:
    """How many deliveries can have been noted and not yet settled when something was hit."""
    kinds = Counter(fault.kind for fault in ledger.faults)
    of_one = sum(kinds[kind] for kind in WORKER_FAULTS)
    of_all = sum(kinds[kind] for kind in SERVER_FAULTS)
    return ledger.slots * (of_one + ledger.workers * of_all)


def _count_repeats(
    repeats: Collection[Repeat], accepted: Sequence[str], in_flight: int
) -> dict[str, Any]:
    """``share`` is how much of all that receivers accepted was a repeat, apart from what was fed
    again; ``share_of_deliveries`` counts each delivery once, what was fed again left out."""
    causes = Counter(repeat.cause for repeat in repeats)
    fed_again = causes.pop("fed_again", 0)
    rest = len(repeats) - fed_again
    return {
        "total": len(repeats),
        "fed_again": fed_again,
        "rest": rest,
        "in_flight": in_flight,
        "share": round(rest / max(1, len(accepted)), 6),
        "share_of_deliveries": round(rest / max(1, len(set(accepted))), 6),
        "unexplained": causes.pop("unexplained", 0),
        "by_cause": dict(sorted(causes.items())),
    }


# --- times -------------------------------------------------------------------------------


def times(ledger: Ledger) -> dict[str, Any]:
    """How long channels waited, in seconds. ``waited``: from the answer to a write until its first
    delivery. From the return of a server, ``resumed_after``: until anything was delivered;
    ``recovered_after``: until something was that was written since the fault, and so had to wait
    for all that was before it, what was fed again included."""
    first: dict[tuple[str, str], float] = {}
    for delivery in ledger.deliveries:
        if delivery.outcome == "delivered":
            for name in delivery.ops:
                first.setdefault((delivery.channel, name), delivery.at)
    started = {operation.name: operation.started for operation in ledger.operations}
    arrivals = sorted((at, started.get(name, 0.0)) for (_, name), at in first.items())
    waits = sorted(
        max(0.0, first[channel, operation.name] - operation.ended)
        for operation in ledger.operations
        for channel in ledger.channels
        if operation.outcome == "ok" and (channel, operation.name) in first
    )
    return {
        "waited": _spread(waits),
        "resumed_after": _by_kind(ledger, [(one.at, inf) for one in ledger.deliveries]),
        "recovered_after": _by_kind(ledger, arrivals),
    }


def _by_kind(ledger: Ledger, arrivals: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """From the return of a server to the next arrival of what was written since its fault, by the
    kind of the fault. ``arrivals``: when, and when the write began."""
    found: dict[str, list[float]] = defaultdict(list)
    for fault in ledger.faults:
        if fault.kind.endswith(("_valkey", "_postgresql")):
            arrived = (at for at, began in arrivals if at > fault.until and began > fault.at)
            if (at := next(arrived, None)) is not None:
                found[fault.kind].append(at - fault.until)
    return {kind: _spread(sorted(values)) for kind, values in sorted(found.items())}


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    hundredths = (
        quantiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    )
    return {
        "median": round(median(values), 3),
        "p99": round(hundredths[98], 3),
        "most": round(values[-1], 3),
    }
