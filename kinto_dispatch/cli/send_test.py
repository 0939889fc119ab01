"""``kinto-dispatch send-test``: does this channel work, from here, now?"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, cast

import rich_click as click

from kinto_dispatch.cli.common import load_configuration, pick_channel
from kinto_dispatch.cli.exits import FAILED, leave
from kinto_dispatch.cli.options import ini_option, json_option
from kinto_dispatch.cli.printing import emit, printable
from kinto_dispatch.cli.times import duration


if TYPE_CHECKING:
    from kinto_dispatch.attempt import AttemptRecord
    from kinto_dispatch.delivery import Delivery
    from kinto_dispatch.event import Event
    from kinto_dispatch.plugins import Channel

COLLECTION = "/buckets/kinto-dispatch/collections/test"
MESSAGE = "This is a test of kinto-dispatch. Nothing was written."


@click.command()
@click.argument("channel", metavar="CHANNEL")
@ini_option
@click.option(
    "--data",
    metavar="JSON",
    default="{}",
    help="Fields of the test record, for templates that show them.",
)
@json_option
def command(channel: str, data: str, as_json: bool) -> None:
    """Send a test message to one channel, now, and say what came of it.

    The channel's own hook gets the creation of a record that does not exist, in a bucket
    `kinto-dispatch`, within timeout_seconds. Neither the route nor the queue is asked. Exits 0 if
    it was delivered, else 1.
    """
    event = make_event(_fields(data))
    # What a log would say is the output of this command.
    configuration = load_configuration(logging.CRITICAL)
    record = asyncio.run(send(pick_channel(configuration, channel), event))
    row = {
        "event_id": record.event_id,
        "key": record.key,
        "channel": record.channel,
        "outcome": record.outcome,
        "reason": record.reason,
        "duration_seconds": record.duration_seconds,
    }
    emit(row, as_json, lambda: show(row))
    if record.outcome != "delivered":
        leave(FAILED)


def _fields(data: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{error}; give a JSON object", param_hint="--data") from error
    if not isinstance(fields, dict):
        raise click.BadParameter("give a JSON object", param_hint="--data")
    return fields


def make_event(fields: dict[str, Any]) -> Event:
    """The creation of a record that says that it is a test; ``fields`` are added to it."""
    from kinto_dispatch.event import Change, Event

    record_id, now = str(uuid.uuid4()), int(time.time() * 1000)
    uri = f"{COLLECTION}/records/{record_id}"
    record = {"id": record_id, "last_modified": now, "test": True, "message": MESSAGE, **fields}
    change = Change(
        uri=uri, object_id=record_id, old=None, new=record, changed=tuple(sorted(record))
    )
    place: dict[str, Any] = {"bucket_id": "kinto-dispatch", "collection_id": "test"}
    return Event(
        id=f"test-{uuid.uuid4()}",
        action="create",
        resource_name="record",
        uri=uri,
        group_id=None,
        user_id="system.test",
        timestamp=now,
        root_url="http://localhost/v1/",
        request_id=None,
        payload={
            **place,
            "action": "create",
            "resource_name": "record",
            "record_id": record_id,
            "uri": uri,
            "timestamp": now,
            "user_id": "system.test",
            "root_url": "http://localhost/v1/",
        },
        changes=(change,),
        **place,
    )


async def send(channel: Channel, event: Event) -> AttemptRecord:
    """Run the channel's hook once, with its deadline; what came of it."""
    from kinto_dispatch.attempt import Attempter
    from kinto_dispatch.cli.pages import decode_record
    from kinto_dispatch.delivery import delivery_key
    from kinto_dispatch.queue.values import Claim

    claim = Claim(
        lane=channel.name,
        id="0-0",
        consumer="send-test",
        token=0,
        key=delivery_key(event.id, channel.name),
        body=event.encode(),
        attempt=1,
    )
    try:
        target = channel if channel.mode == "async" else cast("Channel", InRequest(channel))
        settlement = await Attempter(target).attempt(claim)
    finally:
        await channel.close()
    record = decode_record(settlement.record)
    assert record is not None
    return record


class InRequest:
    """A sync channel as an ``Attempter`` can run it: its ``on_event``, in a thread."""

    is_coroutine = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def call_async(self, event: Event, delivery: Delivery) -> Any:
        """What ``on_event`` returns; a veto is a refusal to whoever wrote."""
        from kinto_dispatch.outcome import Rejected, Veto

        result = self._channel.call_sync(event)
        if isinstance(result, Veto):
            return Rejected(f"vetoed with status {result.status}: {result.reason}")
        return result


def show(row: dict[str, Any]) -> None:
    """One line for people."""
    reason = f": {row['reason']}" if row["reason"] else ""
    took = duration(row["duration_seconds"])
    click.echo(printable(f"{row['channel']}: {row['outcome']} ({took}){reason}"))
