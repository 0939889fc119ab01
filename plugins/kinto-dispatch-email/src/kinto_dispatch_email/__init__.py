"""E-mail for kinto-dispatch: one mail for each delivery, to all recipients."""

from __future__ import annotations

from kinto_dispatch import Channel, Delivered, Delivery, Event, Message, Outcome, hookimpl
from kinto_dispatch_email.client import SmtpClient
from kinto_dispatch_email.message import mail
from kinto_dispatch_email.settings import EmailSettings


__all__ = ["EmailChannel", "EmailSettings"]

REQUEST_SECONDS = 30.0
"""A mail sent in the request is given up after this long: the default of ``timeout_seconds``."""

PATIENT_ATTEMPTS = 5
"""About a minute; then those who take the mail no longer wait for those who may later."""


class EmailChannel:
    """A mail server, and the sender and recipients of one channel."""

    Settings = EmailSettings

    def __init__(self, settings: EmailSettings) -> None:
        self._client = SmtpClient(settings)
        self._people = settings

    @hookimpl
    def on_event(self, event: Event, channel: Channel) -> Outcome:
        """Submit the mail while the client of the write waits."""
        key = f"{event.id}:{channel.name}"
        return self._submit(event, channel, key, REQUEST_SECONDS, patient=False)

    @hookimpl
    def on_event_async(self, event: Event, channel: Channel, delivery: Delivery) -> Outcome:
        """Submit the mail in the worker, which runs this in a thread."""
        patient = delivery.attempt < min(PATIENT_ATTEMPTS + 1, channel.config.max_attempts)
        return self._submit(
            event, channel, delivery.key, delivery.timeout_seconds, patient=patient
        )

    def _submit(
        self, event: Event, channel: Channel, key: str, seconds: float, *, patient: bool
    ) -> Outcome:
        message = channel.render(event)
        people = self._people_of(message, channel)
        if not people.recipients:
            named = self._people.recipients if message.recipients is None else message.recipients
            return Delivered(f"nobody to write to in {list(named)}")
        letter = mail(people, message, event, channel.name, key)
        return self._client.send(letter, seconds, patient=patient)

    def _people_of(self, message: Message, channel: Channel) -> EmailSettings:
        """Those of the ini, or those whom a hook in metadata names instead."""
        own = self._people
        if message.recipients is None:
            return own.model_copy(update={"recipients": channel.addresses(own.recipients)})
        named = {"recipients": channel.addresses(message.recipients)}
        reply_to = (message.reply_to,) if message.reply_to else own.reply_to
        return own.model_copy(update={**named, "cc": (), "bcc": (), "reply_to": reply_to})
