"""An event becomes a mail. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parseaddr
from hashlib import blake2b
from typing import NamedTuple

from kinto_dispatch import Message


_WITH_NAME = re.compile(r'(?P<name>(?:"(?:\\.|[^"\\])*"|[^"<>])*?)\s*<(?P<address>[^<>\s]+)>')
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
LONGEST_ADDRESS = 254  # RFC 5321, without the angle brackets


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


def mailboxes(texts: Iterable[str]) -> tuple[Mailbox, ...]:
    """All of them; raises ``ValueError`` as ``mailbox`` does."""
    return tuple(mailbox(text) for text in texts)


@dataclass(frozen=True, slots=True)
class Header:
    """What all mails of a channel have in common."""

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...] = ()
    bcc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()

    @property
    def recipients(self) -> tuple[str, ...]:
        """The addresses for the envelope, each once."""
        return tuple(dict.fromkeys(box.address for box in (*self.to, *self.cc, *self.bcc)))


@dataclass(frozen=True, slots=True)
class Mail:
    """Everything that a mail says. ``subject`` is one line."""

    header: Header
    subject: str
    text: str
    html: str | None
    message_id: str


def mail(header: Header, message: Message, key: str) -> Mail:
    """The mail of the delivery with this key; it has the same ``Message-ID`` in every attempt, so
    that mail programs and servers may recognise a repeat."""
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=16).hexdigest()
    message_id = f"<{digest}@{header.sender.address.rpartition('@')[2]}>"
    return Mail(header, one_line(message.subject), message.text, message.html, message_id)


def one_line(text: str) -> str:
    """Without line ends and other characters that could end a header or do not show."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
