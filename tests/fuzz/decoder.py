"""Whatever stands in the queue is an event, or a dead letter: never a crash, never executed."""

from __future__ import annotations

import json
import pickle

from kinto_dispatch.cli.attempts import as_row as attempt_row
from kinto_dispatch.cli.pages import decode_record, event_row
from kinto_dispatch.errors import UndecodableEvent
from kinto_dispatch.event import Event
from kinto_dispatch.queue.entries import to_claim, to_letter
from kinto_dispatch.router import deliveries
from kinto_dispatch.testing import make_channel, make_event
from tests.fuzz.engine import Defect, Target


class Loaded:
    """What unpickling it would do."""

    def __reduce__(self) -> tuple[object, ...]:
        return raise_defect, ()


def raise_defect() -> None:
    """For nobody to call."""
    raise Defect("what stood in the queue was executed")


EVENT = make_event(id="e", payload={"a": [1, 2.5, None, True, "é"]})
CHANNEL = make_channel("slack", {"webhook_url": "https://hooks.slack.com/services/x"})
SPLIT = make_channel(
    "slack", {"webhook_url": "https://hooks.slack.com/services/x"}, split_changes=True
)


def run(data: bytes) -> str:
    """Decode it as everything that is read from the queue."""
    to_claim("ops", (b"1-0", data.split(b" ")), "worker", 1)
    to_letter("ops", (b"1-0", data.split(b" ")))
    record = decode_record(data)
    if record is not None:
        json.dumps(attempt_row(record))
        return "a record"
    try:
        event = Event.decode(data)
    except UndecodableEvent as error:
        if len(str(error)) > 1_000:
            raise Defect("its reason is as long as the message") from error
        return error.reason
    again = Event.decode(event.encode())
    if Event.decode(again.encode()) != again:
        raise Defect("it is another event after it was sent on")
    json.dumps(event_row(event))
    for channel in (CHANNEL, SPLIT):
        entries = deliveries(channel, event, data)
        if any(Event.decode(entry.body).id != event.id for entry in entries):
            raise Defect("its delivery is about another event")
    return f"an event with {len(event.changes)} changes, {event.action}"


TARGET = Target(
    "decoder",
    run,
    seeds=[
        EVENT.encode(),
        json.dumps(json.loads(EVENT.encode()), indent=1).encode(),
        EVENT.encode().replace(b"2.5", b"NaN").replace(b"null", b"1" * 400),
        b'{"event_id":"e","key":"e:ops","channel":"ops","attempt":1,"outcome":"x","at":1,'
        b'"duration_seconds":1}',
        b"key e:ops body {} attempt 99999999999999999999 flags replay,suspect extra x",
        pickle.dumps(Loaded()),
        b"!!python/object/apply:os.system ['exit 1']",
        b"",
    ],
    words=[
        b'"v":1',
        b'"v":2',
        b'"changes":[',
        b'"id":',
        b'"old":null',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 30,
        b"9" * 5_000,
        b"[" * 500,
        b'{"a":' * 500,
        b'"\\ud800"',
        b"\\u0000",
        b'"../../etc/passwd"',
        b"true",
        b"\xef\xbb\xbf",
    ],
)
