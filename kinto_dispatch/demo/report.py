"""What was written, what arrived where, and how long it took."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field


CHANNELS = {
    "admins": "e-mail, in the request",
    "mail": "e-mail, through the worker",
    "slack": "Slack, through the worker",
    "eventqueue": "Redis list, through the worker",
}


@dataclass
class Report:
    """Keeps times of ``time.perf_counter``; threads of several servers tell it what arrived."""

    records: int
    sent: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note_write(self, title: str) -> None:
        """The write of this record begins."""
        with self._lock:
            self.sent[title] = time.perf_counter()

    def note_answer(self, title: str) -> None:
        """Kinto has answered the write of this record."""
        with self._lock:
            self.answered[title] = time.perf_counter()

    def note_arrival(self, channel: str, title: str, at: float) -> None:
        """The destination of this channel got the message for this record at that time."""
        with self._lock:
            self.arrived[channel].setdefault(title, at)

    @property
    def complete(self) -> bool:
        """Whether every record was written and has arrived in every channel, and nothing else."""
        with self._lock:
            written = set(self.answered)
            return len(written) == self.records and all(
                set(self.arrived[channel]) == written for channel in CHANNELS
            )

    def show(self) -> None:
        """Print a table for people on stdout."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{self.records} records written through Kinto's HTTP API")
        for column in ("channel", "what it is", "arrived", "median", "slowest"):
            table.add_column(column)
        table.add_row("", "Kinto's answer to the client", *self._row(self.answered))
        for channel, what in CHANNELS.items():
            table.add_row(channel, what, *self._row(self.arrived[channel]))
        console = Console()
        console.print(table)
        console.print("Times are from the start of the write to the arrival at the real server.")
        verdict = "Everything arrived." if self.complete else "NOT everything arrived."
        console.print(f"[bold]{verdict}[/bold]")

    def _row(self, times: dict[str, float]) -> tuple[str, str, str]:
        waits = [times[title] - begun for title, begun in self.sent.items() if title in times]
        count = f"{len(waits)} of {self.records}"
        if not waits:
            return count, "-", "-"
        return count, _milliseconds(statistics.median(waits)), _milliseconds(max(waits))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
