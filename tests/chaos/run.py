"""One run: servers, processes, clients and faults; then all drains and sets are compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kinto_dispatch.errors import OutboxUnavailable, QueueUnavailable
from kinto_dispatch.event import Event
from kinto_dispatch.outbox.reader import PostgresOutboxReader
from kinto_dispatch.plugins import configure
from kinto_dispatch.queue import open_queue
from kinto_dispatch.queue.protocol import Queue
from kinto_dispatch.testing.waiting import eventually
from tests.chaos.checker import check, times, uncovered
from tests.chaos.client import Client, Operation, as_lines
from tests.chaos.crew import Crew
from tests.chaos.ledger import DeadLetter, Ledger, presence, read_deliveries
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import GROUPS, LEASE_SECONDS, Plan
from tests.chaos.recorder import op_of
from tests.chaos.servers import CarelessValkey, DurablePostgresql
from tests.chaos.settings import CHANNELS, DELIVERIES_FILE, settings_for


READY_SECONDS = 30.0
LATE_SECONDS = 15.0
"""How much longer than planned the faults may take on a busy machine."""

LOOK_SECONDS = 0.25
LOOKS = 4
"""So often in a row nothing waits before what did not arrive counts as lost."""

MIGRATE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from kinto_dispatch.testing.kinto import migrate_database
migrate_database(json.load(sys.stdin))
"""


class Stage:
    """PostgreSQL and Valkey, and a migrated Kinto on them; runs follow each other on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.postgresql = DurablePostgresql(directory)
        self.valkey = CarelessValkey(_made(directory / "valkey"))
        self._runs = 0
        self._storage_url = ""

    def __enter__(self) -> Stage:
        try:
            self.postgresql.start()
            self.valkey.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both servers."""
        self.valkey.stop()
        self.postgresql.stop()

    def new_run(self, plan: Plan) -> tuple[Path, dict[str, str]]:
        """A directory and settings for one run, on an empty database and an empty queue."""
        self._runs += 1
        directory = _made(self.directory / f"run-{self._runs}")
        self.valkey.flush()
        settings = settings_for(
            self.postgresql.create_database(), self.valkey.url, directory, plan.channels
        )
        subprocess.run(
            [sys.executable, "-c", MIGRATE],
            input=json.dumps(settings).encode(),
            check=True,
            timeout=READY_SECONDS,
        )
        return directory, settings


