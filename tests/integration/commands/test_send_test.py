"""One test message, through the channel's own hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site


@pytest.mark.parametrize("channel", ["ops", "admins"])
@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        ("deliver", "delivered", "taken"),
        ("nothing", "delivered", None),
        ("retry", "retry", "busy"),
        ("reject", "rejected", "bad address"),
        ("raise", "failed", "RuntimeError: no luck with"),
        ("nonsense", "failed", "returned int"),
        ("hang", "failed", "no answer within 0.2 s"),
    ],
)
def test_the_outcome_is_told(
    site: Site, channel: str, answer: str, outcome: str, reason: str | None
) -> None:
    """Whatever the hook does, in the worker or in the request; only delivered is success."""
    site.set(channel, answer=answer, timeout_seconds="0.2", token="t0ken")
    row = site.json("send-test", channel, code=0 if outcome == "delivered" else 1)
    assert set(row) == {"event_id", "key", "channel", "outcome", "reason", "duration_seconds"}
    assert row["outcome"] == outcome
    assert row["key"] == f"{row['event_id']}:{channel}"
    assert reason in row["reason"] if reason else row["reason"] is None
    assert "t0ken" not in str(row)


def test_a_veto_is_not_delivered(site: Site) -> None:
    """A channel that would refuse this write says so."""
    site.set("admins", answer="veto", phase="before_commit")
    row = site.json("send-test", "admins", code=1)
    assert (row["outcome"], row["reason"]) == ("rejected", "vetoed with status 403: not allowed")


def test_the_message_says_that_it_is_a_test(site: Site) -> None:
    """A receiver cannot take it for something that happened; ``--data`` adds fields."""
    site.set("ops", plugin="commands_echo:Channel", subject="{{ change.new.title }}")
    (site.directory / "commands_echo.py").write_text(
        "from kinto_dispatch import Delivered, hookimpl\n"
        "class Channel:\n"
        "    @hookimpl\n"
        "    def on_event_async(self, event, channel):\n"
        "        record = event.changes[0].new\n"
        "        subject = channel.render(event).subject\n"
        "        return Delivered(f'{event.uri} {record} {subject}')\n"
    )
    failed = site.json("send-test", "ops", code=1)
    assert "title" in failed["reason"]
    detail = site.json("send-test", "ops", "--data", '{"title": "Hello"}')["reason"]
    assert detail.startswith("/buckets/kinto-dispatch/collections/test/records/")
    assert "'test': True" in detail
    assert "This is a test of kinto-dispatch" in detail
    assert detail.endswith("Hello")


def test_a_failed_channel_says_why(site: Site) -> None:
    """A plugin that cannot be loaded cannot send, and the reason is told."""
    (site.directory / "commands_broken3.py").write_text("raise OSError('boo')")
    site.set("ops", plugin="commands_broken3:Channel")
    result = site.run("send-test", "ops")
    assert result.exit_code == 1
    assert "boo" in result.stdout


def test_neither_route_nor_queue_is_asked(site: Site) -> None:
    """It tests the way from here to the destination, and nothing else."""
    site.set_all({"kinto.event_listeners.dispatch.queue_url": "redis://127.0.0.1:1/0"})
    assert site.run("send-test", "news").exit_code == 0
