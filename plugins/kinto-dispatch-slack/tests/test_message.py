"""Whatever a message says, Slack shows it and does nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from slack_mrkdwn import Unreadable, read_blocks, read_text

from kinto_dispatch import Change, Event, Message
from kinto_dispatch.testing import make_change, make_event
from kinto_dispatch.testing.contract import HOSTILE
from kinto_dispatch_slack.blocks import MOST_CHANGES, blocks, link
from kinto_dispatch_slack.message import LONGEST_TEXT, escape, payload


SEQUENCES = ["<!channel>", "<!here>", "<@U1>", "<https://evil.example|bank>", "&", "&lt;!here&gt;"]


def sent(message: Message, *more: Any) -> str:
    """The text of a payload as Slack gets it."""
    text: str = json.loads(json.dumps(payload(message, *more)))["text"]
    return text


# The text


@given(subject=st.text(), text=st.text())
@example(subject=HOSTILE, text=HOSTILE)
@example(subject="<!channel>", text="<https://evil.example|x> &lt;!here&gt; &amp;lt;")
def test_subject_and_text_come_back(subject: str, text: str) -> None:
    """Read the way Slack reads it, the text is what was meant."""
    expected = f"{subject}\n{text}" if subject and text else subject or text
    assert read_text(sent(Message(subject, text))).texts == [expected]
    assert read_text(sent(Message(subject, text))).is_inert


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("place", ["subject", "text"])
def test_control_sequences_are_text(sequence: str, place: str) -> None:
    """In the first line as in the rest (B13)."""
    shown = read_text(sent(Message(**{"subject": "s", "text": "t", place: sequence})))
    assert shown.is_inert
    assert sequence in shown.texts[0]


def test_the_reader_sees_what_slack_sees() -> None:
    """An oracle that finds nothing would pass everything."""
    assert read_text("<!channel> &lt;").pings == ["!channel"]
    assert read_text("<@U1|x>").pings == ["@U1|x"]
    assert read_text("<https://a.example|b>").links == [("https://a.example", "b")]
    assert read_text("&amp;lt;").texts == ["&lt;"]
    for bare in ("&", "a & b", "&nbsp;", "a > b", "<a"):
        with pytest.raises(Unreadable):
            read_text(bare)


def test_nothing_else_is_made_of_the_text() -> None:
    """No markup, no names, no links, no pages."""
    rest = payload(Message("s", "*bold* @here example.com"))
    del rest["text"]
    assert rest == {
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


@pytest.mark.parametrize("text", ["&" * 50_000, "<>" * 50_000, "x" * 50_000, "x&" * 50_000])
@pytest.mark.parametrize("shift", range(6))
def test_what_is_too_long_is_cut_between_characters(text: str, shift: int) -> None:
    """Slack would cut anywhere, also inside of an entity."""
    cut = escape("y" * shift + text, LONGEST_TEXT)
    assert len(cut) <= LONGEST_TEXT
    assert cut.endswith("…")
    (shown,) = read_text(cut[:-1]).texts
    assert shown == ("y" * shift + text)[: len(shown)]


def test_a_bot_says_where() -> None:
    """A webhook has its conversation already."""
    assert payload(Message("s", "t"), (), "C1")["channel"] == "C1"
    assert "channel" not in payload(Message("s", "t"))


# The blocks

UPDATED = make_event(
    action="update",
    user_id="account:alice",
    changes=(
        make_change(
            old={"id": "first", "last_modified": 1, "title": "Hello", "n": 1, "gone": [1]},
            new={"id": "first", "last_modified": 2, "title": "Bye", "n": 1, "added": True},
            changed=("added", "gone", "title"),
        ),
    ),
)
URL = "http://localhost:8888/v1/buckets/blog/collections/articles/records/first"


def test_an_update_shows_old_and_new() -> None:
    """A header, what changed from what to what, a link, and by whom and when."""
    shown = read_blocks(blocks("record updated", UPDATED))
    assert shown.texts == [
        "record updated",
        "/buckets/blog/collections/articles/records/first\n"
        "+ added: true\n"
        "- gone: [1]\n"
        '~ title: "Hello" → "Bye"',
        URL,
        "by account:alice · 2016-01-22 10:52:22 UTC",
    ]
    assert shown.links == [(URL, URL)]
    assert shown.pings == []


def test_what_a_newer_version_stands_for_is_said() -> None:
    """Where a channel sends the latest version only."""
    shown = read_blocks(blocks("s", make_event(skipped=3)))
    assert shown.texts[-1].startswith("older versions that are not shown: 3 · by ")


def test_a_create_and_a_delete_show_what_there_is() -> None:
    """A create what is new; a delete what is gone, and no link, which would lead nowhere."""
    created = read_blocks(blocks("s", make_event()))
    assert created.texts[1].splitlines()[1:] == ['+ title: "Hello"']
    gone = make_change(old={"id": "first", "title": "Hello"}, new=None)
    deleted = read_blocks(blocks("s", make_event(action="delete", changes=(gone,))))
    assert deleted.texts[1].splitlines()[1:] == ['- title: "Hello"']
    assert deleted.links == []


def test_long_and_many_values_fit() -> None:
    """Within Slack's limits, and what is left out is said."""
    new = {f"field-{n}": "&" * 5_000 for n in range(100)}
    changes = tuple(make_change(object_id=f"o{n}", new=new) for n in range(60))
    shown = read_blocks(blocks("x" * 250, make_event(changes=changes)))
    assert len(shown.links) == MOST_CHANGES
    assert "and 50 more changes" in shown.texts[-1]
    short = make_change(new={f"f{n}": n for n in range(60)})
    assert "and 10 more fields" in read_blocks(blocks("s", make_event(changes=(short,)))).texts[1]


