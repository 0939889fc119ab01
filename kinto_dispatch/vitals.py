"""Whether a worker process lives and is ready, for its supervisor and for who probes it. Pure.

*Live* is tied to fetching: a process whose event loop does not turn, or that asks for nothing
though it has room, is not, and a new one helps. That the queue is away makes nobody less live,
since a new process would find it away too. *Ready* is who has reached the queue and runs all
channels that it was told to.

Times are seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


STANDSTILL_SECONDS = 30.0
"""How long a lane with room may ask for nothing: longer than any call to the queue takes."""

SILENT_SECONDS = 15.0
"""How long a process may say nothing, which it should do every second; as many times that as a
busy machine makes of it."""

STARTING_SECONDS = 60.0
"""How long a process may take to say something at all: plugins are imported meanwhile."""


class Vitals(msgspec.Struct, frozen=True):
    """What a worker process says of itself: why it is not live, and why it is not ready, each a
    sentence without secrets. None of them means that it is."""

    stuck: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()

    @property
    def is_live(self) -> bool:
        """Whether it fetches, or would."""
        return not self.stuck

    @property
    def is_ready(self) -> bool:
        """Whether it is live and has all that it needs."""
        return not (self.stuck or self.unready)

    def encode(self) -> bytes:
        """As one line."""
        return msgspec.json.encode(self) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Vitals:
        """From ``encode``. Raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(line, type=cls)


class Standstill:
    """Finds the lanes that do not come round though they have room."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, float]] = {}

    def look(self, rounds: Mapping[str, int], now: float) -> Sequence[str]:
        """Those of these that have stood at the same round, with room whenever one looked, for too
        long. Named are all lanes with room, and how often each has come round."""
        known = self._since
        self._since = {
            lane: known[lane] if lane in known and known[lane][0] == round_ else (round_, now)
            for lane, round_ in rounds.items()
        }
        return [
            lane for lane, (_, since) in self._since.items() if now - since > STANDSTILL_SECONDS
        ]


class Pulse:
    """The last that was heard of one process, and what its silence means."""

    def __init__(self, started_at: float) -> None:
        self._vitals: Vitals | None = None
        self._at = started_at

    def hear(self, vitals: Vitals, now: float) -> None:
        """It says this of itself."""
        # In this order, since another thread may be looking.
        self._at = now
        self._vitals = vitals

    def look(self, now: float) -> Vitals:
        """What is to be said of it now."""
        vitals, silent = self._vitals, now - self._at
        if vitals is None:
            late = silent > STARTING_SECONDS
            stuck = (f"has not started for {silent:.0f} s",) if late else ()
            return Vitals(stuck, () if late else ("starts",))
        if silent > SILENT_SECONDS:
            return Vitals((f"its event loop has stood still for {silent:.0f} s",))
        return vitals
