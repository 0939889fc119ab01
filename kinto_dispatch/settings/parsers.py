"""Text becomes a value, or says what would have been allowed. Pure, but for reading files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from kinto_dispatch.errors import did_you_mean
from kinto_dispatch.limit import UNITS, RateLimit


Parser = Callable[[str], Any]

ACTIONS = (
    "create",
    "update",
    "delete",
    "read",
)  # Kinto's own check answers with a bare ValueError
KINTO_RESOURCES = ("bucket", "group", "collection", "record", "account", "history")
QUEUE_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")
TRUE = frozenset({"t", "true", "y", "yes", "on", "1"})
FALSE = frozenset({"f", "false", "n", "no", "off", "0"})
# The kernel's limit for the path of a socket, without the closing zero byte.
SOCKET_PATH_BYTES = 107
MOST_OFTEN = 1_000_000


class Unfit(ValueError):
    """Raised by a parser. ``found`` stands in the report instead of the text if it is given."""

    def __init__(self, expected: str, advice: str = "", found: str = "") -> None:
        self.expected = expected
        self.advice = advice
        self.found = found
        super().__init__(expected)


def text(value: str) -> str:
    """The text itself."""
    return value


def words(value: str) -> tuple[str, ...]:
    """Split on white space."""
    return tuple(value.split())


def addresses(value: str) -> tuple[str, ...]:
    """Split on commas outside of quotation marks, and on lines."""
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|[^,\r\n])+', value)
    return tuple(part.strip() for part in parts if part.strip())


def boolean(value: str) -> bool:
    """The words of ``pyramid.settings.asbool``, and no others."""
    word = value.strip().lower()
    if word not in TRUE | FALSE:
        raise Unfit("true or false (also yes, no, on, off, 1, 0)")
    return word in TRUE


def integer(minimum: int, maximum: int | None = None) -> Parser:
    """A parser of whole numbers from ``minimum`` to ``maximum``."""
    upto = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise Unfit(f"a whole number, {upto}") from None
        if number < minimum or (maximum is not None and number > maximum):
            raise Unfit(f"a whole number, {upto}")
        return number

    return parse


def seconds(minimum: float = 0.0, maximum: float = math.inf) -> Parser:
    """A parser of durations above zero, from ``minimum`` to ``maximum``."""
    bounds = f", at least {minimum:g}" if minimum else ", more than 0"
    bounds += "" if maximum == math.inf else f" and at most {maximum:g}"

    def parse(value: str) -> float:
        number = _finite(value)
        if number is None or number <= 0 or not minimum <= number <= maximum:
            raise Unfit(f"a number of seconds{bounds}")
        return number

    return parse


def delays(value: str) -> tuple[float, ...]:
    """Seconds from 0 on, split on white space."""
    numbers = [_finite(word) for word in value.split()]
    found = tuple(number for number in numbers if number is not None and number >= 0)
    if len(found) != len(numbers):
        raise Unfit("seconds from 0 on with white space between them, as in 5 30 300")
    return found


def rate_limit(value: str) -> RateLimit:
    """A number of times in a second, a minute or an hour: ``10/second``."""
    count, _, unit = (word.strip() for word in value.partition("/"))
    fits = re.fullmatch(r"[0-9]{1,7}", count) and 1 <= int(count) <= MOST_OFTEN
    if not fits or unit not in UNITS:
        raise Unfit(
            f"a whole number from 1 to {MOST_OFTEN}, and /second, /minute or /hour",
            did_you_mean(unit.lower(), UNITS) or "As in 10/second.",
        )
    return RateLimit(int(count), UNITS[unit])


def _finite(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def choice(*allowed: str) -> Parser:
    """A parser of one of these words."""

    def parse(value: str) -> str:
        word = value.strip()
        if word not in allowed:
            raise Unfit(" or ".join(allowed), did_you_mean(word.lower(), allowed))
        return word

    return parse


def actions(value: str) -> tuple[str, ...]:
    """Kinto's actions, split on white space."""
    for word in value.split():
        if word not in ACTIONS:
            advice = did_you_mean(word.lower(), ACTIONS)
            raise Unfit("some of create update delete read", advice, found=repr(word))
    return words(value)


