"""One channel's lane in one worker: claim, attempt, settle, and keep the claims alive."""

from __future__ import annotations

from kinto_dispatch.lane.lane import Lane


__all__ = ["Lane"]
