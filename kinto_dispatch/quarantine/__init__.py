"""Where deliveries run alone that a dead worker held: each in a process of its own.

Whether a delivery kills the process that runs it cannot be told from how often it was delivered:
one that does brings down all that were in flight with it. So what a dead worker held runs next
in a process of its own, and only a death there is a strike against it. Two strikes make a dead
letter of kind ``poison``; the innocent ones are simply delivered.
"""

from __future__ import annotations

from kinto_dispatch.quarantine.quarantine import Died, Postponed, Quarantine, Unfinished


__all__ = ["Died", "Postponed", "Quarantine", "Unfinished"]
