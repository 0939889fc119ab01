"""``python -m tests.chaos.soak [--seconds N] [--rate N]``: nothing breaks, and nothing may grow.

One web process and one worker deliver what clients write, in bulk and one by one. Each second
their memory, their open files, the connections of both servers and the keys of the queue are
counted; once everything is warm they stay as they are, however much is delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from kinto_dispatch.queue.guardian import Connection
from tests.chaos.crew import Crew
from tests.chaos.plan import Plan
from tests.chaos.run import Run
from tests.chaos.stage import Stage, stage


SECONDS = 120.0
WRITES_PER_SECOND = 45.0
LEAST_DELIVERIES = 20_000
MOST_GROWTH = 0.05
"""From the second quarter to the last. The first is for warming up."""

MOST_PIECES = 4
"""Of what is counted in tens, a pool of connections above all: it grows when more calls happen to
coincide than ever before, which in two minutes may come late. A leak would be hundreds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How much there is of what must not grow; memory in kB."""

    web_rss: int
    web_files: int
    worker_rss: int
    worker_files: int
    valkey_clients: int
    valkey_keys: int
    postgresql_connections: int


class Samples:
    """Taken while a run goes on."""

    def __init__(self, place: Stage) -> None:
        self.taken: list[Sample] = []
        self._place = place

    def take(self, crew: Crew) -> None:
        """Look once."""
        (web,), (worker,) = crew.pids("web"), crew.pids("worker")
        clients, keys = self._of_valkey()
        self.taken.append(
            Sample(
                *(_rss(web), _files(web), _rss(worker), _files(worker)),
                *(clients, keys, self._place.postgresql.count_connections()),
            )
        )

    def growth(self) -> Mapping[str, float]:
        """By how much of itself each has grown from the second quarter to the last."""
        quarter = len(self.taken) // 4
        early, late = self.taken[quarter : 2 * quarter], self.taken[-quarter:]
        return {
            field.name: round(_middle(late, field.name) / _middle(early, field.name) - 1, 4)
            for field in fields(Sample)
        }

    def _of_valkey(self) -> tuple[int, int]:
        with closing(Connection(self._place.valkey.socket)) as connection:
            lines = connection.ask("INFO clients").splitlines()
            (clients,) = (line for line in lines if line.startswith("connected_clients:"))
            return int(clients.partition(":")[2]), int(connection.ask("DBSIZE"))


def soak(
    place: Stage, seconds: float, seed: int, writes_per_second: float = WRITES_PER_SECOND
) -> dict[str, Any]:
    """The report of the run, with ``growth`` and what there was in the middle of the last
    quarter, ``at_the_end``."""
    samples = Samples(place)
    plan = Plan(
        seed=seed,
        seconds=seconds,
        control_seconds=0.0,
        writes_per_second=writes_per_second,
        webs=1,
        workers=1,
        faults={},
        least_faults={},
        least_deliveries=LEAST_DELIVERIES,
    )
    report = Run(plan, place, samples.take).play()
    growth, late = samples.growth(), samples.taken[-len(samples.taken) // 4 :]
    grown = [
        f"{name} grew by {by:.1%}"
        for name, by in growth.items()
        if by > MOST_GROWTH and by * _middle(late, name) > MOST_PIECES
    ]
    wrong = [*report["wrong"], *grown]
    if total := report["duplicated"]["total"]:
        wrong.append(f"duplicated: {total}")
    return {
        **report,
        "passed": not wrong,
        "wrong": wrong,
        "growth": growth,
        "at_the_end": {field.name: _middle(late, field.name) for field in fields(Sample)},
    }


def _middle(samples: Sequence[Sample], name: str) -> float:
    return float(median(getattr(sample, name) for sample in samples))


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1])


def _files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> int:
    """Run once and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=WRITES_PER_SECOND, help="writes per second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with stage() as place:
        report = soak(place, options.seconds, options.seed, options.rate)
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] and report["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
