"""Does what a plan says, at the times it says, and notes it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from tests.chaos.crew import Crew
from tests.chaos.ledger import Fault
from tests.chaos.plan import LEASE_SECONDS, Plan, schedule
from tests.chaos.servers import CarelessValkey, DurablePostgresql


class Nemesis(threading.Thread):
    """One group of faults, one after the other. ``faults`` is what was done."""

    def __init__(
        self,
        plan: Plan,
        group: str,
        crew: Crew,
        valkey: CarelessValkey,
        postgresql: DurablePostgresql,
    ) -> None:
        super().__init__(name=f"nemesis-{group}", daemon=True)
        self.faults: list[Fault] = []
        self.error: BaseException | None = None
        self._plan = plan
        self._schedule: Sequence[tuple[float, str]] = schedule(plan, group)
        self._chance = random.Random(f"{plan.seed} how {group}")
        self._crew = crew
        self._valkey = valkey
        self._postgresql = postgresql
        self._ended = threading.Event()
        self._frozen: list[threading.Thread] = []

    def run(self) -> None:
        """Carry out the schedule. What comes late is not left out."""
        began = time.monotonic()
        try:
            for offset, kind in self._schedule:
                if self._ended.wait(max(0.0, began + offset - time.monotonic())):
                    return
                self._actions()[kind]()
        except BaseException as error:
            self.error = error
        finally:
            for thread in self._frozen:
                thread.join()

    def end(self) -> None:
        """Leave out what is still to come."""
        self._ended.set()

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "kill_worker": lambda: self._kill("worker"),
            "stop_worker": lambda: self._hold("worker"),
            "restart_worker": self._restart_worker,
            "kill_web": lambda: self._kill("web"),
            "stop_web": lambda: self._hold("web"),
            "kill_valkey": self._kill_valkey,
            "stop_valkey": lambda: self._pause("valkey", self._valkey),
            "cut_valkey": lambda: self._cut("cut_valkey", self._valkey.cut),
            "reset_valkey": lambda: self._cut("reset_valkey", self._valkey.reset),
            "power_cut_valkey": self._cut_power,
            "promote_valkey": self._promote_valkey,
            "flush_valkey": self._flush_valkey,
            "kill_postgresql": self._kill_postgresql,
            "stop_postgresql": lambda: self._pause("postgresql", self._postgresql),
            "cut_postgresql": lambda: self._cut("cut_postgresql", self._postgresql.cut),
        }

    # --- processes -----------------------------------------------------------------------

    def _victim(self, kind: str) -> int | None:
        pids = self._crew.pids(kind)
        return self._chance.choice(pids) if pids else None

    def _kill(self, kind: str) -> None:
        pid = self._victim(kind)
        if pid is not None:
            at = time.monotonic()
            self._crew.kill(pid)
            self._note(f"kill_{kind}", at, pid=pid)

    def _restart_worker(self) -> None:
        """As a deployment does it: politely. Nobody waits for its end."""
        # The oldest: one that has just been forked does not listen to signals yet.
        for pid in self._crew.pids("worker")[:1]:
            at = time.monotonic()
            self._crew.ask_to_end(pid)
            self._note("restart_worker", at, pid=pid)

    def _hold(self, kind: str) -> None:
        """For longer than a lease; others are killed meanwhile."""
        pid = self._victim(kind)
        if pid is not None:
            seconds = LEASE_SECONDS * self._chance.uniform(*self._plan.frozen_leases)
            thread = threading.Thread(target=self._freeze, args=(kind, pid, seconds), daemon=True)
            thread.start()
            self._frozen.append(thread)

    def _freeze(self, kind: str, pid: int, seconds: float) -> None:
        at = time.monotonic()
        self._crew.stop(pid)
        time.sleep(seconds)
        self._crew.go_on(pid)
        self._note(f"stop_{kind}", at, pid=pid)

    # --- servers -------------------------------------------------------------------------

    def _absence(self) -> float:
        """Mostly short; now and then longer than a lease."""
        if self._chance.random() < 0.2:
            return LEASE_SECONDS * self._chance.uniform(1.1, 1.5)
        return self._chance.uniform(0.1, 1.0)

    def _kill_valkey(self) -> None:
        at = time.monotonic()
        self._valkey.kill()
        time.sleep(self._absence())
        self._valkey.start()
        self._note("kill_valkey", at)

    def _pause(self, name: str, server: CarelessValkey | DurablePostgresql) -> None:
        at = time.monotonic()
        server.pause()
        time.sleep(self._absence())
        server.resume()
        self._note(f"stop_{name}", at)

    def _cut(self, kind: str, cut: Callable[[], None]) -> None:
        at = time.monotonic()
        cut()
        self._note(kind, at)

    def _cut_power(self) -> None:
        at = time.monotonic()
        since, lost_bytes = self._valkey.cut_power(self._chance)
        time.sleep(self._absence())
        self._valkey.start()
        self._note("power_cut_valkey", at, since=since, lost_bytes=lost_bytes)

    def _promote_valkey(self) -> None:
        since, at = self._valkey.promote(self._chance)
        self._note("promote_valkey", at, since=since)

    def _flush_valkey(self) -> None:
        at = time.monotonic()
        self._valkey.flush()
        self._note("flush_valkey", at)

    def _kill_postgresql(self) -> None:
        at = time.monotonic()
        self._postgresql.kill()
        time.sleep(self._chance.uniform(0.1, 1.0))
        self._postgresql.start()
        self._note("kill_postgresql", at)

    def _note(
        self,
        kind: str,
        at: float,
        pid: int | None = None,
        since: float | None = None,
        lost_bytes: int = 0,
    ) -> None:
        self.faults.append(
            Fault(
                kind=kind,
                at=at,
                until=time.monotonic(),
                pid=pid,
                since=since,
                lost_bytes=lost_bytes,
            )
        )
