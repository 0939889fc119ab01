"""An event becomes a mail, built by Apprise. Pure, but for the date."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from email import message_from_string, policy
from email.header import Header
from email.message import Message as MimeMessage
from email.utils import formataddr
from hashlib import blake2b
from typing import Any

from apprise import NotifyFormat

from kinto_dispatch import Event, Mailbox, Message, legible, mailbox
from kinto_dispatch_email.settings import EmailSettings


with warnings.catch_warnings():
    # Apprise prepares for PGP with a module that Python 3.13 has dropped.
    warnings.simplefilter("ignore", DeprecationWarning)
    from apprise.plugins.email.base import NotifyEmail

ON_THE_LINE = policy.compat32.clone(linesep="\r\n")
LONGEST_LINE = 998  # bytes in a line of a mail, without its end (RFC 5322)


@dataclass(frozen=True, slots=True)
class Mail:
    """An envelope, its recipients each once, and what is in it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


def mail(people: EmailSettings, message: Message, event: Event, channel: str, key: str) -> Mail:
    """The mail of the delivery with this key, from and to these people.

    Its ``Message-ID`` is the same in every attempt, so that a repeat may be recognised. Mails
    about one object answer to one id, so that they are shown as one conversation.
    """
    sender = mailbox(people.sender)
    to, cc, bcc, reply_to = (
        [mailbox(text) for text in texts]
        for texts in (people.recipients, people.cc, people.bcc, people.reply_to)
    )
    domain = sender.address.rpartition("@")[2]
    uris = {change.uri for change in event.changes}
    thread = _identifier(uris.pop(), domain) if len(uris) == 1 else ""
    mime = _built(sender, to[0], message)
    headers: dict[str, str | Header] = {
        "Subject": _subject(message.subject),
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
    recipients = dict.fromkeys(box.address for box in (*to, *cc, *bcc))
    return Mail(sender.address, tuple(recipients), mime.as_bytes(policy=ON_THE_LINE))


def _built(sender: Mailbox, to: Mailbox, message: Message) -> MimeMessage[Any, Any]:
    """What Apprise makes of it, with our own plain text in the place of the one it guesses."""
    kind = NotifyFormat.HTML if message.html else NotifyFormat.TEXT
    body = message.html or message.text
    built = next(NotifyEmail.prepare_emails("", body, sender, [to], notify_format=kind))
    mime: MimeMessage[Any, Any] = message_from_string(built.body)
    for part in mime.walk():
        if part.get_content_type() == "text/plain":
            del part["Content-Transfer-Encoding"]
            part.set_payload(message.text, "us-ascii" if _is_plain(message.text) else "utf-8")
    return mime


def _subject(text: str) -> Header:
    line = legible(text)
    # What looks encoded would be decoded if it stayed as it is.
    return Header(line, "us-ascii" if line.isascii() and "=?" not in line else "utf-8")


def _listed(boxes: Iterable[Mailbox]) -> str:
    return ", ".join(formataddr(box, "utf-8") for box in boxes)


def _identifier(of: str, domain: str) -> str:
    return f"<{blake2b(of.encode('utf-8', 'replace'), digest_size=16).hexdigest()}@{domain}>"


def _is_plain(text: str) -> bool:
    """Whether it can go as it is, readable for those who look over the shoulder of a server."""
    return text.isascii() and all(
        len(line) <= LONGEST_LINE and line.replace("\t", "").isprintable()
        for line in text.split("\n")
    )
