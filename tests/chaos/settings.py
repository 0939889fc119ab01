"""The configuration under test: four channels, a short lease, the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kinto_dispatch.testing.kinto import full_settings
from tests.chaos.plan import LEASE_SECONDS


BUCKET = "/buckets/chaos"
SPLIT = "split"
CHANNELS: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "flaky": {
        "retry_every": "5",
        "reject_every": "97",
        "retry_delays_seconds": "0.2 0.5 1",
    },
    "slow": {"delay_seconds": "0.05", "concurrency": "10"},
    SPLIT: {"split_changes": "true"},
}
SYNC = {
    "plugin": "tests.chaos.recorder:Afterthought",
    "mode": "sync",
    "resources": "record",
}
"""Runs between the commit and the answer, so that many a kill falls in there."""

DELIVERIES_FILE = "deliveries.jsonl"


def settings_for(storage_url: str, queue_url: str, directory: Path) -> dict[str, str]:
    """Kinto's settings as an ini has them."""
    alias = "kinto.event_listeners.dispatch"
    settings = {
        "kinto.storage_url": storage_url,
        "kinto.includes": "tests.chaos.conflict",
        "kinto.event_listeners": "dispatch",
        f"{alias}.use": "kinto_dispatch",
        f"{alias}.queue_url": queue_url,
        f"{alias}.lease_seconds": f"{LEASE_SECONDS:g}",
        f"{alias}.channels": " ".join([*CHANNELS, "sync"]),
        **{f"{alias}.channels.sync.{key}": value for key, value in SYNC.items()},
    }
    for name, own in CHANNELS.items():
        common = {
            "plugin": "tests.chaos.recorder:Recorder",
            "resources": "record",
            "path": str(directory / DELIVERIES_FILE),
        }
        for key, value in {**common, **own}.items():
            settings[f"{alias}.channels.{name}.{key}"] = value
    return full_settings(settings)
