"""Submits mails over SMTP, in the thread that calls."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

from kinto_dispatch import Delivered, Outcome, Rejected, Retry
from kinto_dispatch_email.message import Mail, one_line


QUIT_SECONDS = 1.0  # the mail is accepted by then; nobody waits longer for a farewell
LONGEST_REPLY = 300

Tls = Literal["none", "starttls", "implicit"]
Replies = Mapping[str, tuple[int, bytes]]


class SmtpClient:
    """Submits each mail in a connection of its own; safe to use from many threads."""

    def __init__(self, server: str, tls: Tls, username: str | None, password: str | None) -> None:
        """``server`` is ``host`` or ``host:port``. Does not connect."""
        self._server = server
        self._tls: Tls = tls
        self._login = (username, password) if username and password else None

    def send(self, mail: Mail, seconds: float, *, patient: bool) -> Outcome:
        """Submit the mail and say what came of it; blocks, at most about ``seconds``.

        A mail refused with 5xx is ``Rejected``; with 4xx, by a server that cannot be reached or
        that refuses the login, ``Retry``. If only some recipients are refused the others get the
        mail, and the outcome names the refused; but while ``patient``, a refusal for now (4xx)
        holds the mail back from all. So nobody gets it twice, and nobody is left out in haste.
        """
        try:
            with self._connection(seconds) as smtp:
                return self._submit(smtp, mail, patient)
        except TimeoutError:
            reason = f"no answer within {seconds:g} s"
        except smtplib.SMTPResponseException as error:
            reason = _shown(error.smtp_code, error.smtp_error)
        except (smtplib.SMTPException, OSError) as error:
            reason = f"{type(error).__name__}: {one_line(str(error))}"
        return Retry(f"{self._server}: {reason}")

    def _submit(self, smtp: smtplib.SMTP, mail: Mail, patient: bool) -> Outcome:
        size = [f"size={len(mail.content)}"] if smtp.has_extn("size") else []
        code, text = smtp.mail(mail.sender, size)
        if code != 250:
            return self._refused("sender", code, text)
        replies = {address: smtp.rcpt(address) for address in mail.recipients}
        refused = {address: reply for address, reply in replies.items() if reply[0] // 100 != 2}
        for_now = {address: reply for address, reply in refused.items() if reply[0] // 100 == 4}
        if for_now and (patient or refused == replies):
            return Retry(f"{self._server}: {_named(for_now)}")
        if refused == replies:
            return Rejected(f"{self._server}: {_named(refused)}")
        try:
            code, text = smtp.data(mail.content)
        except smtplib.SMTPDataError as error:
            return self._refused("message", error.smtp_code, error.smtp_error)
        if code != 250:
            return self._refused("message", code, text)
        return Delivered(_shown(code, text) + (f"; refused: {_named(refused)}" if refused else ""))

    def _refused(self, what: str, code: int, text: bytes | str) -> Outcome:
        reason = f"{self._server}: {what} refused: {_shown(code, text)}"
        return Rejected(reason) if code // 100 == 5 else Retry(reason)

    @contextlib.contextmanager
    def _connection(self, seconds: float) -> Iterator[smtplib.SMTP]:
        """A connection that is greeted, encrypted and logged in, and that ends in time."""
        context = ssl.create_default_context() if self._tls != "none" else None
        smtp = _BoundedSmtp(self._own_name, seconds, context if self._tls == "implicit" else None)
        try:
            code, text = smtp.connect(self._server)
            if code != 220:
                raise smtplib.SMTPConnectError(code, text)
            if self._tls == "starttls":
                smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
            if self._login:
                smtp.login(*self._login)
            yield smtp
        except (smtplib.SMTPServerDisconnected, OSError) as error:
            raise TimeoutError if smtp.timed_out else error from error
        finally:
            smtp.hang_up()

    @cached_property
    def _own_name(self) -> str:
        """How we introduce ourselves. Asked for once: the name server may be slow."""
        name = socket.getfqdn()
        return name if "." in name else "[127.0.0.1]"


class _BoundedSmtp(smtplib.SMTP):
    """A conversation with one deadline however slowly the server talks: the time-out of a socket
    begins anew with each byte. With a ``context`` it is encrypted from the first byte on."""

    def __init__(self, own_name: str, seconds: float, context: ssl.SSLContext | None) -> None:
        super().__init__(local_hostname=own_name, timeout=seconds)
        self.timed_out = False
        self.default_port = smtplib.SMTP_SSL_PORT if context else smtplib.SMTP_PORT
        self._context = context
        self._line: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        self._host = host  # whom the certificate must name
        connected = socket.create_connection((host, port), timeout)
        # The same connection under another number: TLS takes the first one for itself.
        self._line = connected.dup()
        self._timer.start()
        return (
            self._context.wrap_socket(connected, server_hostname=host)
            if self._context
            else connected
        )

    def _cut(self) -> None:
        self.timed_out = True
        with contextlib.suppress(OSError):
            if self._line:
                self._line.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Say goodbye if somebody listens, and close. Never raises."""
        self._timer.cancel()
        with contextlib.suppress(smtplib.SMTPException, OSError):
            if self.sock and not self.timed_out:
                self.sock.settimeout(QUIT_SECONDS)
                self.quit()
        self.close()
        if self._line:
            self._line.close()


def _shown(code: int, text: bytes | str) -> str:
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {one_line(decoded)[:LONGEST_REPLY]}".strip()


def _named(replies: Replies) -> str:
    return ", ".join(f"{address} ({_shown(*reply)})" for address, reply in replies.items())
