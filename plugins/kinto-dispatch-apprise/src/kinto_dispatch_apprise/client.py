"""Sends messages to one service of Apprise, and says what came of it."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from urllib.parse import unquote

from kinto_dispatch import Delivered, EgressGuard, Message, Outcome, Rejected, Retry, legible
from kinto_dispatch.errors import RedirectRefused
from kinto_dispatch_apprise.watch import Attempt, attempt, described


with warnings.catch_warnings():
    # Some services prepare for modules that Python 3.13 has dropped; all are imported at once.
    warnings.simplefilter("ignore", DeprecationWarning)
    from apprise import Apprise, AppriseAsset, NotifyFormat, OverflowMode
    from apprise.manager_plugins import NotificationManager
    from apprise.plugins import NotifyBase
    from apprise.utils.parse import parse_urls

    NotificationManager().load_modules()  # type: ignore[no-untyped-call]  # as Apprise is

LONGEST_REASON = 300
LONGEST_PUBLIC = 5  # characters of a part of a URL that cannot be a secret
LISTS = ("targets", "channels", "topics", "rooms", "users")
# Icons would be loaded from somebody else's server.
ASSET = AppriseAsset(app_id="Kinto", image_url_mask="", storage_mode="memory")


class AppriseClient:
    """One destination; safe to use from many threads, since each message has its own service."""

    def __init__(self, url: str, schemes: Collection[str], guard: EgressGuard) -> None:
        """Raises ``ValueError`` for what is not exactly one permitted destination. ``schemes`` are
        what the URL may begin with; none means all that use HTTP. Does not connect."""
        if not unquote(url).isprintable():
            raise ValueError("a URL without line ends and other characters that do not show")
        self._url = url
        self._guard = guard
        with attempt(guard, 0.0):  # what is logged meanwhile quotes the URL
            service = self._service()
        has_http = uses_http(type(service))
        names: set[str] = service.schemas()  # type: ignore[no-untyped-call]  # as Apprise is
        if names.isdisjoint(schemes or (names if has_http else ())):
            raise ValueError(
                f"{' '.join(schemes) or 'a service that speaks HTTP'}; name {service.schema}"
                " in schemes if that is meant"
            )
        _check_single(service)
        # In most URLs a token stands where others have the host.
        templates: tuple[str, ...] = service.templates or ()
        has_host = any("{host}" in template for template in templates)
        self._host = str(service.host) if has_host and service.host else ""
        if self._host:
            scheme = "http" if has_http and not service.secure else "https"
            guard.check_url(f"{scheme}://{self._host}")
        self._name = str(service.service_name)
        self._secrets = _pattern(url, {*names, self._host})

    def send(self, message: Message, seconds: float) -> Outcome:
        """Submit the message and say what came of it; blocks, at most about ``seconds``."""
        with attempt(self._guard, seconds, self._host) as current:
            sent = self._notify(message, seconds, current)
        outcome = _judge(current, sent, seconds, self._redact)
        if isinstance(outcome, Retry | Rejected):
            return replace(outcome, reason=self._shown(outcome.reason))
        return outcome

    def _notify(self, message: Message, seconds: float, current: Attempt) -> bool:
        try:
            service = self._service()
            service.socket_connect_timeout = service.socket_read_timeout = seconds
            as_html = message.html and service.resolve_format("html") == NotifyFormat.HTML
            return service.notify(
                title=message.subject,
                body=(message.html if as_html else message.text) or message.subject,
                body_format=NotifyFormat.HTML if as_html else NotifyFormat.TEXT,
            )
        except Exception as error:
            if not current.answers:
                current.error = current.error or described(error)
            return False

    def _service(self) -> NotifyBase:
        service = Apprise.instantiate(self._url, asset=ASSET)
        urls = parse_urls(self._url)  # type: ignore[no-untyped-call]  # as Apprise is
        if not isinstance(service, NotifyBase) or len(urls) > 1:
            raise ValueError(
                "one URL that Apprise understands, as in discord://webhook_id/webhook_token;"
                " try it with: apprise -vv --dry-run URL"
            )
        vars(service).update(retry=0, throttle=_go_on)  # the lane repeats, and has a rate limit
        return service

    def _redact(self, text: str) -> str:
        return self._secrets.sub("***", text)

    def _shown(self, text: str) -> str:
        return f"{self._name}: {legible(self._redact(text))}"[:LONGEST_REASON]


def uses_http(kind: type[NotifyBase]) -> bool:
    """Whether it speaks HTTP; what is about this machine, or has its own protocol, does not."""
    return any("requests" in vars(sys.modules[parent.__module__]) for parent in kind.__mro__)


def _go_on(last_io: object = None, wait: float | None = None) -> None:
    """Instead of the pause that a service makes: what it has to wait for ends the attempt."""
    if wait:
        raise RuntimeError(f"wants to wait for {wait:g} s")


def _check_single(service: NotifyBase) -> None:
    lists = (getattr(service, name, ()) for name in LISTS)
    counts = [len(found) for found in lists if isinstance(found, (list, tuple, set))]
    count = max(len(service), *counts, 0)
    if count > 1:
        raise ValueError(
            f"one destination, not {count}: make a channel for each, or those that have got a"
            " message would get it again when another has not"
        )
    if service.overflow_mode == OverflowMode.SPLIT:
        raise ValueError("no split messages: when a part fails, those before it would come again")


def _pattern(url: str, public: Collection[str]) -> re.Pattern[str]:
    """All parts of the URL that are long enough to be secrets, as they are and decoded."""
    parts = [part for text in (url, unquote(url)) for part in re.split(r"[\s/:@?&=#,;|]+", text)]
    parts += [part.lstrip("+-") for part in parts]  # they mark headers and fields
    hidden = (part for part in {*parts} - {*public} if len(part) > LONGEST_PUBLIC)
    longest_first = sorted(hidden, key=len, reverse=True)
    return re.compile("|".join(re.escape(part) for part in longest_first) or r"(?!)")


def _judge(current: Attempt, sent: bool, seconds: float, redact: Callable[[str], str]) -> Outcome:
    failed = [answer for answer in current.answers if not 200 <= answer.status < 300]
    answer = next(reversed(failed or current.answers), None)
    if sent:
        return Delivered(str(answer.status) if answer else None)
    if current.refused:
        return Rejected(current.refused)
    if current.deadline.is_over:
        return Retry(f"no answer within {seconds:g} s")
    if current.error:
        return Retry(current.error)
    if answer is None:
        return Retry("; ".join(current.warnings[-2:]) or "not sent; Apprise does not say why")
    if 300 <= answer.status < 400:
        return Rejected(str(RedirectRefused(answer.status)))
    # Many a service answers 200 and means no.
    return answer.outcome(redact) if failed else Retry(answer.told(redact))
