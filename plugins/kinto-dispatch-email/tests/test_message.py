"""Addresses are exactly one address each, and a mail has an identity."""

from __future__ import annotations

import pytest

from kinto_dispatch import Message
from kinto_dispatch_email.message import Header, Mailbox, mail, mailbox, one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kinto@yopmail.com", Mailbox("", "kinto@yopmail.com")),
        ("postmaster@localhost", Mailbox("", "postmaster@localhost")),
        ("  a.b+tag@mail.example.org ", Mailbox("", "a.b+tag@mail.example.org")),
        ("<a@b.org>", Mailbox("", "a@b.org")),
        ("Kinto <a@b.org>", Mailbox("Kinto", "a@b.org")),
        ("Zoë Müller <a@b.org>", Mailbox("Zoë Müller", "a@b.org")),
        ('"Doe, Jane" <a@b.org>', Mailbox("Doe, Jane", "a@b.org")),
        ('"A \\"B\\" C" <a@b.org>', Mailbox('A "B" C', "a@b.org")),
        ("a@münchen.example", Mailbox("", "a@xn--mnchen-3ya.example")),
    ],
)
def test_an_address_may_have_a_name(text: str, expected: Mailbox) -> None:
    """Both common spellings, and domains in any script."""
    assert mailbox(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kinto",
        "@b.org",
        "a@",
        "a@b@c.org",
        "a b@c.org",
        "a@b.org c@d.org",
        "a@b.org,c@d.org",
        "a@b.org;c@d.org",
        "a@b.org\n",
        "a@b.org\r\nBcc: e@x.org",
        "x <b@c.org>\r\nBcc: e@x.org",
        "x\r\n <b@c.org>",
        "x\0 <b@c.org>",
        "x <b@c.org>, y <d@e.org>",
        "x <b@c.org> <d@e.org>",
        "<b@c.org",
        "b@c.org>",
        "Bcc: e@x.org",
        "a@b..org",
        ".a@b.org",
        "a@-b.org",
        "ä@b.org",
        f"{'a' * 250}@b.org",
        "\u202ea@b.org",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """No line end, no second address, nothing that does not show."""
    with pytest.raises(ValueError, match=r"not one address|do not show"):
        mailbox(text)


def test_the_envelope_names_everybody_once() -> None:
    """Who is written to twice gets one mail."""
    header = Header(
        sender=mailbox("k@x.org"),
        to=(mailbox("a@x.org"), mailbox("b@x.org")),
        cc=(mailbox("A <a@x.org>"),),
        bcc=(mailbox("c@x.org"),),
    )
    assert header.recipients == ("a@x.org", "b@x.org", "c@x.org")


def test_the_message_id_belongs_to_the_delivery() -> None:
    """The same in every attempt, another for every other delivery, in the sender's domain."""
    header = Header(sender=mailbox("Kinto <k@example.org>"), to=(mailbox("a@x.org"),))
    first, again, other = (
        mail(header, Message("s", "t"), key).message_id for key in ("e:a", "e:a", "e:b")
    )
    assert first == again != other
    assert first.startswith("<")
    assert first.endswith("@example.org>")


def test_one_line_has_no_way_out() -> None:
    """Whatever ends a line or does not show becomes a space."""
    assert one_line("a\r\nBcc: b\0c\x85d\u2028e\x0b  f") == "a Bcc: b c d e f"
