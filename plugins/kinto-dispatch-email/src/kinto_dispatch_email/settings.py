"""What stands in the ini, in the words of Kinto's tutorial."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from kinto_dispatch import Mailboxes, Recipients, mailbox


Tls = Literal["none", "starttls", "implicit"]

TLS: dict[str, Tls] = {"true": "starttls", "yes": "starttls", "on": "starttls", "1": "starttls"}
TLS |= {"false": "none", "no": "none", "off": "none", "0": "none"}
"""The tutorial's spellings, as Kinto reads them."""


def _check_server(text: str) -> str:
    found = re.fullmatch(r"[^\s:@/]+(?::(\d{1,5}))?", text)
    if not found or not 0 < int(found[1] or 25) < 65_536:
        raise ValueError("host:port, as in localhost:25")
    return text


def _check_sender(text: str) -> str:
    mailbox(text)
    return text


class EmailSettings(BaseModel):
    """A mail server, and the sender and recipients of one channel."""

    model_config = ConfigDict(frozen=True)

    server: Annotated[str, AfterValidator(_check_server)] = Field(
        "localhost:25", description="host:port of the SMTP server"
    )
    tls: Annotated[Tls, BeforeValidator(lambda text: TLS.get(str(text).lower(), text))] = Field(
        "none", description="none, starttls (or true), or implicit; the certificate must be valid"
    )
    username: str | None = Field(None, description="the name to log in with")
    password: SecretStr | None = Field(None, description="the password to log in with")
    sender: Annotated[str, AfterValidator(_check_sender)] = Field(
        alias="from", description="the sender, as in Kinto <kinto@example.com>"
    )
    recipients: Recipients = Field(
        min_length=1,
        description="addresses and groups of Kinto, with commas or lines between them",
    )
    cc: Mailboxes = Field((), description="addresses that get a copy")
    bcc: Mailboxes = Field((), description="addresses that get a copy unseen by the others")
    reply_to: Mailboxes = Field((), description="addresses for answers")
