"""Addresses are exactly one address each."""

from __future__ import annotations

import time

import pytest
from pydantic import BaseModel, ValidationError

from kinto_dispatch import Mailbox, Mailboxes, Recipients, mailbox


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
        "a@b.org, e@x.org <b@c.org>",
        "a@b.org; x <b@c.org>",
        "team: a <b@c.org>",
        "<b@c.org",
        "b@c.org>",
        "Bcc: e@x.org",
        "a@b..org",
        ".a@b.org",
        "a@-b.org",
        "ä@b.org",
        f"{'a' * 250}@b.org",
        "\u202ea@b.org",
        "a@b.org\u2028Bcc: e@x.org",
        "x\u2029 <b@c.org>",
        "x\x85Bcc: e@x.org <b@c.org>",
        "Bcc: e@x.org\x0b <b@c.org>",
        "=?utf-8?q?x=0D=0ABcc=3A_e=40x.org?= <b@c.org>",
        "=?utf-8?q?x?=@c.org",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """No line end, no second address, nothing that does not show (B14, B15)."""
    with pytest.raises(ValueError, match=r"not one address|do not show|looks encoded"):
        mailbox(text)


@pytest.mark.parametrize("text", ['"' * 100_000, "\\" * 100_000, " " * 100_000, "ä" * 100_000])
def test_what_is_far_too_long_is_refused_at_once(text: str) -> None:
    """A member of a group may be any text (B15)."""
    started = time.process_time()
    with pytest.raises(ValueError, match="100000 characters"):
        mailbox(text)
    assert time.process_time() - started < 1


class Letter(BaseModel):
    """Settings of a plugin that writes to people."""

    to: Recipients
    cc: Mailboxes = ()


def test_settings_take_addresses_and_groups() -> None:
    """With commas or lines between them; a comma in a quoted name does not end it."""
    letter = Letter.model_validate(
        {"to": 'a@x.org, /buckets/b/groups/g\n"Doe, Jane" <b@x.org>', "cc": "c@x.org"}
    )
    assert letter.to == ("a@x.org", "/buckets/b/groups/g", '"Doe, Jane" <b@x.org>')
    assert letter.cc == ("c@x.org",)


@pytest.mark.parametrize(
    "written",
    [
        {"to": "nobody"},
        {"to": "a@x.org, /buckets/b/groups/"},
        {"to": "a@x.org", "cc": "/buckets/b/groups/g"},
    ],
)
def test_settings_take_nothing_else(written: dict[str, str]) -> None:
    """And groups only where they can be resolved."""
    with pytest.raises(ValidationError, match="is not one address"):
        Letter.model_validate(written)
