"""A real SMTP server on loopback that keeps what it gets and refuses what it is told to."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


Stage = Literal["MAIL", "RCPT", "DATA"]


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """One mail as it came in: ``sender`` and ``recipients`` are those of the envelope, ``at`` is
    the ``time.perf_counter`` of its arrival."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    message: EmailMessage
    encrypted: bool
    user: str | None
    at: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    answer: str
    stage: Stage
    recipient: str | None


class LocalSmtp:
    """SMTP on a free port of 127.0.0.1, in a thread of its own; a context manager.

    With ``password`` clients may log in as ``user``. With ``tls_context`` it offers STARTTLS.
    """

    def __init__(
        self,
        *,
        user: str = "kinto",
        password: str | None = None,
        tls_context: ssl.SSLContext | None = None,
    ) -> None:
        self.messages: list[ReceivedMail] = []
        self._user = user
        self._password = password
        self._tls_context = tls_context
        self._refusal: _Refusal | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:port``, as the setting ``server`` of a channel takes it."""
        return f"127.0.0.1:{self.port}"

    def refuse(
        self, code: int, text: str, stage: Stage = "RCPT", recipient: str | None = None
    ) -> None:
        """Answer ``code text`` from now on: to every recipient, only to ``recipient``, or at
        another ``stage`` of the conversation."""
        self._refusal = _Refusal(f"{code} {text}", stage, recipient)

    def accept(self) -> None:
        """Take everything again."""
        self._refusal = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._protocol, "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-smtp")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        """Hang up on everybody and wait until nothing runs any more."""
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the next turn of the loop

    def _protocol(self) -> SMTP:
        return SMTP(
            self,
            hostname="localhost",
            ident="local",
            loop=self._loop,
            enable_SMTPUTF8=True,
            tls_context=self._tls_context,
            auth_require_tls=False,
            auth_exclude_mechanism=[] if self._password else ["LOGIN", "PLAIN"],
            authenticator=self._log_in,
        )

    def _log_in(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        expected = LoginPassword(self._user.encode(), (self._password or "").encode())
        return AuthResult(success=data == expected, handled=False, auth_data=self._user)

    def _answer(self, stage: Stage, recipient: str | None = None) -> str | None:
        refusal = self._refusal
        if refusal is None or refusal.stage != stage:
            return None
        return refusal.answer if refusal.recipient in (None, recipient) else None

    # --- what aiosmtpd calls -------------------------------------------------------------

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, sender: str, options: list[str]
    ) -> str:
        if answer := self._answer("MAIL"):
            return answer
        envelope.mail_from = sender
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._answer("RCPT", address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if answer := self._answer("DATA"):
            return answer
        self.messages.append(_received(session, envelope))
        return "250 OK queued"


def _received(session: Session, envelope: Envelope) -> ReceivedMail:
    content = envelope.original_content or b""
    return ReceivedMail(
        sender=envelope.mail_from or "",
        recipients=tuple(envelope.rcpt_tos),
        content=content,
        message=message_from_bytes(content, _class=EmailMessage, policy=policy.default),
        encrypted=session.ssl is not None,
        user=session.auth_data,
        at=time.perf_counter(),
    )