class Run:
    """One plan carried out on a stage."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._directory, settings = stage.new_run(plan)
        self._storage_url = settings["kinto.storage_url"]
        self._dispatch = configure(settings).settings
        self._settings = settings
        self._clients: list[Client] = []
        self._nemeses: list[Nemesis] = []

    def play(self) -> dict[str, Any]:
        """Everything from the first write to the report."""
        began = time.monotonic()
        with Crew(self._settings, self._directory, self._plan.plant) as crew, self._closing():
            crew.want("worker", self._plan.workers)
            crew.want("web", self._plan.webs)
            control = self._control(crew)
            faults_at = time.monotonic()
            self._under_faults(crew)
            faults_ended = time.monotonic()
            ledger = self._drained(crew)
            drained_after = time.monotonic() - faults_ended
            exit_codes = crew.dismiss("worker")
            unasked = crew.unasked
        report = self._report(ledger, control, exit_codes, unasked)
        report["seconds"] = {
            "control": round(faults_at - began, 1),
            "faults": round(faults_ended - faults_at, 1),
            "draining": round(drained_after, 1),
        }
        self._keep(ledger, report)
        return report

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Whatever happens, nobody writes or breaks anything afterwards."""
        try:
            yield
        finally:
            for nemesis in self._nemeses:
                nemesis.end()
            _end(self._clients)
            for client in self._clients:
                client.close()

    # --- acts ----------------------------------------------------------------------------

    def _control(self, crew: Crew) -> dict[str, Any]:
        """Without faults nothing may come twice."""
        if not self._plan.control_seconds:
            return {}
        clients = self._start_clients(crew)
        time.sleep(self._plan.control_seconds)
        _end(clients)
        return check(self._drained(crew))

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
        time.sleep(max(0.0, deadline - time.monotonic()))
        _end(clients)
        for thread in [*clients, *self._nemeses]:
            if thread.error is not None:
                raise thread.error

    def _start_clients(self, crew: Crew) -> Sequence[Client]:
        pace = self._plan.writes_per_second / self._plan.clients
        number = len(self._clients)
        clients = [
            Client(number + n, crew.port, pace, self._plan.seed) for n in range(self._plan.clients)
        ]
        for client in clients:
            eventually(
                lambda client=client: _worked(client.make_collection),
                "Kinto to take a collection",
                READY_SECONDS,
            )
        for client in clients:
            client.start()
        self._clients += clients
        return clients

    # --- draining ------------------------------------------------------------------------

    def _drained(self, crew: Crew) -> Ledger:
        """The ledger once everything has arrived, or once nothing more is on its way."""
        deadline = time.monotonic() + self._plan.drain_seconds
        quiet = 0
        ledger = self._ledger()
        while time.monotonic() < deadline and quiet < LOOKS:
            time.sleep(LOOK_SECONDS)
            idle, dead = asyncio.run(self._look())
            quiet = quiet + 1 if idle else 0
            if quiet == LOOKS or (idle and not uncovered(self._ledger())):
                break
        ledger = self._ledger()
        ledger.dead = dead
        ledger.more["drained"] = idle
        return ledger

    def _ledger(self) -> Ledger:
        operations: list[Operation] = []
        present: dict[str, bool] = {}
        for client in self._clients:
            stored = eventually(
                lambda client=client: _worked_out(client.stored),
                "Kinto to list what it has",
                READY_SECONDS,
            )
            operations += client.operations
            present.update(
                presence(client.operations, {record["id"]: record for record in stored[0]})
            )
        deliveries, torn = read_deliveries(self._directory / DELIVERIES_FILE)
        return Ledger(
            operations=operations,
            present=present,
            deliveries=deliveries,
            faults=[fault for nemesis in self._nemeses for fault in nemesis.faults],
            channels=list(CHANNELS),
            lease_seconds=LEASE_SECONDS,
            torn=torn,
        )

    async def _look(self) -> tuple[bool, Sequence[DeadLetter]]:
        """Whether nothing waits anywhere, and the dead letters."""
        reader = PostgresOutboxReader(self._storage_url)
        queue = open_queue(self._dispatch)
        try:
            waiting = (await asyncio.to_thread(reader.status)).waiting
            lanes = await queue.status(list(CHANNELS))
            idle = not waiting and not any(
                lane.waiting or lane.in_flight or lane.retry or lane.oldest_waiting_seconds
                for lane in lanes
            )
            return idle, [letter for name in CHANNELS async for letter in _dead(queue, name)]
        except (OutboxUnavailable, QueueUnavailable):
            return False, []
        finally:
            reader.close()
            await queue.close()

    # --- the report ----------------------------------------------------------------------

    def _report(
        self,
        ledger: Ledger,
        control: Mapping[str, Any],
        exit_codes: Sequence[int],
        unasked: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        account = check(ledger)
        done = Counter(fault.kind for fault in ledger.faults)
        wrong = [*account.pop("wrong")]
        wrong += _wrong_without_faults(control)
        if not ledger.more["drained"]:
            wrong.append("not everything had drained in time")
        if unasked:
            wrong.append(f"{len(unasked)} processes ended by themselves")
        if any(exit_codes):
            wrong.append(f"workers ended with {exit_codes} on SIGTERM")
        return {
            "seed": self._plan.seed,
            "passed": not wrong,
            "valid": not (missing := self._missing(account, done)),
            "wrong": wrong,
            "missing": missing,
            **account,
            "control": {key: value for key, value in control.items() if key != "examples"},
            "faults": dict(sorted(done.items())),
            "lost_bytes": sum(fault.lost_bytes for fault in ledger.faults),
            "fed_again_rows": self._fed_again(),
            "torn_lines": ledger.torn,
            "ended_by_themselves": list(unasked),
            **times(ledger),
        }

    def _missing(self, account: Mapping[str, Any], done: Mapping[str, int]) -> Sequence[str]:
        """What the run would have needed to prove anything."""
        missing = [
            f"{done.get(kind, 0)} of {least} {kind}"
            for kind, least in self._plan.least_faults.items()
            if done.get(kind, 0) < least
        ]
        if account["delivered"] < self._plan.least_deliveries:
            missing.append(f"{account['delivered']} of {self._plan.least_deliveries} deliveries")
        if 2 * account["acknowledged"] < account["attempted"]:
            missing.append("half of the writes acknowledged")
        return missing

    def _fed_again(self) -> int:
        log = self._directory / "processes.log"
        words = log.read_text(errors="replace").split() if log.exists() else []
        return sum(
            int(words[place + 1].removeprefix("rows="))
            for place, word in enumerate(words[:-1])
            if word == "relay.fed_again"
        )

    def _keep(self, ledger: Ledger, report: Mapping[str, Any]) -> None:
        write = {
            "operations.jsonl": as_lines(ledger.operations),
            "faults.jsonl": "".join(json.dumps(asdict(one)) + "\n" for one in ledger.faults),
            "report.json": json.dumps(report, indent=2),
        }
        for name, text in write.items():
            (self._directory / name).write_text(text)


def _wrong_without_faults(control: Mapping[str, Any]) -> Iterator[str]:
    for what in control.get("wrong", ()):
        yield f"without faults: {what}"
    if control and control["duplicated"]["total"]:
        yield f"without faults: {control['duplicated']['total']} duplicated"


async def _dead(queue: Queue, lane: str) -> Any:
    after = "0-0"
    while page := await queue.dead_letters(lane, after):
        for letter in page:
            after = letter.id
            changes = Event.decode(letter.body).changes
            yield DeadLetter(
                channel=lane,
                key=letter.key,
                kind=letter.kind,
                reason=letter.reason,
                ops=tuple(map(op_of, changes)),
            )


def _end(clients: Sequence[Client]) -> None:
    for client in clients:
        client.end()
    for client in clients:
        if client.is_alive():
            client.join()


def _worked(step: Any) -> bool:
    with contextlib.suppress(AssertionError):
        step()
        return True
    return False


def _worked_out(step: Any) -> Any:
    """What the step returned, wrapped: an empty list is an answer, too."""
    with contextlib.suppress(AssertionError):
        return [step()]
    return None


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def stage(keep: Path | None = None) -> Iterator[Stage]:
    """A stage in a directory of its own, which is removed unless it is to be kept."""
    with contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield stack.enter_context(Stage(_made(directory)))
