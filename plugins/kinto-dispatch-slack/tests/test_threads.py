"""What a bot says of one object stands in one thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from slack_server import SlackServer

from kinto_dispatch import Channel, Delivered, Event, Outcome, Retry
from kinto_dispatch.errors import BadSettings
from kinto_dispatch.memory import Memory
from kinto_dispatch.testing import make_change, make_channel, make_delivery, make_event


RECORDS = "/buckets/blog/collections/articles/records"
THREADLESS = [
    "thread_not_found",
    "message_not_found",
    "invalid_thread_ts",
    "cannot_reply_to_message",
    "restricted_action_thread_locked",
    "restricted_action_non_threadable_channel",
]


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    """Slack, where nothing has been said yet."""
    with SlackServer() as server:
        yield server


@pytest.fixture
async def channel(slack: SlackServer) -> AsyncIterator[Channel]:
    """A bot that writes into C1."""
    channel = make_channel("slack", slack.options)
    yield channel
    await channel.close()


async def tell(channel: Channel, *names: str, action: str = "update") -> Outcome:
    """Deliver an event with a change of each of these records."""
    outcome: Outcome = await channel.call_async(event_of(*names, action=action), make_delivery())
    return outcome


def event_of(*names: str, action: str = "update") -> Event:
    changes = [make_change(object_id=name, uri=f"{RECORDS}/{name}") for name in names]
    return make_event(action=action, changes=tuple(changes))


# --- what goes where -----------------------------------------------------------------------


async def test_the_first_message_opens_the_thread(slack: SlackServer, channel: Channel) -> None:
    """All that come later reply to it, and nobody else in the conversation is disturbed."""
    outcomes = [await tell(channel, "first", action=action) for action in ("create", "update")]
    first, second = (message.ts for message in slack.shown)
    assert slack.threads == [None, first]
    assert outcomes == [
        Delivered(f"message {first}"),
        Delivered(f"message {second} in thread {first}"),
    ]
    await tell(channel, "first", action="delete")
    assert slack.threads == [None, first, first]
    assert not any("reply_broadcast" in message.body for message in slack.shown)


async def test_each_object_has_a_thread(slack: SlackServer, channel: Channel) -> None:
    """Whatever is said in between."""
    for name in ("a", "b", "a", "b", "a"):
        await tell(channel, name)
    a, b = slack.shown[0].ts, slack.shown[1].ts
    assert slack.threads == [None, None, a, b, a]


async def test_an_event_of_several_objects_is_no_ones_thread(
    slack: SlackServer, channel: Channel
) -> None:
    """It stands in the conversation, and nothing replies to it."""
    await tell(channel, "a", "b")
    await tell(channel, "a")
    await tell(channel, "a", "b")
    await tell(channel, "a")
    assert slack.threads == [None, None, None, slack.shown[1].ts]


async def test_several_changes_of_one_object_go_into_its_thread(
    slack: SlackServer, channel: Channel
) -> None:
    """A batch may write one record more than once."""
    await tell(channel, "a")
    await tell(channel, "a", "a")
    assert slack.threads == [None, slack.shown[0].ts]


async def test_another_conversation_has_threads_of_its_own(slack: SlackServer) -> None:
    """An operator may point a channel elsewhere; there is nothing to reply to there."""
    before = make_channel("slack", slack.options)
    after = make_channel("slack", {**slack.options, "conversation": "C2"})
    after.memory = before.memory
    for channel in (before, after, after, before):
        await tell(channel, "a")
        await channel.close()
    one, two = slack.shown[0].ts, slack.shown[1].ts
    assert slack.threads == [None, None, two, one]


async def test_another_worker_goes_on_with_the_thread(slack: SlackServer) -> None:
    """They share what the channel remembers."""
    one, two = make_channel("slack", slack.options), make_channel("slack", slack.options)
    two.memory = one.memory
    for channel in (one, two):
        await tell(channel, "a")
        await channel.close()
    assert slack.threads == [None, slack.shown[0].ts]


async def test_a_template_goes_into_the_thread_too(slack: SlackServer) -> None:
    """What is said has nothing to do with where."""
    channel = make_channel("slack", slack.options, template="{{ change.uri }}")
    await tell(channel, "a")
    await tell(channel, "a")
    assert slack.threads == [None, slack.shown[0].ts]
    await channel.close()


# --- when something is gone ----------------------------------------------------------------


async def test_a_deleted_thread_begins_anew(slack: SlackServer, channel: Channel) -> None:
    """Slack puts the reply into the conversation without a word; what comes next replies to
    that."""
    await tell(channel, "a")
    slack.delete(slack.shown[0].ts)
    outcome = await tell(channel, "a")
    await tell(channel, "a")
    assert outcome == Delivered(f"message {slack.shown[1].ts}")
    assert slack.threads == [None, None, slack.shown[1].ts]


@pytest.mark.parametrize("error", THREADLESS)
async def test_where_nobody_may_reply_the_thread_begins_anew(
    slack: SlackServer, channel: Channel, error: str
) -> None:
    """In the same attempt, and only once."""
    await tell(channel, "a")
    slack.refusing[slack.shown[0].ts] = error
    assert isinstance(await tell(channel, "a"), Delivered)
    await tell(channel, "a")
    assert slack.threads == [None, None, slack.shown[1].ts]
    assert len(slack.requests) == 4


@pytest.mark.parametrize("error", THREADLESS)
async def test_the_same_errors_for_what_is_no_reply_are_errors(
    slack: SlackServer, channel: Channel, error: str
) -> None:
    """Nothing is sent a second time because of them."""
    slack.next_answers = [(200, json.dumps({"ok": False, "error": error}).encode(), {})]
    outcome = await tell(channel, "a")
    assert not isinstance(outcome, Delivered)
    assert len(slack.requests) == 1


async def test_without_a_memory_every_message_is_told(slack: SlackServer) -> None:
    """In the conversation, where nobody knows of a thread."""
    channel = make_channel("slack", slack.options)
    channel.memory = Memory("test")
    assert isinstance(await tell(channel, "a"), Delivered)
    assert isinstance(await tell(channel, "a"), Delivered)
    assert slack.threads == [None, None]
    await channel.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"ok": true}',
        b'{"ok": true, "ts": 12, "message": []}',
        b'{"ok": true, "ts": "1.1", "message": {"thread_ts": {"1.1": []}}}',
        b'{"ok": true, "ts": "<!channel>", "message": {"ts": "1.1"}}',
    ],
)
async def test_an_answer_without_a_timestamp_opens_no_thread(
    slack: SlackServer, channel: Channel, body: bytes
) -> None:
    """The message is there; nothing can reply to it."""
    slack.next_answers = [(200, body, {})]
    assert isinstance(await tell(channel, "a"), Delivered)
    await tell(channel, "a")
    assert [json.loads(got.body).get("thread_ts") for got in slack.requests] == [None, None]


async def test_a_server_that_tells_less_is_believed(slack: SlackServer, channel: Channel) -> None:
    """Where the message itself is not in the answer, a reply is where it was sent to."""
    await tell(channel, "a")
    slack.next_answers = [(200, b'{"ok": true, "ts": "1503435956.999999"}', {})]
    await tell(channel, "a")
    await tell(channel, "a")
    assert [json.loads(got.body).get("thread_ts") for got in slack.requests] == [
        None,
        slack.shown[0].ts,
        slack.shown[0].ts,
    ]


# --- at a time, and again ------------------------------------------------------------------


async def test_deliveries_at_a_time_open_one_thread(slack: SlackServer, channel: Channel) -> None:
    """As after an outage, when all that happened to a record is due at once."""
    await asyncio.gather(*(tell(channel, "a") for _ in range(10)))
    assert slack.threads == [None, *[slack.shown[0].ts] * 9]


async def test_deliveries_at_a_time_begin_a_thread_anew_once(
    slack: SlackServer, channel: Channel
) -> None:
    """The others find it where the first of them opened it."""
    await tell(channel, "a")
    slack.refusing[slack.shown[0].ts] = "thread_not_found"
    await asyncio.gather(*(tell(channel, "a") for _ in range(5)))
    assert slack.threads == [None, None, *[slack.shown[1].ts] * 4]


async def test_one_record_does_not_wait_for_another(slack: SlackServer, channel: Channel) -> None:
    """Only who would open the same thread does."""
    await asyncio.gather(*(tell(channel, name) for name in "abcde"))
    assert slack.threads == [None] * 5


@pytest.mark.parametrize("already", [0, 1])
@pytest.mark.parametrize(
    "answer",
    [
        (429, b"ratelimited", {"Retry-After": "7"}),
        (429, b'{"ok": false, "error": "ratelimited"}', {"Retry-After": "7"}),
        (200, b'{"ok": false, "error": "ratelimited"}', {"Retry-After": "7"}),
        (200, b'{"ok": false, "error": "rate_limited"}', {"Retry-After": "7"}),
    ],
)
async def test_a_retry_opens_no_second_thread(
    slack: SlackServer,
    channel: Channel,
    already: int,
    answer: tuple[int, bytes, dict[str, str]],
) -> None:
    """What Slack put off goes where it would have gone, after the time that it asked for."""
    for _ in range(already):
        await tell(channel, "a")
    slack.next_answers = [answer]
    outcome = await tell(channel, "a")
    assert isinstance(outcome, Retry)
    assert outcome.after == 7.0
    assert isinstance(await tell(channel, "a"), Delivered)
    assert isinstance(await tell(channel, "a"), Delivered)
    assert slack.threads == [None, *[slack.shown[0].ts] * (1 + already)]


# --- the setting ---------------------------------------------------------------------------


async def test_threads_can_be_left_out(slack: SlackServer) -> None:
    """Then every message stands in the conversation."""
    channel = make_channel("slack", {**slack.options, "threads": "false"})
    await tell(channel, "a")
    await tell(channel, "a")
    assert slack.threads == [None, None]
    await channel.close()


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_webhook_has_no_threads(value: str) -> None:
    """It never learns what to reply to; who sets it is told what it takes."""
    hook = {"webhook_url": "https://hooks.slack.com/services/T0/B0/x", "threads": value}
    expected = r"channels\.test: .*threads only with token and conversation"
    with pytest.raises(BadSettings, match=expected):
        make_channel("slack", hook)
