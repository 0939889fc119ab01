"""A mail goes to whom it should, and has an identity."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

from hypothesis import example, given
from hypothesis import strategies as st

from kinto_dispatch import Message, mailbox
from kinto_dispatch.testing import make_change, make_event
from kinto_dispatch_email import EmailSettings
from kinto_dispatch_email.message import Mail, mail


def written(key: str = "e:a", uris: tuple[str, ...] = ("/x",), **people: object) -> Mail:
    """A mail about these objects."""
    settings = {"from": "Kinto <k@example.org>", "recipients": "a@x.org", **people}
    event = make_event(changes=tuple(make_change(uri=uri) for uri in uris))
    letterhead = EmailSettings.model_validate(settings)
    return mail(letterhead, Message("s", "t"), event, "ops_team", key)


def header(letter: Mail, name: str) -> str | None:
    """What stands in it."""
    return message_from_bytes(letter.content)[name]


@given(
    st.text(max_size=20) | st.sampled_from(["", '"a, b"', "Zoë", "=?utf-8?q?x=3Cy=40z=3E?="]),
    st.text(max_size=20) | st.just("b@c.org"),
)
@example("x\r\nBcc: e@x.org", "b@c.org")
@example("a@b.org, e@x.org", "b@c.org")
def test_what_is_taken_is_one_address_for_every_reader(name: str, address: str) -> None:
    """Whatever somebody types, a mail goes to nobody else (B14, B15)."""
    text = f"{name} <{address}>"
    try:
        taken = mailbox(text)
    except ValueError:
        return
    content = written(**{"from": text}).content
    message = message_from_bytes(content, _class=EmailMessage, policy=policy.default)
    (found,) = message["From"].addresses
    assert found.addr_spec == taken.address
    # A name that is encoded already means what it says decoded.
    assert found.display_name.split() == taken.name.split() or "=?" in name
    assert "Bcc" not in message


def test_the_envelope_names_everybody_once() -> None:
    """Who is written to twice gets one mail."""
    letter = written(recipients="a@x.org, b@x.org", cc="A <a@x.org>", bcc="c@x.org")
    assert letter.sender == "k@example.org"
    assert letter.recipients == ("a@x.org", "b@x.org", "c@x.org")


def test_the_message_id_belongs_to_the_delivery() -> None:
    """The same in every attempt, another for every other delivery, in the sender's domain."""
    first, again, other = (header(written(key), "Message-ID") for key in ("e:a", "e:a", "e:b"))
    assert first is not None
    assert first == again != other
    assert first.startswith("<")
    assert first.endswith("@example.org>")


def test_mails_about_one_object_are_a_conversation() -> None:
    """Programs show together what answers to the same mail, also if nobody has ever got that."""
    first, again, other = (written(key, (uri,)) for key, uri in ("1a", "2a", "3b"))
    assert header(first, "In-Reply-To") == header(again, "In-Reply-To")
    assert header(first, "In-Reply-To") == header(first, "References")
    assert header(first, "In-Reply-To") != header(other, "In-Reply-To")
    assert header(first, "In-Reply-To") != header(first, "Message-ID")
    several = written(uris=("/x", "/x"))
    assert header(several, "In-Reply-To") == header(written(uris=("/x",)), "In-Reply-To")


def test_a_mail_about_several_objects_belongs_to_none_of_them() -> None:
    """It begins a conversation of its own."""
    letter = written(uris=("/x", "/y"))
    assert header(letter, "In-Reply-To") is None
    assert header(letter, "References") is None


def test_a_filter_can_sort_by_channel() -> None:
    """The List-Id is the channel's, in characters that one may have."""
    assert header(written(), "List-Id") == "<ops-team.kinto-dispatch.example.org>"
