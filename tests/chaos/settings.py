"""The configuration under test: five channels, a short lease, the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kinto_dispatch.testing.kinto import full_settings
from tests.chaos.plan import LEASE_SECONDS


BUCKET = "/buckets/chaos"
SPLIT = "split"
CONCURRENCY = "3"
"""So many deliveries of a channel may be noted, but not yet settled, when their worker dies."""

CHANNELS: Mapping[str, Mapping[str, str]] = {
    "plain": {},
    "flaky": {
        "retry_every": "5",
        "reject_every": "97",
        "retry_delays_seconds": "0.2 0.5 1",
    },
    "slow": {"delay_seconds": "0.05"},
    SPLIT: {"split_changes": "true"},
    "digest": {"digest_seconds": "0.3", "digest_by": "collection"},
}
SYNC = {
    "plugin": "tests.chaos.recorder:Afterthought",
    "mode": "sync",
    "resources": "record",
}
"""Runs between the commit and the answer, so that many a kill falls in there."""

DELIVERIES_FILE = "deliveries.jsonl"


INI = """\
[app:main]
use = egg:kinto
{settings}

[loggers]
keys = root, dispatch, attempts

[handlers]
keys = stderr

[formatters]
keys = line

[logger_root]
level = WARNING
handlers = stderr

[logger_dispatch]
qualname = kinto_dispatch.relay
level = INFO
handlers =

[logger_attempts]
qualname = kinto_dispatch.attempt
level = ERROR
handlers =

[handler_stderr]
class = StreamHandler
args = (sys.stderr,)
formatter = line

[formatter_line]
format = %(asctime)s %(process)d %(levelname)s %(name)s %(message)s
"""
"""One line for each attempt would be much for tens of thousands."""


def slots(changed: Mapping[str, Mapping[str, str]]) -> int:
    """How many deliveries of all channels one worker may be in the middle of."""
    return sum(int(changed.get(name, {}).get("concurrency", CONCURRENCY)) for name in CHANNELS)


def write_ini(settings: Mapping[str, str], path: Path) -> None:
    """The settings where Kinto and the worker read them."""
    lines = (f"{name} = {value}" for name, value in settings.items())
    path.write_text(INI.format(settings="\n".join(lines)))


def settings_for(
    storage_url: str,
    queue_url: str,
    directory: Path,
    changed: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
    """Kinto's settings as an ini has them; ``changed`` holds other options for some channels."""
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
            "concurrency": CONCURRENCY,
            "path": str(directory / DELIVERIES_FILE),
        }
        for key, value in {**common, **own, **changed.get(name, {})}.items():
            settings[f"{alias}.channels.{name}.{key}"] = value
    return full_settings(settings)
