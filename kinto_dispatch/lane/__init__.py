"""One channel's lane in one worker: claim, attempt, settle, and keep the claims alive."""

from __future__ import annotations

from kinto_dispatch.lane.lane import PROMOTE_BATCH, Lane


__all__ = ["PROMOTE_BATCH", "Lane"]
