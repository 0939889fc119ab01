"""Data of others, in every place that it can come to, reads back as what it is."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kinto_dispatch import Event, mailbox
from kinto_dispatch.testing import make_change, make_channel, make_event
from kinto_dispatch_email import EmailSettings
from kinto_dispatch_email.message import Mail, mail


PEOPLE = {
    "from": "Kinto <kinto@example.org>",
    "recipients": "a@example.org",
    "cc": "c@example.org",
    "bcc": "b@example.org",
    "reply_to": "help@example.org",
}
TEMPLATE = "{{ user_id }}|{{ change.object_id }}|{{ change.new.title }}"
HEADERS = sorted(
    [
        *("Subject", "From", "To", "Cc", "Reply-To", "Message-ID", "In-Reply-To", "References"),
        *("Date", "List-Id", "Auto-Submitted", "Content-Type", "MIME-Version"),
    ]
)
LONGEST_LINE = 998
ATTACKS = [
    "x\r\nBcc: eve@example.com",
    "x\nBcc: eve@example.com\n\nAnother text",
    "x\r\n.\r\nMAIL FROM:<eve@example.com>",
    "=?utf-8?q?x=0D=0ABcc=3A_eve=40example.com?=",
    "x\u2028Bcc: eve@example.com\x85y\x0bz",
    '"<eve@example.com>, a" <eve@example.com>',
    "</p></body></html><script>alert(1)</script>",
    "<!channel> & <b> {{ 7 * 7 }}",
    "--===============0==\r\nContent-Type: text/html\r\n\r\nx",
    "\x00\ud800\x1b[31m\u202e",
    "x" * 2_000,
    "ü" * 2_000,
]
DATA = st.text(max_size=200) | st.sampled_from(ATTACKS)


def written(event: Event, key: str, *, template: str) -> tuple[Mail, EmailMessage]:
    """The mail as the channel writes it, and as a receiver parses it."""
    names = {"subject": TEMPLATE, "template": template}
    channel = make_channel("email", {**PEOPLE, **names})
    people: EmailSettings = channel.settings
    letter = mail(people, channel.render(event), event, channel.name, key)
    return letter, message_from_bytes(letter.content, _class=EmailMessage, policy=policy.default)


def event_of(data: str) -> Event:
    """Each field that somebody else fills has this in it."""
    change = make_change(uri=f"/buckets/{data}", object_id=data, new={"title": data})
    return make_event(changes=(change,), user_id=data, uri=data, root_url=data, request_id=data)


def part(message: EmailMessage, kind: str) -> str:
    """The decoded text of it."""
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content())


@given(data=DATA, key=DATA)
@example(data=ATTACKS[0], key=ATTACKS[0])
@example(data=ATTACKS[1], key=ATTACKS[1])
@example(data=ATTACKS[3], key=ATTACKS[3])
@example(data=ATTACKS[9], key=ATTACKS[9])
@example(data=ATTACKS[11], key=ATTACKS[11])
@settings(deadline=None, max_examples=60)
def test_whatever_stands_in_a_record_adds_no_header_and_no_recipient(data: str, key: str) -> None:
    """The mail has exactly its own headers, each once, goes to exactly its own people, and says
    the data in its text and its HTML as data (B13, B14, B15)."""
    html = f"<html><body><p>{TEMPLATE}</p></body></html>"
    letter, message = written(event_of(data), key, template=html)
    assert sorted(message.keys()) == HEADERS
    assert letter.sender == "kinto@example.org"
    assert letter.recipients == ("a@example.org", "c@example.org", "b@example.org")
    assert [str(box) for box in message["From"].addresses] == [PEOPLE["from"]]
    for name in ("To", "Cc", "Reply-To"):
        (box,) = message[name].addresses
        assert (
            box.addr_spec == PEOPLE[{"To": "recipients"}.get(name, name.lower().replace("-", "_"))]
        )
    for name in ("Message-ID", "In-Reply-To", "References"):
        left, _, right = message[name].strip("<>").partition("@")
        assert (len(left), left.isalnum(), right) == (32, True, "example.org")
    assert [one.get_content_type() for one in message.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]
    assert all(one.defects == [] for one in message.walk())
    shown = part(message, "html")
    assert shown.count("<") == html.count("<")
    lines = letter.content.split(b"\r\n")
    assert letter.content.isascii()
    assert max(map(len, lines)) <= LONGEST_LINE
    assert not any(b"\r" in line or b"\n" in line for line in lines)


@given(data=DATA)
@example(data=ATTACKS[2])
@example(data=ATTACKS[8])
@settings(deadline=None, max_examples=60)
def test_plain_text_ends_where_it_should(data: str) -> None:
    """A dot on a line, a line like a header or a boundary: it is one text, and nothing follows
    it (B13, B14)."""
    event = event_of(data)
    template = "{{ user_id }}\nthe end"
    _, message = written(event, "e:a", template=template)
    assert message.get_content_type() == "text/plain"
    rendered = make_channel("email", {**PEOPLE, "template": template}).render(event)
    found = part(message, "plain").splitlines()
    assert found == rendered.text.splitlines()
    assert found[-1] == "the end"


@given(name=DATA, address=DATA | st.just("eve@example.com"))
@example(name="x\r\nBcc: eve@example.com", address="joe@example.org")
@example(name='"Doe, <eve@example.com>"', address="joe@example.org")
@example(name="=?utf-8?q?x=3Ceve=40example.com=3E=2C?=", address="joe@example.org")
@settings(deadline=None, max_examples=100)
def test_whoever_users_name_is_one_address(name: str, address: str) -> None:
    """As the recipient, and as the one who gets the answers: refused, or one for every reader
    (B14, B15)."""
    text = f"{name} <{address}>"
    try:
        meant = mailbox(text).address
    except ValueError:
        return
    channel = make_channel("email", PEOPLE)
    people: EmailSettings = channel.settings
    named = {"recipients": (text,), "cc": (), "bcc": (), "reply_to": (text,)}
    event = make_event()
    letter = mail(people.model_copy(update=named), channel.render(event), event, "test", "e:a")
    message = message_from_bytes(letter.content, _class=EmailMessage, policy=policy.default)
    assert letter.recipients == (meant,)
    for header in ("To", "Reply-To"):
        (box,) = message[header].addresses
        assert box.addr_spec == meant
    assert "Bcc" not in message
