"""What a service of Apprise does on the network, as it does it.

Apprise tells only whether it sent, and writes the rest, secrets included, into logs. So while an
attempt is open in this thread, its requests are answered for, its connections pass a guard and end
with it, and what is logged stays in it. In other threads nothing changes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from kinto_dispatch import Deadline, EgressGuard, HttpAnswer
from kinto_dispatch.errors import EgressRefused


LONGEST_ANSWER = 64 * 1024  # bytes that are read
# Whoever writes URLs or headers into logs, mostly at the level DEBUG. Filters are not inherited.
TALKATIVE = (
    *("apprise", "urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager"),
    *("urllib3.util.retry", "requests_oauthlib.oauth1_auth", "oauthlib.oauth1.rfc5849"),
)
Send = Callable[..., requests.Response]


@dataclass(slots=True)
class Attempt:
    """What has happened so far. ``host`` is where it means to go, ``refused`` what the guard says
    to that, ``error`` how a request failed. They are texts: an exception would keep its service,
    which logs out when it goes, for later."""

    guard: EgressGuard
    deadline: Deadline
    host: str
    answers: list[HttpAnswer] = field(default_factory=list)
    refused: str = ""
    error: str = ""
    warnings: list[str] = field(default_factory=list)

    def check(self, question: Callable[[], None]) -> None:
        """Ask the guard. Raises ``OSError``, as every library expects of connections."""
        if self.deadline.is_over:
            raise TimeoutError
        try:
            question()
        except (EgressRefused, ValueError) as refused:
            self.refused = str(refused)
            raise PermissionError(str(refused)) from refused


_current: ContextVar[Attempt | None] = ContextVar("kinto_dispatch_apprise", default=None)


@contextlib.contextmanager
def attempt(guard: EgressGuard, seconds: float, host: str = "") -> Iterator[Attempt]:
    """Watch what this thread does meanwhile, and cut it off after so many seconds."""
    with Deadline(seconds) as deadline:
        current = Attempt(guard, deadline, host)
        token = _current.set(current)
        try:
            yield current
        finally:
            _current.reset(token)


def _keep(log: logging.LogRecord) -> bool:
    """Whether it may be written. Of an attempt it may not: most of them quote the URL."""
    current = _current.get()
    if current is not None and log.levelno >= logging.WARNING:
        current.warnings.append(log.getMessage())
    return current is None


def _on_connect(event: str, arguments: tuple[Any, ...]) -> None:
    """Let sockets go only where the guard allows it: the address counts, not the name."""
    if event in ("socket.connect", "socket.sendto") and (current := _current.get()) is not None:
        sock, address = arguments
        where = str(address[0]) if isinstance(address, tuple) else "a local socket"
        current.check(lambda: current.guard.check_address(where, current.host))
        current.deadline.watch(sock)


def _answered(send: Send) -> Send:
    """``requests.Session.send`` that answers for itself in an attempt, and goes nowhere else: not
    after redirects, not through proxies of the environment."""

    @functools.wraps(send)
    def answered(session: Any, request: requests.PreparedRequest, **options: Any) -> Any:
        current = _current.get()
        if current is None:
            return send(session, request, **options)
        url = request.url or ""
        current.check(lambda: current.guard.check_url(url))
        current.host = urlsplit(url).hostname or ""
        options |= {"allow_redirects": False, "proxies": {}, "stream": True}
        try:
            with send(session, request, **options) as response:
                content = response.raw.read(LONGEST_ANSWER, decode_content=True)
            if current.deadline.is_over:
                raise TimeoutError  # what was cut may look complete
        except Exception as error:
            current.error = described(error)
            raise
        response._content, response._content_consumed = content, True
        text = content.decode("utf-8", "replace")
        current.answers.append(HttpAnswer(response.status_code, response.headers, text))
        return response

    return answered


def described(error: BaseException) -> str:
    """The first cause, in the words of the system: libraries quote the URL in theirs."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return getattr(error, "strerror", None) or type(error).__name__


# From now on, for as long as the process lives: hooks of this kind cannot be taken back.
for _name in TALKATIVE:
    logging.getLogger(_name).addFilter(_keep)
requests.Session.send = _answered(requests.Session.send)  # type: ignore[method-assign]  # on purpose
sys.addaudithook(_on_connect)
