"""Any of Kinto's data as JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def encode_json(value: Any) -> bytes:
    """``value`` as JSON, without blanks: dictionaries, lists and tuples of what JSON knows, and
    msgspec's structs.

    UTF-8, or ASCII where it has what UTF-8 does not: lone surrogates are legal in JSON, hence in
    Kinto. Numbers that JSON does not have become ``null``. Raises ``RecursionError`` for what is
    nested too deeply.
    """
    try:
        return _encode(value)
    except (OverflowError, UnicodeEncodeError):
        # The standard library takes ten times as long, and writes what msgspec refuses.
        text = json.dumps(msgspec.to_builtins(value))
        known = json.loads(text, parse_constant=lambda name: None)
        return json.dumps(known, separators=(",", ":")).encode("ascii")


_encode = msgspec.json.Encoder().encode
