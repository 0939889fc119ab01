"""No spelling of a URL or an address gets to where nobody may send."""

from __future__ import annotations

import ipaddress
import socket

from yarl import URL

from kinto_dispatch import EgressGuard
from kinto_dispatch.errors import EgressRefused
from tests.fuzz.engine import Defect, Target


GUARD = EgressGuard()
NAMED = EgressGuard(("chat.internal",), ("10.1.0.0/16",))


def run(data: bytes) -> str:
    """Ask for it as a URL, and as an address."""
    text = data.decode("utf-8", "replace")
    address = of_address(text)
    try:
        GUARD.check_url(text)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
        check_allowed(URL(text))
    try:
        NAMED.check_url(text)
    except ValueError as error:
        if not refused:
            raise Defect("naming more allows less") from error
    return f"{address} {refused}"


def check_allowed(url: URL) -> None:
    """Raises a ``Defect`` if the C library would dial a special address for this host."""
    if url.scheme != "https" or not url.host:
        raise Defect(f"{url.scheme} passes")
    try:
        dialled = socket.getaddrinfo(url.host, 443, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return  # a name: decided on once it is resolved
    for *_, where in dialled:
        if not ipaddress.ip_address(str(where[0]).partition("%")[0]).is_global:
            raise Defect(f"{url.host} leads to {where[0]}")


def of_address(text: str) -> str:
    """What the guard says of it as an address that a name resolved to."""
    try:
        GUARD.check_address(text, "example.com")
    except EgressRefused as error:
        return str(error.kind)
    if not ipaddress.ip_address(text.partition("%")[0]).is_global:
        raise Defect(f"{text} passes")
    return "passes"


TARGET = Target(
    "egress",
    run,
    seeds=[
        b"https://hooks.slack.com/services/x",
        b"https://127.0.0.1:8080/x",
        b"https://[::ffff:127.0.0.1]/x",
        b"https://user:password@2130706433/x",
        b"https://0x7f.1/",
        b"http://chat.internal/",
        b"https://10.1.2.3/",
        b"8.8.8.8",
        b"2606:4700::1111%eth0",
        b"fe80::1",
    ],
    words=[
        *b"https:// http:// file:// @ : / // \\ # ? %00 %2e . .. [ ] ::1 :: 0x7f 0177".split(),
        *b"::ffff: 127.1 169.254.169.254 metadata.google.internal localhost 10. 255 %25".split(),
        "。".encode(),
        "①②⑦.⓪.⓪.①".encode(),
        "ｌｏｃａｌｈｏｓｔ".encode(),
        b"\t",
        b"64:ff9b::7f00:1",
    ],
)
