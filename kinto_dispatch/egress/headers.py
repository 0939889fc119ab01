"""Which headers an operator may add to a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping


NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4000}[\x21-\x7e])?")

OURS = re.compile(
    r"accept-encoding|connection|content-.*|expect|host|keep-alive|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade"
)
"""What the request itself decides, or each hop on its way."""


def check_headers(
    headers: Mapping[str, str], url: str = "", *, reserved: tuple[str, ...] = ()
) -> None:
    """Raises ``ValueError``, which names the header and never quotes its value.

    For the settings of a channel. ``reserved`` are beginnings of names, in lower case, which the
    plugin sets itself; ``url`` may have a user and a password, which leave no room for another
    ``Authorization``.
    """
    seen: set[str] = set()
    for name, value in headers.items():
        plain = name.lower()
        if not NAME.fullmatch(name):
            raise ValueError(f"names of headers, which {name[:100]!r} is not")
        if OURS.fullmatch(plain) or plain.startswith(reserved):
            raise ValueError(f"headers that do not belong to the request itself; leave out {name}")
        if not VALUE.fullmatch(value):
            raise ValueError(f"one line of printable ASCII as the value of {name}")
        if plain in seen:
            raise ValueError(f"each header once; {name} is there twice")
        seen.add(plain)
    if "authorization" in seen and _has_user(url):
        raise ValueError("no Authorization where the url has a user and a password")


def _has_user(url: str) -> bool:
    from yarl import URL

    return URL(url).user is not None
