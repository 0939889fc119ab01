"""What runs for long does not grow."""

from __future__ import annotations

import pytest

from tests.chaos.soak import SECONDS, soak
from tests.chaos.stage import stage


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_nothing_grows_and_each_change_is_announced_once() -> None:
    """Over 20,000 deliveries by one worker the memory and the open files of both processes, the
    connections and the keys stay within 5 %, and every change of a batch arrives exactly once:
    two minutes, and an hour where ``python -m tests.chaos.soak --seconds 3600`` is run (R30)."""
    with stage() as place:
        report = soak(place, SECONDS, seed=20261123)
    assert report["wrong"] == []
    assert report["missing"] == []
