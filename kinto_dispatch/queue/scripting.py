"""The scripts, by their verbs. A script is sent as its digest, and as text where that is new."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


Command = tuple[Any, ...]
"""The words of a command: texts, bytes and numbers."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server gets it."""

    text: str
    digest: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A call of a script. ``keys`` carry one hash tag."""

    script: Script
    keys: tuple[str, ...]
    arguments: Sequence[Any] = ()

    def by_digest(self) -> Command:
        """The short command, which a server that does not know the script refuses."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def by_text(self) -> Command:
        """The long command, after which the server knows the script."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.arguments)


@cache
def script(verb: str) -> Script:
    """The script of that name, with what the scripts share before it."""
    directory = resources.files("kinto_dispatch.queue") / "scripts"
    files = (directory / f"{name}.lua" for name in ("shared", "digests", verb))
    text = "\n".join(file.read_text("utf-8") for file in files)
    # Not for secrecy: it is the name that the server gives to the script.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
