"""One delivery → one outcome: resolve, call, judge, measure, report."""

from __future__ import annotations

from kinto_dispatch.attempt.attempter import Attempter
from kinto_dispatch.attempt.record import AttemptRecord
from kinto_dispatch.attempt.run import Run


__all__ = ["AttemptRecord", "Attempter", "Run"]
