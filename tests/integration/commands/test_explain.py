"""Why a channel hears of a change or not, and what became of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kinto_dispatch.route import Route
from kinto_dispatch.settings import RouteSettings
from kinto_dispatch.testing.builders import make_change, make_event


if TYPE_CHECKING:
    from tests.integration.commands.conftest import Site

URI = "/buckets/blog/collections/articles/records/first"


def channel(explanation: dict[str, Any], name: str) -> dict[str, Any]:
    """What is said about one channel."""
    return next(row for row in explanation["channels"] if row["channel"] == name)


def states(explanation: dict[str, Any]) -> dict[str, str]:
    """What became of each delivery."""
    return {
        delivery["key"]: delivery["state"]
        for row in explanation["channels"]
        for delivery in row["deliveries"]
    }


def test_it_has_stable_keys(site: Site) -> None:
    """The event, where it was found, and for each channel clauses and deliveries."""
    site.publish(id="e")
    site.work()
    explanation = site.json("explain", "e")
    assert set(explanation) == {"event", "found_in", "channels"}
    assert explanation["event"] == {
        "event_id": "e",
        "name": "kinto.core.events.ResourceChanged",
        "action": "create",
        "resource_name": "record",
        "uri": URI,
        "user_id": make_event().user_id,
        "at": "2016-01-22T10:52:22.672+00:00",
        "changes": [URI],
    }
    assert explanation["found_in"] == "log"
    news = channel(explanation, "news")
    assert set(news) == {
        "channel",
        "mode",
        "status",
        "wanted",
        "error",
        "clauses",
        "hooks",
        "deliveries",
    }
    assert news["error"] is None
    assert news["wanted"] == [URI]
    assert set(news["clauses"][0]) == {
        "clause",
        "expected",
        "found",
        "matched",
        "uri",
        "error",
    }
    assert set(news["deliveries"][0]) == {"key", "state", "attempts", "dead_letters"}
    assert news["deliveries"][0]["attempts"][0]["outcome"] == "delivered"


def test_it_names_the_clause_that_is_against(site: Site) -> None:
    """With what it expected and what it found, change by change."""
    secret = make_change(object_id="b", new={"id": "b", "title": "secret"})
    site.publish(id="mixed", changes=(make_change(object_id="a"), secret))
    site.publish(id="deleted", action="delete")
    site.work()
    mixed = channel(site.json("explain", "mixed"), "news")
    assert mixed["wanted"] == [make_change(object_id="a").uri]
    against = [clause for clause in mixed["clauses"] if not clause["matched"]]
    assert [(clause["clause"], clause["uri"]) for clause in against] == [("when", secret.uri)]
    deleted = channel(site.json("explain", "deleted"), "news")
    assert (deleted["wanted"], deleted["deliveries"]) == ([], [])
    actions = deleted["clauses"][0]
    assert (actions["clause"], actions["expected"]) == ("actions", "create update")
    assert (actions["found"], actions["matched"]) == ("delete", False)


def test_a_clause_that_cannot_be_judged_says_why(site: Site) -> None:
    """And the delivery that could not be made is a dead letter."""
    site.set("news", when="length(new.title) > `3`")
    site.publish(id="odd", changes=(make_change(new={"id": "first", "title": 5}),))
    site.work()
    news = channel(site.json("explain", "odd"), "news")
    assert news["wanted"] == []
    assert any(clause["error"] for clause in news["clauses"])
    assert "length() takes" in news["error"]
    (delivery,) = news["deliveries"]
    assert delivery["state"] == "dead"
    (letter,) = delivery["dead_letters"]
    assert letter["kind"] == "failed"
    assert "when = 'length(new.title) > `3`' cannot be evaluated on" in letter["reason"]


def test_a_clause_that_is_not_asked_makes_no_dead_letter(site: Site) -> None:
    """What other clauses leave out anyway is not evaluated, neither there nor here."""
    site.set("news", when="length(new.title) > `3`")
    elsewhere = make_change(uri="/accounts/a", new={"id": "a", "title": 5})
    site.publish(id="mixed", changes=(make_change(), elsewhere))
    site.publish(id="deleted", action="delete", changes=(make_change(new={"title": 5}),))
    site.work()
    mixed = channel(site.json("explain", "mixed"), "news")
    assert (mixed["wanted"], mixed["error"]) == ([URI], None)
    assert [delivery["state"] for delivery in mixed["deliveries"]] == ["delivered"]
    deleted = channel(site.json("explain", "deleted"), "news")
    assert (deleted["wanted"], deleted["error"], deleted["deliveries"]) == ([], None, [])


def test_a_sync_channel_makes_no_dead_letters(site: Site) -> None:
    """Its route is evaluated in the request, where only the log can tell of a failure."""
    site.set("admins", when="length(new.title) > `3`")
    site.publish(id="odd", changes=(make_change(new={"id": "first", "title": 5}),))
    text = site.run("explain", "odd").stdout
    assert "admins (sync): its route cannot be evaluated, which is a failure in the log" in text


@pytest.mark.parametrize(
    ("answer", "state"),
    [("deliver", "delivered"), ("retry", "retry"), ("reject", "dead"), ("raise", "retry")],
)
def test_it_tells_what_became_of_it(site: Site, answer: str, state: str) -> None:
    """By the last attempt, or by the dead letter."""
    site.set("ops", answer=answer, token="t")
    site.publish(id="e")
    site.work()
    assert states(site.json("explain", "e"))["e:ops"] == state


def test_an_event_of_the_future_has_a_fate(site: Site) -> None:
    """Clients of Kinto may write any time as the last modification."""
    event = site.publish(id="e", timestamp=4_102_444_800_000)
    site.work()
    assert states(site.json("explain", "e"))["e:ops"] == "delivered"
    site.bury("ops", make_event(id="late", timestamp=event.timestamp))
    assert states(site.json("explain", "late"))["late:ops"] == "dead"


def test_what_was_not_attempted_yet_is_somewhere(site: Site) -> None:
    """In the log before it is routed; in the lane after that, while the channel is paused."""
    site.publish(id="e")
    assert states(site.json("explain", "e"))["e:ops"] == "unrouted"
    site.run("pause", "ops")
    site.work()
    assert states(site.json("explain", "e"))["e:ops"] == "waiting"


def test_a_channel_that_was_added_later_has_nothing_on_record(site: Site) -> None:
    """That is said as it is, since the log does not know the reason."""
    site.publish(id="e")
    site.work()
    site.settings["kinto.event_listeners.dispatch.channels"] += " late"
    site.set("late", plugin="commands_channel:Channel")
    site.json("status")
    assert states(site.json("explain", "e"))["e:late"] == "unknown"


def test_an_event_is_found_by_an_object_it_changed(site: Site) -> None:
    """The last change, or the one nearest to a time; also by a whole URL."""
    for event_id, year in (("first", 2010), ("second", 2015), ("third", 2020)):
        site.publish(id=event_id, timestamp=(year - 1970) * 31_557_600_000)
    site.publish(id="other", changes=(make_change(object_id="other"),))

    def found(*arguments: str) -> str:
        return str(site.json("explain", *arguments)["event"]["event_id"])

    assert found(URI) == "third"
    assert found(f"https://kinto.example.com/v1{URI}", "--at", "2014-06-01") == "second"
    assert found(f"/v1{URI}", "--at", "2000-01-01T00:00:00+02:00") == "first"


def test_a_dead_letter_is_found_after_the_log_has_forgotten(site: Site) -> None:
    """Dead letters are kept longer than the log, and carry their event."""
    site.bury("ops", make_event(id="e"), "refused", "bad address")
    explanation = site.json("explain", "e")
    assert explanation["found_in"] == "dead letter"
    assert states(explanation)["e:ops"] == "dead"


def test_an_event_in_a_file_needs_no_queue(site: Site) -> None:
    """A route can be tried on an event before anything happened."""
    site.set_all({"kinto.event_listeners.dispatch.queue_url": "redis://127.0.0.1:1/0"})
    file = site.directory / "event.json"
    file.write_bytes(make_event(id="e", action="delete").encode())
    explanation = site.json("explain", "--file", str(file))
    assert explanation["found_in"] == "file"
    assert channel(explanation, "ops")["wanted"] == [URI]
    assert channel(explanation, "news")["wanted"] == []
    file.write_text("{}")
    result = site.run("explain", "--file", str(file))
    assert result.exit_code == 1
    assert "Not an event" in result.stderr


def test_what_is_not_found_is_said(site: Site) -> None:
    """With code 3, and with what may be the reason."""
    result = site.run("explain", "no-such-event")
    assert result.exit_code == 3
    assert "The log may have forgotten it" in result.stderr


def test_it_can_be_read(site: Site) -> None:
    """Each clause on a line with yes or no, and what became of each delivery."""
    site.publish(id="e", action="delete")
    site.work()
    text = site.run("explain", "e").stdout
    assert "no  actions: expected create update, found delete" in text
    assert "ops (async): wants 1 of 1 changes, since its route has no clauses" in text
    assert "news (async): does not want it" in text
    assert "e:ops: delivered" in text


GUIDE = (Path(__file__).parents[3] / "docs/guides/routes.md").read_text()
EXAMPLES = re.findall(r"^```ini\n(.*?)^```\n\n```text\n(.*?)^```", GUIDE, re.M | re.S)


def test_every_route_of_the_guide_is_an_example() -> None:
    """None stands there without what comes of it."""
    assert len(EXAMPLES) == GUIDE.count("```ini") > 0


@pytest.mark.parametrize(("settings", "expected"), EXAMPLES)
def test_routes_of_the_guide(site: Site, settings: str, expected: str) -> None:
    """They say what the guide says that they say."""
    (event,) = re.findall(r"^```json\n(.*?)^```", GUIDE, re.M | re.S)
    file = site.directory / "event.json"
    file.write_text(event)
    lines = (line.split(" = ", 1) for line in settings.splitlines())
    site.set("ops", **{name.removeprefix("channels.ops."): value for name, value in lines})
    result = site.run("explain", "--file", str(file))
    for line in expected.splitlines():
        assert line in (result.stdout + result.stderr)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("new.status == 'published'", "ab"),
        ("new.status == 'published' && old.status != 'published'", "b"),
        ("contains(changed, 'price')", "a"),
        ("changed[?@ != 'views']", "ab"),
        ("new.price > `100`", "a"),
        ("new.tags && contains(new.tags, 'sale')", "b"),
        ("starts_with(object_id, 'draft-')", ""),
        ("contains(['a', 'b'], new.kind)", "c"),
    ],
)
def test_expressions_of_the_guide(when: str, expected: str) -> None:
    """Each does what it is said to do."""
    assert f"`{when}`" in GUIDE or f"``{when} ``" in GUIDE
    records: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "a": ({"status": "published", "price": 1}, {"status": "published", "price": 200}),
        "b": ({"status": "draft"}, {"status": "published", "tags": ["sale"]}),
        "c": ({"views": 1, "kind": "b"}, {"views": 2, "kind": "b"}),
    }
    changes = tuple(
        make_change(
            object_id=name,
            old=old,
            new=new,
            changed=tuple(key for key in sorted({**old, **new}) if old.get(key) != new.get(key)),
        )
        for name, (old, new) in records.items()
    )
    selected = Route(RouteSettings(when=when)).select(make_event(changes=changes))
    assert "".join(change.object_id for change in selected) == expected
