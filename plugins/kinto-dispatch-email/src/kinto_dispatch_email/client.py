"""Submits mails over SMTP, in the thread that calls."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from kinto_dispatch import Deadline, Delivered, Outcome, Rejected, Retry, legible
from kinto_dispatch_email.message import Mail
from kinto_dispatch_email.settings import EmailSettings


QUIT_SECONDS = 1.0  # the mail is accepted by then; nobody waits longer for a farewell
LONGEST_REPLY = 300
MOST_BYTES = 65_536

Replies = Mapping[str, tuple[int, bytes]]


class SmtpClient:
    """Submits each mail in a connection of its own; safe to use from many threads."""

    def __init__(self, settings: EmailSettings) -> None:
        """Does not connect."""
        self._settings = settings

    def send(self, mail: Mail, seconds: float, *, patient: bool) -> Outcome:
        """Submit the mail and say what came of it; blocks, at most about ``seconds``.

        A mail refused with 5xx is ``Rejected``; with 4xx, by a server that cannot be reached or
        that refuses the login, ``Retry``. If only some recipients are refused the others get the
        mail, and the outcome names the refused; but while ``patient``, a refusal for now (4xx)
        holds the mail back from all. So nobody gets it twice, and nobody is left out in haste.
        """
        with Deadline(seconds) as deadline:
            try:
                with self._connection(deadline, seconds) as smtp:
                    return self._submit(smtp, mail, patient)
            except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
                what = "message" if isinstance(error, smtplib.SMTPDataError) else "sender"
                reason = f"{what} refused: {_shown(error.smtp_code, error.smtp_error)}"
                if error.smtp_code // 100 == 5:
                    return self._told(Rejected, reason)
            except smtplib.SMTPResponseException as error:
                reason = _shown(error.smtp_code, error.smtp_error)
            except (smtplib.SMTPException, OSError) as error:
                reason = f"{type(error).__name__}: {legible(str(error))}"
                if deadline.is_over or isinstance(error, TimeoutError):
                    reason = f"no answer within {seconds:g} s"
            return self._told(Retry, reason)

    def _submit(self, smtp: smtplib.SMTP, mail: Mail, patient: bool) -> Outcome:
        size = [f"size={len(mail.content)}"] if smtp.has_extn("size") else []
        code, text = smtp.mail(mail.sender, size)
        if code != 250:
            raise smtplib.SMTPSenderRefused(code, text, mail.sender)
        replies = {address: smtp.rcpt(address) for address in mail.recipients}
        refused = {address: reply for address, reply in replies.items() if reply[0] // 100 != 2}
        for_now = {address: reply for address, reply in refused.items() if reply[0] // 100 == 4}
        if for_now and (patient or refused == replies):
            return self._told(Retry, _named(for_now))
        if refused == replies:
            return self._told(Rejected, _named(refused))
        code, text = smtp.data(mail.content)
        if code != 250:
            raise smtplib.SMTPDataError(code, text)
        return Delivered(_shown(code, text) + (f"; refused: {_named(refused)}" if refused else ""))

    def _told(self, fate: type[Rejected | Retry], reason: str) -> Outcome:
        return fate(f"{self._settings.server}: {reason}")

    @contextlib.contextmanager
    def _connection(self, deadline: Deadline, seconds: float) -> Iterator[smtplib.SMTP]:
        """A connection that is greeted, encrypted and logged in."""
        settings = self._settings
        context = ssl.create_default_context() if settings.tls != "none" else None
        at_once = context if settings.tls == "implicit" else None
        options = {"local_hostname": self._own_name, "timeout": seconds}
        smtp = _Smtp(settings.server, deadline, at_once, **options)
        try:
            if settings.tls == "starttls":
                smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
            if settings.username and settings.password:
                smtp.login(settings.username, settings.password.get_secret_value())
            yield smtp
        finally:
            smtp.hang_up()

    @cached_property
    def _own_name(self) -> str:
        """How we introduce ourselves. Asked for once: the name server may be slow."""
        name = socket.getfqdn()
        return name if "." in name else "[127.0.0.1]"


class _Smtp(smtplib.SMTP):
    """A conversation that ends with a deadline. Connects at once; with a ``context`` it is
    encrypted from the first byte on."""

    def __init__(
        self, server: str, deadline: Deadline, context: ssl.SSLContext | None, **options: Any
    ) -> None:
        self._deadline, self._context = deadline, context
        self.default_port = smtplib.SMTP_SSL_PORT if context else smtplib.SMTP_PORT
        super().__init__(server, **options)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        self._host = host  # whom the certificate must name
        connected = socket.create_connection((host, port), timeout)
        self._deadline.watch(connected)
        if self._context is None:
            return connected
        return self._context.wrap_socket(connected, server_hostname=host)

    def getreply(self) -> tuple[int, bytes]:
        """Of at most 64 kB: one without end would fill the memory until the deadline."""
        if self.sock and self.file is None:
            self.file = _Lines(self.sock.makefile("rb"))
        if self.file:
            self.file.left = MOST_BYTES
        return super().getreply()

    def hang_up(self) -> None:
        """Say goodbye if somebody listens, and close. Never raises."""
        with contextlib.suppress(smtplib.SMTPException, OSError):
            if self.sock:
                self.sock.settimeout(QUIT_SECONDS)
                self.quit()
        self.close()


class _Lines:
    """What a server says; raises ``OSError`` where that is too much."""

    def __init__(self, file: Any) -> None:
        self._file, self.close, self.left = file, file.close, MOST_BYTES

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(limit)
        self.left -= len(line)
        if self.left < 0:
            raise OSError(f"a reply of more than {MOST_BYTES:,} bytes")
        return line


def _shown(code: int, text: bytes | str) -> str:
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {legible(decoded)[:LONGEST_REPLY]}".strip()


def _named(replies: Replies) -> str:
    return ", ".join(f"{address} ({_shown(*reply)})" for address, reply in replies.items())
