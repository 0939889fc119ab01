"""The names of the keys. Braces mark the hash tag: a script touches the keys of one tag only."""

from __future__ import annotations

from dataclasses import dataclass, field


GROUP = "workers"


@dataclass(frozen=True)
class LogKeys:
    """The keys of the log."""

    prefix: str
    stream: str = field(init=False)
    seen: str = field(init=False)
    mark: str = field(init=False)
    lanes: str = field(init=False)

    def __post_init__(self) -> None:
        for name in ("stream", "seen", "mark", "lanes"):
            object.__setattr__(self, name, f"{self.prefix}:{{log}}:{name}")


@dataclass(frozen=True)
class LaneKeys:
    """The keys of one lane."""

    prefix: str
    lane: str
    stream: str = field(init=False)
    cursor: str = field(init=False)
    due: str = field(init=False)
    held: str = field(init=False)
    dead: str = field(init=False)
    attempts: str = field(init=False)
    paused: str = field(init=False)
    strikes: str = field(init=False)
    breaker: str = field(init=False)

    def __post_init__(self) -> None:
        for name in (
            "stream",
            "cursor",
            "due",
            "held",
            "dead",
            "attempts",
            "paused",
            "strikes",
            "breaker",
        ):
            object.__setattr__(self, name, f"{self.prefix}:{{lane:{self.lane}}}:{name}")
