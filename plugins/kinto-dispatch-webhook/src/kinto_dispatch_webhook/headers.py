"""Which headers an operator may add. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from yarl import URL


NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4000}[\x21-\x7e])?")

OURS = re.compile(
    r"accept-encoding|connection|content-.*|expect|host|keep-alive|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade|webhook-.*"
)
"""What the request itself decides, or each hop on its way."""


def check_headers(headers: Mapping[str, str], url: str = "") -> None:
    """Raises ``ValueError``, which names the header and never quotes its value."""
    seen: set[str] = set()
    for name, value in headers.items():
        plain = name.lower()
        if not NAME.fullmatch(name):
            raise ValueError(f"names of headers, which {name[:100]!r} is not")
        if OURS.fullmatch(plain):
            raise ValueError(f"headers that do not belong to the request itself; leave out {name}")
        if not VALUE.fullmatch(value):
            raise ValueError(f"one line of printable ASCII as the value of {name}")
        if plain in seen:
            raise ValueError(f"each header once; {name} is there twice")
        seen.add(plain)
    if "authorization" in seen and URL(url).user is not None:
        raise ValueError("no Authorization where the url has a user and a password")