def test_data_nested_without_end_is_shown_as_such() -> None:
    """One field that cannot be written does not hide the others."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    changes = (make_change(new={"a": 1, "deep": deep}),)
    text = read_blocks(blocks("s", make_event(changes=changes))).texts[1]
    assert text.splitlines()[1:] == ["+ a: 1", "+ deep: (nested too deeply)"]


@pytest.mark.parametrize(
    "root_url",
    [
        "javascript:alert(1)//",
        "https://evil.example|https://bank.example/v1/",
        "https://bank.example@evil.example/v1/",
        "https://evil.example/?x=/v1/",
        "https://evil.example> <!channel/v1/",
        "https://a.example/\u202ev1/",
        "",
    ],
)
def test_a_root_url_that_is_no_plain_url_makes_no_link(root_url: str) -> None:
    """It comes from the request of whoever wrote the record."""
    assert link(root_url, "/buckets/b") is None
    assert read_blocks(blocks("s", make_event(root_url=root_url))).is_inert


@pytest.mark.parametrize("uri", ["/a>|<!channel>", "/a b", "/\ud800", "/ü?x#y", "/a&b", "/%3E"])
def test_a_uri_cannot_leave_its_link(uri: str) -> None:
    """Whatever is no part of a path is encoded."""
    assert (found := link("https://kinto.example/v1/", uri))
    assert read_text(f"<{found}>").links == [(found, found)]
    assert found.startswith("https://kinto.example/v1/")


def test_a_value_looks_like_no_other_line() -> None:
    """Neither line ends nor the direction of writing come from a record."""
    new = {"a": "1\nprice: 2 → 3", 'b\n"c': "\u202e\u2028\x9b31m", "ok": "é"}
    text = read_blocks(blocks("s", make_event(changes=(make_change(new=new),)))).texts[1]
    assert len(text.split("\n")) == 4
    assert all(line.isprintable() for line in text.split("\n"))
    assert '"b\\n\\"c": ' in text


# B13: any data in any place

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TEXTS = st.text() | st.sampled_from([*SEQUENCES, HOSTILE])
FIELDS = st.dictionaries(
    TEXTS, LEAF | TEXTS | st.lists(TEXTS, max_size=3) | st.dictionaries(TEXTS, TEXTS, max_size=2)
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An event with anything in every place that a user or a record fills."""
    changes = draw(st.lists(st.tuples(TEXTS, FIELDS, FIELDS), max_size=12))
    return make_event(
        user_id=draw(st.none() | TEXTS),
        resource_name=draw(TEXTS),
        uri=draw(TEXTS),
        timestamp=draw(st.integers()),
        root_url=draw(TEXTS | st.just("https://kinto.example/v1/")),
        changes=tuple(
            Change(uri=uri, object_id=uri, old=old, new=new, changed=tuple({**old, **new}))
            for uri, old, new in changes
        ),
    )


@given(subject=TEXTS, event=events())
def test_no_data_pings_or_links(subject: str, event: Event) -> None:
    """The only links are those to the objects, and they look like what they are (B13)."""
    body = json.loads(json.dumps(payload(Message("s", "t"), blocks(subject, event))))
    shown = read_blocks(body["blocks"])
    assert shown.pings == []
    for url, label in shown.links:
        assert url == label
        assert url.startswith(("https://", "http://"))
        assert url.startswith(event.root_url.rstrip("/"))
