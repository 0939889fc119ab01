"""An event becomes a mail, built by Apprise. Pure, but for the date."""

from __future__ import annotations

import contextlib
import re
import warnings
from dataclasses import dataclass
from email import message_from_string, policy
from email.header import Header
from email.message import Message as MimeMessage
from email.utils import formataddr, parseaddr
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from apprise import NotifyFormat

from kinto_dispatch import Event, Message


with warnings.catch_warnings():
    # Apprise prepares for PGP with a module that Python 3.13 has dropped.
    warnings.simplefilter("ignore", DeprecationWarning)
    from apprise.plugins.email.base import NotifyEmail

_WITH_NAME = re.compile(r'(?P<name>(?:"(?:\\.|[^"\\])*"|[^"<>,;:@])*?)\s*<(?P<address>[^<>\s]+)>')
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
LONGEST_ADDRESS = 254  # RFC 5321, without the angle brackets
ON_THE_LINE = policy.compat32.clone(linesep="\r\n")
LONGEST_LINE = 998  # bytes in a line of a mail, without its end (RFC 5322)


class Mailbox(NamedTuple):
    """Where a mail goes or comes from. ``address`` is ASCII and exactly one address."""

    name: str
    address: str


def mailbox(text: str) -> Mailbox:
    """``address`` or ``Name <address>``. Raises ``ValueError`` for anything else, also for two
    addresses, line ends and other characters that do not show."""
    if not text.isprintable():
        raise ValueError(f"{text!r} has characters that do not show")
    found = _WITH_NAME.fullmatch(text.strip())
    local, at, domain = (found["address"] if found else text.strip()).rpartition("@")
    try:
        address = f"{local}{at}{domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        address = ""
    if len(address) > LONGEST_ADDRESS or not _ADDRESS.fullmatch(address):
        raise ValueError(f"{text!r} is not one address, as in kinto@example.com")
    return Mailbox(parseaddr(f"{found['name']} <a@b>")[0] if found else "", address)


def is_mailbox(text: str) -> bool:
    """Whether ``mailbox`` takes it."""
    with contextlib.suppress(ValueError):
        return bool(mailbox(text))
    return False


class Letterhead(Protocol):
    """Whom all mails of a channel come from and go to: each an address, with a name or not."""

    sender: str
    recipients: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    reply_to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mail:
    """An envelope, its recipients each once, and what is in it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


def mail(people: Letterhead, message: Message, event: Event, channel: str, key: str) -> Mail:
    """The mail of the delivery with this key, built by Apprise.

    Its ``Message-ID`` is the same in every attempt, so that a repeat may be recognised. Mails
    about one object answer to one id, so that they are shown as one conversation.
    """
    sender = mailbox(people.sender)
    to, cc, bcc, reply_to = (
        tuple(mailbox(text) for text in texts)
        for texts in (people.recipients, people.cc, people.bcc, people.reply_to)
    )
    domain = sender.address.rpartition("@")[2]
    thread = _identifier(event.changes[0].uri, domain) if len(event.changes) == 1 else ""
    subject = one_line(message.subject)
    # What looks encoded would be decoded if it stayed as it is.
    is_literal = subject.isascii() and "=?" not in subject
    built = next(
        NotifyEmail.prepare_emails(
            subject=subject,
            body=message.text if message.html is None else message.html,
            from_addr=sender,
            to=to[:1],
            notify_format=NotifyFormat.TEXT if message.html is None else NotifyFormat.HTML,
        )
    )
    mime: MimeMessage[Any, Any] = message_from_string(built.body)
    headers: dict[str, str | Header] = {
        "Subject": Header(subject, "us-ascii" if is_literal else "utf-8"),
        "To": _listed(to),
        "Cc": _listed(cc),
        "Reply-To": _listed(reply_to),
        "Message-ID": _identifier(key, domain),
        "In-Reply-To": thread,
        "References": thread,
        "List-Id": f"<{re.sub('[^A-Za-z0-9-]', '-', channel)}.kinto-dispatch.{domain}>",
        "Auto-Submitted": "auto-generated",
    }
    for name, value in headers.items():
        del mime[name]
        if value:
            mime[name] = value
    for part in mime.walk():
        if part.get_content_type() == "text/plain":
            del part["Content-Transfer-Encoding"]
            part.set_payload(message.text, "us-ascii" if _is_plain(message.text) else "utf-8")
    recipients = dict.fromkeys(box.address for box in (*to, *cc, *bcc))
    return Mail(sender.address, tuple(recipients), mime.as_bytes(policy=ON_THE_LINE))


def _listed(boxes: tuple[Mailbox, ...]) -> str:
    return ", ".join(formataddr(box, "utf-8") for box in boxes)


def _identifier(of: str, domain: str) -> str:
    return f"<{blake2b(of.encode('utf-8', 'replace'), digest_size=16).hexdigest()}@{domain}>"


def _is_plain(text: str) -> bool:
    """Whether it can go as it is, readable for those who look over the shoulder of a server."""
    return text.isascii() and all(
        len(line) <= LONGEST_LINE and line.replace("\t", "").isprintable()
        for line in text.split("\n")
    )


def one_line(text: str) -> str:
    """Without line ends and other characters that could end a header or do not show."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
