"""The account of a run as one JSON object, and the evidence beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checker import check, times
from tests.chaos.client import as_lines
from tests.chaos.crew import Unasked
from tests.chaos.ledger import Ledger
from tests.chaos.plan import Plan


MOST_RESUME_SECONDS = 10.0
"""After the return of a server something is delivered within this time, by workers that nobody
started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What a run left. ``control`` is the account of the part without faults, if there was one;
    ``exit_codes`` are those of the workers that were asked to end; ``postgresql`` is what its
    server says of its durability."""

    plan: Plan
    ledger: Ledger
    drained: bool
    control: Mapping[str, Any]
    exit_codes: Sequence[int]
    unasked: Sequence[Unasked]
    postgresql: Mapping[str, str]
    seconds: Mapping[str, float]


def report_of(played: Played, directory: Path) -> dict[str, Any]:
    """``passed`` if nothing was wrong, ``valid`` if enough was done to prove anything. The report
    and what it was made from are written to ``directory``."""
    account = check(played.ledger, played.plan.most_repeats)
    done = Counter(fault.kind for fault in played.ledger.faults)
    waits = times(played.ledger)
    wrong = [*account.pop("wrong"), *_wrong_besides(played), *_late(waits["resumed_after"])]
    missing = list(_missing(played.plan, account, done))
    report = {
        "seed": played.plan.seed,
        "seconds_of_faults": played.plan.seconds,
        "passed": not wrong,
        "valid": not missing,
        "wrong": wrong,
        "missing": missing,
        **account,
        "control": {key: value for key, value in played.control.items() if key != "examples"},
        "faults": dict(sorted(done.items())),
        "lost_bytes": sum(fault.lost_bytes for fault in played.ledger.faults),
        "fed_again_rows": _fed_again_rows(directory / "processes.log"),
        "postgresql": dict(played.postgresql),
        "torn_lines": played.ledger.torn,
        "ended_by_themselves": [asdict(one) for one in played.unasked],
        **waits,
        "seconds": {name: round(value, 1) for name, value in played.seconds.items()},
    }
    _keep(played.ledger, report, directory)
    return report


def _wrong_besides(played: Played) -> Iterator[str]:
    for what in played.control.get("wrong", ()):
        yield f"without faults: {what}"
    if played.control and (total := played.control["duplicated"]["total"]):
        yield f"without faults: {total} duplicated"
    if not played.drained:
        yield "not everything had drained in time"
    if careless := [name for name, value in played.postgresql.items() if value != "on"]:
        yield f"PostgreSQL without {', '.join(careless)}"
    if played.unasked:
        yield f"{len(played.unasked)} processes ended by themselves"
    if any(played.exit_codes):
        yield f"workers ended with {list(played.exit_codes)} on SIGTERM"


def _late(resumed: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for kind, spread in resumed.items():
        if spread["most"] > MOST_RESUME_SECONDS:
            yield f"nothing was delivered for {spread['most']} s after {kind}"


def _missing(plan: Plan, account: Mapping[str, Any], done: Mapping[str, int]) -> Iterator[str]:
    """What the run would have needed to prove anything."""
    for kind, least in plan.least_faults.items():
        if done.get(kind, 0) < least:
            yield f"{done.get(kind, 0)} of {least} {kind}"
    if account["delivered"] < plan.least_deliveries:
        yield f"{account['delivered']} of {plan.least_deliveries} deliveries"
    if 2 * account["acknowledged"] < account["attempted"]:
        yield f"only {account['acknowledged']} of {account['attempted']} writes were acknowledged"


def _fed_again_rows(log: Path) -> int:
    """What the relays said that they fed again."""
    words = log.read_text(errors="replace").split() if log.exists() else []
    return sum(
        int(words[place + 1].removeprefix("rows="))
        for place, word in enumerate(words[:-1])
        if word == "relay.fed_again"
    )


def _keep(ledger: Ledger, report: Mapping[str, Any], directory: Path) -> None:
    faults = "".join(json.dumps(asdict(fault)) + "\n" for fault in ledger.faults)
    directory.joinpath("operations.jsonl").write_text(as_lines(ledger.operations))
    directory.joinpath("faults.jsonl").write_text(faults)
    directory.joinpath("report.json").write_text(json.dumps(report, indent=2))
