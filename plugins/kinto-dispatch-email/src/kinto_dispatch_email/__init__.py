"""E-mail for kinto-dispatch: one mail for each delivery, to all recipients."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from kinto_dispatch import (
    Addresses,
    Channel,
    Delivered,
    Delivery,
    Event,
    Message,
    Outcome,
    hookimpl,
)
from kinto_dispatch_email.client import SmtpClient, Tls
from kinto_dispatch_email.message import is_mailbox, mail, mailbox


__all__ = ["EmailChannel", "EmailSettings"]

REQUEST_SECONDS = 30.0
"""A mail sent in the request is given up after this long: the default of ``timeout_seconds``."""

PATIENT_ATTEMPTS = 5
"""About a minute; then those who take the mail no longer wait for those who may later."""


TLS: dict[str, Tls] = {"true": "starttls", "yes": "starttls", "on": "starttls", "1": "starttls"}
TLS |= {"false": "none", "no": "none", "off": "none", "0": "none"}
"""The tutorial's spellings, as Kinto reads them."""


def _check_server(text: str) -> str:
    found = re.fullmatch(r"[^\s:@/]+(?::(\d{1,5}))?", text)
    if not found or not 0 < int(found[1] or 25) < 65_536:
        raise ValueError("host:port, as in localhost:25")
    return text


def _check_mailboxes(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        mailbox(text)
    return texts


def _check_recipients(texts: tuple[str, ...]) -> tuple[str, ...]:
    _check_mailboxes(tuple(text for text in texts if not GROUP.fullmatch(text)))
    return texts


GROUP = re.compile(r"/buckets/[A-Za-z0-9][A-Za-z0-9_-]*/groups/[A-Za-z0-9][A-Za-z0-9_-]*")
Mailboxes = Annotated[Addresses, AfterValidator(_check_mailboxes)]
Recipients = Annotated[Addresses, AfterValidator(_check_recipients)]


class EmailSettings(BaseModel):
    """What stands in the ini, in the words of Kinto's tutorial."""

    model_config = ConfigDict(frozen=True)

    server: Annotated[str, AfterValidator(_check_server)] = Field(
        "localhost:25", description="host:port of the SMTP server"
    )
    tls: Annotated[Tls, BeforeValidator(lambda text: TLS.get(str(text).lower(), text))] = Field(
        "none", description="none, starttls (or true), or implicit; the certificate must be valid"
    )
    username: str | None = Field(None, description="the name to log in with")
    password: SecretStr | None = Field(None, description="the password to log in with")
    sender: Annotated[str, AfterValidator(lambda text: _check_mailboxes((text,))[0])] = Field(
        alias="from", description="the sender, as in Kinto <kinto@example.com>"
    )
    recipients: Recipients = Field(
        min_length=1,
        description="addresses and groups of Kinto, with commas or lines between them",
    )
    cc: Mailboxes = Field((), description="addresses that get a copy")
    bcc: Mailboxes = Field((), description="addresses that get a copy unseen by the others")
    reply_to: Mailboxes = Field((), description="addresses for answers")


class EmailChannel:
    """A mail server, and the sender and recipients of one channel."""

    Settings = EmailSettings

    def __init__(self, settings: EmailSettings) -> None:
        password = settings.password.get_secret_value() if settings.password else None
        self._client = SmtpClient(settings.server, settings.tls, settings.username, password)
        self._people = settings

    @hookimpl
    def on_event(self, event: Event, channel: Channel) -> Outcome:
        """Submit the mail while the client of the write waits."""
        key = f"{event.id}:{channel.name}"
        return self._submit(event, channel, key, REQUEST_SECONDS, patient=False)

    @hookimpl
    def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Submit the mail in the worker, which runs this in a thread."""
        patient = delivery.attempt <= PATIENT_ATTEMPTS
        return self._submit(
            event, channel, delivery.key, delivery.timeout_seconds, patient=patient
        )

    def _submit(
        self, event: Event, channel: Channel, key: str, seconds: float, *, patient: bool
    ) -> Outcome:
        message = channel.render(event)
        people = self._people_of(message, channel)
        if not people.recipients:
            return Delivered("nobody to write to: the groups have no member with an address")
        letter = mail(people, message, event, channel.name, key)
        return self._client.send(letter, seconds, patient=patient)

    def _people_of(self, message: Message, channel: Channel) -> EmailSettings:
        """Those of the ini, or those whom a hook in metadata names instead."""
        own = self._people
        # What users write may look like an address and be none: it must not stop the others' mail.
        found = channel.addresses(message.recipients or own.recipients)
        named = {"recipients": tuple(text for text in found if is_mailbox(text))}
        if not message.recipients:
            return own.model_copy(update=named)
        reply_to = (message.reply_to,) if is_mailbox(message.reply_to or "") else own.reply_to
        return own.model_copy(update={**named, "cc": (), "bcc": (), "reply_to": reply_to})