def resources(value: str) -> tuple[str, ...]:
    """Names of Kinto's resources, split on white space.

    Plugins of Kinto bring resources of their own, so unknown names pass; not so a name that is
    almost one of Kinto's, as ``records`` is.
    """
    for word in value.split():
        near = get_close_matches(word.lower(), KINTO_RESOURCES, n=1, cutoff=0.82)
        if near and word not in KINTO_RESOURCES:
            expected = f"names of resources, as in {' '.join(KINTO_RESOURCES)}"
            raise Unfit(expected, f"Did you mean {near[0]!r}?", found=repr(word))
    return words(value)


def event_names(value: str) -> tuple[str, ...]:
    """Dotted names of classes, split on white space. They are looked for where Kinto starts: a
    worker need not have their plugins."""
    for word in value.split():
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", word):
            expected = "dotted names of classes, as in some_plugin.events.SomethingHappened"
            raise Unfit(expected, found=repr(word[:80]))
    return tuple(dict.fromkeys(value.split()))


def key_prefix(value: str) -> str:
    """The beginning of keys in the queue."""
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value.strip()):
        raise Unfit("1 to 64 letters, digits and _ . : -")
    return value.strip()


def directory(value: str) -> Path:
    """An absolute path; ``~`` is the user's home directory."""
    path = Path(os.path.expanduser(value.strip()))
    if not path.is_absolute():
        raise Unfit(
            "an absolute path, the same for Kinto and for the worker",
            "%(here)s stands for the directory of the ini.",
        )
    return path


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where programs keep what must outlive them, for this user. Raises ``Unfit``."""
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if state.startswith("/"):
        return Path(state)
    try:
        return (Path(home) if home.startswith("/") else Path.home()) / ".local/state"
    except RuntimeError:
        raise Unfit(
            "an absolute path, or a queue_url", found="no home directory to keep the queue in"
        ) from None


def queue_url(value: str) -> SecretStr:
    """The address of a Redis or Valkey, in Redis' spelling. Never shows more than its scheme."""
    url = value.strip()
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in QUEUE_SCHEMES:
        known = bool(colon) and re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme)
        raise Unfit(
            "redis:// rediss:// unix:// valkey:// or valkeys://",
            "As in redis://:password@host:6379/0.",
            found=f"a URL with {scheme}://" if known else "no URL of a queue",
        )
    if scheme == "unix":
        _check_socket(rest)
    else:
        _check_port(url)
    return SecretStr(f"{scheme.replace('valkey', 'redis')}://{rest}")


def _check_socket(rest: str) -> None:
    path = rest.partition("?")[0].rpartition("@")[2]
    if not path.startswith("/"):
        raise Unfit("unix:// with an absolute path, as in unix:///run/redis.sock", found="no path")
    if len(path.encode()) > SOCKET_PATH_BYTES:
        found = f"a path of {len(path.encode())} bytes"
        raise Unfit(f"a socket path of at most {SOCKET_PATH_BYTES} bytes", found=found)


def _check_port(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.port != 0 and re.fullmatch(r"(/\d*)?", parts.path) is not None
        # Half a password that holds a bare ? or # ends up here.
        fits = fits and not parts.fragment and "@" not in parts.query
    except ValueError:
        fits = False
    if not fits:
        raise Unfit(
            "scheme://[user:password@]host[:port][/number of the database]",
            "In the password, write : / ? # @ and % as %3A %2F %3F %23 %40 and %25"
            " (in an ini %% for each %).",
            found="a URL that cannot be read",
        )


def file_text(value: str) -> str:
    """What stands in the file, without the end of its last line. Raises ``Unfit`` with the path
    and the reason."""
    path = Path(value.strip()).expanduser().absolute()
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text in UTF-8"
        raise Unfit("a file that can be read", found=f"{str(path)!r}: {reason}") from None
    if not content.strip():
        raise Unfit("a file with the value in it", found=f"{str(path)!r}: empty")
    return content
