"""Whatever a message says, Slack shows it and does nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kinto_dispatch import Message
from kinto_dispatch.testing.contract import HOSTILE
from kinto_dispatch_slack.message import LONGEST_TEXT, escape, payload


CONTROL = re.compile(r"<[^>]*>?")
ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def shown(text: str) -> str:
    """What Slack makes of a text: it must not find a control sequence in it."""
    assert not CONTROL.search(text)
    assert not re.search(r"&(?!(?:lt|gt|amp);)", text)
    return re.sub(r"&(?:lt|gt|amp);", lambda found: ENTITIES[found[0]], text)


@given(subject=st.text(), text=st.text())
@example(subject=HOSTILE, text=HOSTILE)
@example(subject="<!channel>", text="<https://evil.example|x> &lt;!here&gt; &amp;lt;")
def test_subject_and_text_come_back(subject: str, text: str) -> None:
    """Read the way Slack reads it, the text is what was meant."""
    assert shown(payload(Message(subject, text))["text"]) == f"{subject}\n{text}"


@pytest.mark.parametrize("sequence", ["<!channel>", "<!here>", "<@U1>", "<https://evil|x>", "&"])
@pytest.mark.parametrize("place", ["subject", "text"])
def test_control_sequences_are_text(sequence: str, place: str) -> None:
    """In the first line as in the rest."""
    message = Message(**{"subject": "s", "text": "t", place: sequence})
    assert sequence in shown(payload(message)["text"])
    assert sequence not in payload(message)["text"].replace("&amp;", "")


def test_nothing_else_is_made_of_the_text() -> None:
    """No markup, no names, no links, no pages."""
    sent = payload(Message("s", "*bold* @here example.com"))
    del sent["text"]
    assert sent == {
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
    cut = escape("y" * shift + text)
    assert len(cut) <= LONGEST_TEXT
    assert cut.endswith("…")
    assert shown(cut[:-1]) == ("y" * shift + text)[: len(shown(cut[:-1]))]


def test_a_bot_says_where() -> None:
    """A webhook has its conversation already."""
    assert payload(Message("s", "t"), "C1")["channel"] == "C1"
    assert "channel" not in payload(Message("s", "t"))
