"""Cuts what a channel was told in confidence out of every text that leaves it."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit


MASK = "**********"
# Shorter words are part of ordinary sentences; cutting them out would make these unreadable.
WORD_LENGTH = 6
WHOLE_LENGTH = 3
SEPARATORS = re.compile(r"[\s/:@?&=#,;\"'{}\[\]()<>|]+")


class Redactor:
    """Replaces secrets, and the longer words they are made of, but not the host of a URL.

    A library that fails likes to quote the URL it was given, or the half of it that it could not
    read; hence the words. A server may quote the ``Authorization`` that was made of them; hence
    base64, of which up to one byte at either end may stay.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {word for secret in secrets for word in _words(secret)}
        words |= {text for word in words if len(word) >= WORD_LENGTH for text in _encoded(word)}
        # The longest first, or what is left of a long one after a short one would stay readable.
        pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        self._pattern = re.compile(pattern) if pattern else None

    def __call__(self, text: str) -> str:
        """``text`` with a mask in the place of each secret."""
        return self._pattern.sub(MASK, text) if self._pattern else text


def _words(secret: str) -> Iterable[str]:
    secret = secret.strip()
    names, texts = _inner(secret)
    for whole in (secret, *texts):
        if len(whole) >= WHOLE_LENGTH:
            yield from {whole, unquote(whole), repr(whole)[1:-1]}
    public = {"", *_public_parts(secret), *names}
    for word in SEPARATORS.split(secret):
        if len(word) >= WORD_LENGTH and word.lower() not in public:
            yield from {word, unquote(word)}


def _inner(secret: str) -> tuple[set[str], set[str]]:
    """Of a setting that holds several texts, as in ``{"Authorization": "Bearer ..."}``: their
    names in lower case, which are no secrets, and the texts with what follows the scheme in each.
    """
    names: set[str] = set()
    texts: set[str] = set()
    try:
        pending = [json.loads(secret)]
    except (ValueError, RecursionError):
        pending = []
    while pending:
        match pending.pop():
            case dict() as mapping:
                pending += mapping.values()
                names.update(name.lower() for name in mapping)
            case list() as several:
                pending += several
            case str() as text:
                texts |= {text, text.partition(" ")[2]}
    return names, texts


def _encoded(word: str) -> Iterable[str]:
    """What stands for it in base64 of any text around it, which three bytes of it shift."""
    for before in range(3):
        held = bytes(before) + word.encode("utf-8", "replace")
        inside = slice(-(-before * 8 // 6), len(held) * 8 // 6)
        yield from {b64encode(held).decode()[inside], urlsafe_b64encode(held).decode()[inside]}


def _public_parts(secret: str) -> Iterable[str]:
    """What may be read of a secret that is a URL: its scheme and its host."""
    try:
        parts = urlsplit(secret)
    except ValueError:
        return ()
    return (parts.scheme, parts.hostname or "")
