"""What is composed, parsed back: every reader sees what was meant and nothing else."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kinto_dispatch import Message, legible
from kinto_dispatch.testing import make_event
from kinto_dispatch.testing.contract import HOSTILE
from kinto_dispatch_email import EmailSettings
from kinto_dispatch_email.message import mail


PEOPLE = EmailSettings.model_validate(
    {
        "from": "Kintö <kinto@example.org>",
        "recipients": 'a@example.org, "Doe, Jané" <jane@example.org>',
        "cc": "c@example.org",
        "bcc": "secret@example.org",
        "reply_to": "help@example.org",
    }
)
HEADERS = {
    *("Subject", "From", "To", "Cc", "Reply-To", "Message-ID", "In-Reply-To", "References"),
    *("Date", "List-Id", "Auto-Submitted"),
    *("Content-Type", "MIME-Version", "Content-Transfer-Encoding"),
}
# What the renderer can produce: no NUL and no halves of characters.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def composed(subject: str, text: str, html: str | None = None) -> tuple[EmailMessage, bytes]:
    """The mail as a receiver parses it, and its bytes."""
    letter = mail(PEOPLE, Message(subject, text, html), make_event(), "team", "event:team")
    content = letter.content
    return message_from_bytes(content, _class=EmailMessage, policy=policy.default), content


def body(message: EmailMessage, kind: str = "plain") -> str:
    """The decoded text of a part."""
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


@given(subject=TEXTS, text=TEXTS)
@example(subject=HOSTILE, text=HOSTILE)
@example(subject="=?utf-8?q?Bcc?=", text="=?utf-8?q?x?=")
@example(subject="x" * 250, text="y" * 5000)
@example(subject="ü" * 250, text="ü" * 5000)
@example(subject="a: b", text=".\n..\n.\r\n\rFrom me\n")
@example(subject="", text="")
def test_subject_and_text_come_back(subject: str, text: str) -> None:
    """Whatever they are, the reader sees them, and the headers are those of the channel (B14)."""
    message, content = composed(subject, text)
    assert str(message["Subject"]).split() == legible(subject).split()
    assert body(message).splitlines() == text.splitlines()
    assert set(message.keys()) == HEADERS
    assert len(message.keys()) == len(HEADERS)
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")


def test_headers_name_the_channels_people() -> None:
    """All recipients are in one mail; those of ``bcc`` are not in it."""
    message, content = composed("Hello", "Text")
    assert message["From"] == "Kintö <kinto@example.org>"
    assert [box.addr_spec for box in message["To"].addresses] == [
        "a@example.org",
        "jane@example.org",
    ]
    assert message["To"].addresses[1].display_name == "Doe, Jané"
    assert message["Cc"] == "c@example.org"
    assert message["Reply-To"] == "help@example.org"
    assert b"secret@example.org" not in content
    assert parsedate_to_datetime(message["Date"]).tzinfo is not None
    assert message["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize("text", ["User id: basicauth:fea1", "line\n" * 3, "x" * 998])
def test_plain_text_stays_readable_on_the_way(text: str) -> None:
    """As in the tutorial: without an encoding if none is needed."""
    message, content = composed("record created", text)
    assert message["Content-Transfer-Encoding"] == "7bit"
    assert message["Content-Type"] == 'text/plain; charset="us-ascii"'
    assert text.encode().replace(b"\n", b"\r\n") in content


def test_html_comes_with_its_plain_text() -> None:
    """The reader's program chooses between two parts that say the same."""
    html = "<html><body><p>Grüße &lt;b&gt;</p></body></html>"
    message, _ = composed("Hello", "Grüße <b>", html)
    assert message.get_content_type() == "multipart/alternative"
    assert body(message, "html").strip() == html
    assert body(message).strip() == "Grüße <b>"
