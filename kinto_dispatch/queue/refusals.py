"""What a server's refusal or silence means, and what to do about it."""

from __future__ import annotations

import errno
import socket
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis

from kinto_dispatch.errors import QueueFull, QueueRejected, QueueUnavailable


WANTS_PASSWORD = ("it wants a password", "Put user and password into queue_url.")
FULL = (
    "maxmemory is reached, so it takes nothing more",
    "Raise maxmemory, or let the workers drain it: settling goes on meanwhile.",
)
FORBIDDEN = ("its ACL forbids a command that is needed", "Allow it to the user of queue_url.")
WRONG_PASSWORD = ("it refuses the password", "Correct user and password in queue_url.")

REFUSALS = (
    ("NOAUTH", *WANTS_PASSWORD),
    ("Authentication required", *WANTS_PASSWORD),
    ("unauthenticated", *WANTS_PASSWORD),  # what it says to a long command
    ("WRONGPASS", *WRONG_PASSWORD),
    ("invalid username-password", *WRONG_PASSWORD),
    ("invalid password", *WRONG_PASSWORD),
    ("without any password", "it has no password", "Take the password out of queue_url."),
    ("NOPERM", *FORBIDDEN),
    ("ACL failure in script", *FORBIDDEN),
    ("maxmemory", *FULL),
    ("MISCONF", "it cannot write to its disk", "Its log says why; often the disk is full."),
    ("READONLY", "it is a replica and takes no writes", "Point queue_url to the primary."),
    ("LOADING", "it is still loading its data", "Wait; it is tried again."),
    ("MASTERDOWN", "it is a replica that lost its primary", "Point queue_url to the primary."),
    ("WRONGTYPE", "another program uses the same keys", "Set queue_prefix to something else."),
    ("MOVED", "it is a node of a cluster", "Point queue_url to a server without cluster mode."),
    ("CROSSSLOT", "it is a node of a cluster", "Point queue_url to one without cluster mode."),
    ("CLUSTERDOWN", "it is a node of a cluster", "Point queue_url to one without cluster mode."),
    ("NOREPLICAS", "too few replicas follow it to take writes", "Its log says which are missing."),
    ("DB index", "it has no database of that number", "Correct the number in queue_url."),
    (
        "in cluster mode",
        "it is a node of a cluster",
        "Point queue_url to one without cluster mode.",
    ),
    ("max number of clients", "it has too many clients", "Raise maxclients on the server."),
    ("BUSY", "a script of another program blocks it", "Find out whose; SCRIPT KILL ends it."),
    ("Script killed", "somebody ended our script", "Look for who used SCRIPT KILL."),
    ("Protocol error", "what listens there is neither Redis nor Valkey", "Correct queue_url."),
    (
        "WRONG_VERSION_NUMBER",
        "it does not speak TLS",
        "Write redis:// for rediss:// in queue_url.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is signed by nobody who is trusted here",
        "Name the file of its authority, ?ssl_ca_certs=FILE, in queue_url.",
    ),
    ("unknown command", "it lacks a command that is needed", "Redis 6.2 or newer, or Valkey."),
)
"""Looked for in the server's words, in this order: the sign, what it means, what to do."""

SILENT = (
    "it did not answer in time",
    "See whether it is overloaded or hangs, whether a firewall swallows what is sent to it, and "
    "that queue_url is right.",
)

NO_ANSWER = {
    errno.ECONNREFUSED: (
        "nothing listens there",
        "Start the server, or correct host and port in queue_url.",
    ),
    errno.ENOENT: ("there is no such socket", ""),
    errno.EACCES: ("this user may not open the socket", "Check the rights on its directory."),
    errno.ECONNRESET: ("it hung up", ""),
    errno.EPIPE: ("it hung up", ""),
    errno.EHOSTUNREACH: ("there is no way to its host", ""),
    errno.ENETUNREACH: ("there is no way to its network", ""),
}


def without_password(url: str) -> str:
    """The URL as it may be shown: nothing of who logs in, and of its options only ``db``."""
    parts = urlsplit(url)
    options = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] == "db"])
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?' * bool(options)}{options}"


def explained(url: str, error: BaseException) -> QueueUnavailable:
    """The error in words, never with the password, and what to do."""
    known = _without_words(error) or _by_words(error)
    if known is not None:
        kind = QueueFull if known == FULL else QueueUnavailable
        return kind(without_password(url), *known)
    said = _discreet(url, str(error) or type(error).__name__)
    if isinstance(error, redis.ResponseError) and _code(error) == "ERR":
        return QueueRejected(without_password(url), said)
    return QueueUnavailable(without_password(url), said)


def _code(error: redis.ResponseError) -> str:
    """The first word of a refusal, which redis-py takes out of the text where it has a class for
    it. ``ERR`` is about the request; every other one is about the state of the server."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _without_words(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return SILENT
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "its host name cannot be resolved", "Check the host in queue_url."
        if isinstance(cause, OSError) and cause.errno in NO_ANSWER:
            return NO_ANSWER[cause.errno]
        cause = cause.__cause__ or cause.__context__
    return None


def _by_words(error: BaseException) -> tuple[str, str] | None:
    # redis-py takes the leading code out of the text where it has a class for it.
    text = f"{getattr(error, 'status_code', None) or ''} {error}"
    for sign, reason, advice in REFUSALS:
        if sign in text:
            return reason, advice
    return None


def _discreet(url: str, text: str) -> str:
    """A text of others, in which the password may stand."""
    parts = urlsplit(url)
    secrets = [parts.netloc.rpartition("@")[0].rpartition(":")[2]]
    secrets += [value for name, value in parse_qsl(parts.query) if "password" in name]
    for secret in secrets:
        for spelling in {secret, unquote(secret)} - {""}:
            text = text.replace(spelling, "***")
    return text.rstrip(".")
