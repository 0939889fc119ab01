"""What was asked, what is stored, what was delivered and what was done to it: plain values.

All times are seconds of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.client import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One line of a receiver: what it was given and what it answered.

    The attempt ``began`` when the hook was called, and was noted ``at``. ``pid`` ran it;
    ``parent`` is the worker where that was a child on quarantine.
    """

    began: float
    at: float
    pid: int
    parent: int
    channel: str
    key: str
    attempt: int
    outcome: str
    event: str
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done from ``at`` on; ``until`` it was made good. ``since`` is where the memory of
    a server ends that was thrown back, ``pid`` the process that was hit."""

    kind: str
    at: float
    until: float
    pid: int | None = None
    since: float | None = None
    lost_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A delivery that was given up, as the queue has it at the end."""

    channel: str
    key: str
    kind: str
    reason: str
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Everything that the checker compares. ``present`` is what the storage says of each
    operation whose fate the client does not know or that decided a record last. ``slots`` is how
    many deliveries one of ``workers`` may have noted and not yet settled."""

    operations: Sequence[Operation]
    present: Mapping[str, bool]
    deliveries: Sequence[Delivery]
    dead: Sequence[DeadLetter] = ()
    faults: Sequence[Fault] = ()
    channels: Collection[str] = ()
    lease_seconds: float = 2.0
    workers: int = 3
    slots: int = 12
    torn: int = 0


def read_deliveries(path: Path) -> tuple[Sequence[Delivery], int]:
    """The receivers' lines in the order of time, and how many a kill cut off midway."""
    found, torn = [], 0
    if not path.exists():
        return [], 0
    for line in path.read_text().splitlines():
        if not line:
            continue
        try:
            words = json.loads(line)
            found.append(Delivery(**{**words, "ops": tuple(words["ops"])}))
        except (ValueError, TypeError, KeyError):
            torn += 1
    return sorted(found, key=lambda delivery: delivery.at), torn


def presence(
    operations: Iterable[Operation], stored: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, bool]:
    """Whether the storage has what these operations wrote: for those of unknown fate, for refused
    ones, and for the last one of each record that was acknowledged.

    Nothing is asked of a record after an operation on it went astray, so what is stored decides.
    """
    by_record: dict[str, list[Operation]] = defaultdict(list)
    present: dict[str, bool] = {}
    for operation in operations:
        if operation.outcome == "failed":
            # Its name would be in a record that it has written.
            record = stored.get(operation.record, {})
            present[operation.name] = record.get("op") == operation.name
        else:
            by_record[operation.record].append(operation)
    for name, history in by_record.items():
        present.update(_of_record(history, stored.get(name)))
    return present


def _of_record(
    history: Sequence[Operation], record: Mapping[str, Any] | None
) -> Mapping[str, bool]:
    *before, last = history
    present = {last.name: _is_stored(last, record)}
    if last.outcome == "unknown" and not present[last.name] and before:
        present[before[-1].name] = _is_stored(before[-1], record)
    return present


def _is_stored(operation: Operation, record: Mapping[str, Any] | None) -> bool:
    if record is None:
        return False
    if operation.kind == "delete":
        return bool(record.get("deleted"))
    return record.get("op") == operation.name
