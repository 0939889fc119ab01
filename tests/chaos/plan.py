"""What a run does and how often, from its length and its seed: pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


FULL_SECONDS = 220.0
"""With start, control and draining a run of this length takes less than five minutes."""

# kill: SIGKILL. stop: SIGSTOP, and SIGCONT later. restart: SIGTERM. cut: all its connections.
# reset: all its connections, by a proxy, each after the server has done what was asked.
# power_cut: SIGKILL, and what was not yet synced is gone. promote: SIGKILL, and a replica that
# lags takes over.
FULL_FAULTS: Mapping[str, int] = {
    "kill_worker": 110,
    "stop_worker": 8,
    "restart_worker": 12,
    "kill_web": 110,
    "stop_web": 8,
    "kill_valkey": 12,
    "stop_valkey": 3,
    "cut_valkey": 10,
    "reset_valkey": 10,
    "power_cut_valkey": 6,
    "promote_valkey": 2,
    "flush_valkey": 2,
    "kill_postgresql": 6,
    "stop_postgresql": 2,
    "cut_postgresql": 6,
}
LEAST_FAULTS: Mapping[str, int] = {
    "kill_worker": 100,
    "kill_web": 100,
    "kill_valkey": 10,
    "reset_valkey": 5,
    "power_cut_valkey": 5,
    "promote_valkey": 1,
    "flush_valkey": 2,
    "kill_postgresql": 5,
}
"""What a full run needs to be valid."""

GROUPS = {
    "workers": ("kill_worker", "stop_worker", "restart_worker"),
    "webs": ("kill_web", "stop_web"),
    "valkey": (
        "kill_valkey",
        "stop_valkey",
        "cut_valkey",
        "reset_valkey",
        "power_cut_valkey",
        "promote_valkey",
        "flush_valkey",
    ),
    "postgresql": ("kill_postgresql", "stop_postgresql", "cut_postgresql"),
}
"""Faults of one group follow each other; the groups go on side by side."""

LEAST_DELIVERIES = 20_000
SHORT_LEAST_DELIVERIES = 15_000
"""For a short run in proportion: on a slow machine it has come less far when it ends."""

MOST_REPEATS = 0.005
"""Of all that receivers accepted, in a full run. What a kill repeats is bounded by what was in
flight, however much was delivered between two kills, so it is a share only over a length of time
and on a machine that keeps up; a short run is held to what was in flight."""

WRITES_PER_SECOND = 25.0
LEASE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. ``least_faults`` and ``least_deliveries`` make it valid; ``most_repeats`` is the
    share of repeats that it may not reach. ``frozen_leases`` is how long a process is stopped, in
    leases; ``channels`` changes options of channels; ``plant`` is what is broken on purpose, see
    ``plants``."""

    seed: int
    seconds: float = FULL_SECONDS
    control_seconds: float = 10.0
    drain_seconds: float = 90.0
    writes_per_second: float = WRITES_PER_SECOND
    clients: int = 6
    workers: int = 3
    webs: int = 3
    faults: Mapping[str, int] = field(default_factory=lambda: FULL_FAULTS)
    least_faults: Mapping[str, int] = field(default_factory=lambda: LEAST_FAULTS)
    least_deliveries: int = LEAST_DELIVERIES
    most_repeats: float = MOST_REPEATS
    frozen_leases: tuple[float, float] = (1.2, 2.0)
    channels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    plant: str = ""


def plan_for(seconds: float, seed: int) -> Plan:
    """The same mix of faults for a shorter run, each of them at least once."""
    share = min(1.0, seconds / FULL_SECONDS)
    is_full = share == 1.0
    return Plan(
        seed=seed,
        seconds=seconds,
        faults={kind: math.ceil(count * share) for kind, count in FULL_FAULTS.items()},
        least_faults={kind: math.ceil(count * share) for kind, count in LEAST_FAULTS.items()},
        least_deliveries=int((LEAST_DELIVERIES if is_full else SHORT_LEAST_DELIVERIES) * share),
        most_repeats=MOST_REPEATS if is_full else 1.0,
    )


def schedule(plan: Plan, group: str) -> Sequence[tuple[float, str]]:
    """When which fault of a group comes, in seconds since the faults began: spread evenly, in an
    order and with a jitter that only the seed decides."""
    chance = random.Random(f"{plan.seed} {group}")
    kinds = [kind for kind in GROUPS[group] for _ in range(plan.faults.get(kind, 0))]
    chance.shuffle(kinds)
    step = plan.seconds / max(1, len(kinds))
    return [
        (step * (number + chance.uniform(0.1, 0.9)), kind) for number, kind in enumerate(kinds)
    ]
