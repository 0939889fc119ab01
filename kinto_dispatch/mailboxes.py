"""Addresses as people write them, each exactly one."""

from __future__ import annotations

import contextlib
import re
from email.utils import parseaddr
from typing import NamedTuple


_WITH_NAME = re.compile(r'(?P<name>(?:"(?:\\.|[^"\\])*"|[^"<>,;:@])*?)\s*<(?P<address>[^<>\s]+)>')
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
LONGEST_ADDRESS = 254  # RFC 5321, without the angle brackets
LONGEST_MAILBOX = 500  # characters, with the name
LONGEST_NAME = 200  # bytes in UTF-8: three times as many in a line of a mail, which holds 998


class Mailbox(NamedTuple):
    """Where a mail goes or comes from. ``address`` is ASCII and exactly one address."""

    name: str
    address: str


def mailbox(text: str) -> Mailbox:
    """``address`` or ``Name <address>``. Raises ``ValueError`` for anything else, also for two
    addresses, line ends and other characters that do not show, as they are or encoded."""
    if len(text) > LONGEST_MAILBOX:
        raise ValueError(f"not one address, but {len(text)} characters")
    if not text.isprintable():
        raise ValueError(f"{text!r} has characters that do not show")
    if "=?" in text:  # readers would decode it, also into line ends
        raise ValueError(f"{text!r} looks encoded; write it as it is shown")
    found = _WITH_NAME.fullmatch(text.strip())
    if found and len(found["name"].encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError(f"a name of more than {LONGEST_NAME} bytes")
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
