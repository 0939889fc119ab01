"""One run: processes, clients and faults; then all drains, and sets are compared."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kinto_dispatch.testing.waiting import eventually
from tests.chaos.checker import check, uncovered
from tests.chaos.client import Client
from tests.chaos.crew import Crew
from tests.chaos.ledger import Ledger, presence, read_deliveries
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import GROUPS, LEASE_SECONDS, Plan
from tests.chaos.report import Played, report_of
from tests.chaos.settings import CHANNELS, DELIVERIES_FILE, slots
from tests.chaos.stage import Stage
from tests.chaos.waiting import look


READY_SECONDS = 30.0
LATE_SECONDS = 15.0
"""How much longer than planned the faults may take on a busy machine."""

WATCH_SECONDS = 1.0
LOOK_SECONDS = 0.25
LOOKS = 4
"""So often in a row nothing waits before what did not arrive counts as lost."""


class Run:
    """One plan carried out on a stage. ``watch`` is called each second of the part with faults,
    between the last fault and the last write."""

    def __init__(
        self, plan: Plan, stage: Stage, watch: Callable[[Crew], None] = lambda crew: None
    ) -> None:
        self._plan = plan
        self._stage = stage
        self._watch = watch
        self._directory, self._settings = stage.new_run(plan)
        self._clients: list[Client] = []
        self._nemeses: list[Nemesis] = []

    def play(self) -> dict[str, Any]:
        """Everything from the first write to the report."""
        clock = [time.monotonic()]
        with Crew(self._settings, self._directory, self._plan.plant) as crew, self._closing():
            crew.want("worker", self._plan.workers)
            crew.want("web", self._plan.webs)
            control = self._without_faults(crew)
            clock.append(time.monotonic())
            self._under_faults(crew)
            clock.append(time.monotonic())
            ledger, drained = self._drain()
            clock.append(time.monotonic())
            exit_codes = crew.dismiss("worker")
        played = Played(
            plan=self._plan,
            # Again, for what came after it had drained.
            ledger=replace(ledger, deliveries=self._deliveries()[0]),
            drained=drained,
            control=control,
            exit_codes=exit_codes,
            unasked=crew.unasked,
            postgresql=self._stage.postgresql.durability(),
            seconds={
                name: clock[place + 1] - clock[place]
                for place, name in enumerate(("control", "faults", "draining"))
            },
        )
        return report_of(played, self._directory)

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Whatever happens, nobody writes or breaks anything afterwards."""
        try:
            yield
        finally:
            for nemesis in self._nemeses:
                nemesis.end()
            for client in self._clients:
                client.end()
            for thread in (*self._nemeses, *self._clients):
                if thread.is_alive():
                    thread.join()
            for client in self._clients:
                client.close()

    # --- acts ----------------------------------------------------------------------------

    def _without_faults(self, crew: Crew) -> Mapping[str, Any]:
        if not self._plan.control_seconds:
            return {}
        clients = self._start_clients(crew)
        time.sleep(self._plan.control_seconds)
        _end(clients)
        ledger, _ = self._drain()
        return check(ledger)

    def _under_faults(self, crew: Crew) -> None:
        clients = self._start_clients(crew)
        self._nemeses = [
            Nemesis(self._plan, group, crew, self._stage.valkey, self._stage.postgresql)
            for group in GROUPS
        ]
        deadline = time.monotonic() + self._plan.seconds
        for nemesis in self._nemeses:
            nemesis.start()
        for nemesis in self._nemeses:
            # Late on a busy machine, but not for ever: the run is not valid then.
            nemesis.join(max(0.0, deadline + LATE_SECONDS - time.monotonic()))
            nemesis.end()
            nemesis.join()
            if nemesis.error is not None:
                raise nemesis.error
        while time.monotonic() < deadline:
            self._watch(crew)
            time.sleep(max(0.0, min(WATCH_SECONDS, deadline - time.monotonic())))
        _end(clients)

    def _start_clients(self, crew: Crew) -> Sequence[Client]:
        pace = self._plan.writes_per_second / self._plan.clients
        number = len(self._clients)
        clients = [
            Client(number + n, crew.port, pace, self._plan.seed) for n in range(self._plan.clients)
        ]
        for client in clients:
            eventually(client.make_collection, "Kinto to take a collection", READY_SECONDS)
        for client in clients:
            client.start()
        self._clients += clients
        return clients

    # --- draining ------------------------------------------------------------------------

    def _drain(self) -> tuple[Ledger, bool]:
        """The ledger once everything has arrived, or once nothing more is on its way; and whether
        that came in time."""
        deadline = time.monotonic() + self._plan.drain_seconds
        quiet, idle = 0, False
        while time.monotonic() < deadline and quiet < LOOKS:
            time.sleep(LOOK_SECONDS)
            idle, dead = look(self._settings)
            quiet = quiet + 1 if idle else 0
            if idle and not uncovered(self._ledger()):
                break
        return replace(self._ledger(), dead=dead), idle

    def _ledger(self) -> Ledger:
        present: dict[str, bool] = {}
        for client in self._clients:
            (stored,) = eventually(
                partial(_wrapped, client), "Kinto to list what it has", READY_SECONDS
            )
            present.update(
                presence(client.operations, {record["id"]: record for record in stored})
            )
        deliveries, torn = self._deliveries()
        return Ledger(
            operations=[operation for one in self._clients for operation in one.operations],
            present=present,
            deliveries=deliveries,
            faults=[fault for nemesis in self._nemeses for fault in nemesis.faults],
            channels=list(CHANNELS),
            lease_seconds=LEASE_SECONDS,
            workers=self._plan.workers,
            slots=slots(self._plan.channels),
            torn=torn,
        )

    def _deliveries(self) -> Any:
        return read_deliveries(self._directory / DELIVERIES_FILE)


def _wrapped(client: Client) -> Any:
    """What is stored, in a tuple: that nothing is stored is an answer, too."""
    stored = client.stored()
    return None if stored is None else (stored,)


def _end(clients: Sequence[Client]) -> None:
    """Wait until the last of these has ended. Raises what broke one of them."""
    for client in clients:
        client.end()
    for client in clients:
        client.join()
        if client.error is not None:
            raise client.error
