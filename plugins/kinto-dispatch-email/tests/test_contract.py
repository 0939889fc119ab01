"""The channel keeps the contract of all channels, on a real SMTP server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from kinto_dispatch.testing import ChannelContract, LocalSmtp


class MailServer:
    """An SMTP server that wants a password."""

    secret = "canary-5d1f0c"

    def __init__(self, server: LocalSmtp) -> None:
        self._server = server
        self.options = self.options_at(server.address)

    def texts(self) -> list[str]:
        """Subject and body of each mail."""
        return [
            f"{received.message['Subject']}\n{received.message.get_content()}"
            for received in self._server.messages
        ]

    def refuse(self) -> None:
        """No such user."""
        self._server.refuse(550, "5.1.1 no such user")

    def options_at(self, address: str) -> Mapping[str, str]:
        """Settings with the password."""
        return {
            "server": address,
            "username": "kinto",
            "password": self.secret,
            "from": "postmaster@localhost",
            "recipients": "kinto@yopmail.com",
        }


class TestEmail(ChannelContract):
    """E-mail, by the name of its entry point."""

    plugin = "email"

    @pytest.fixture
    def destination(self) -> Iterator[MailServer]:
        with LocalSmtp(password=MailServer.secret) as server:
            yield MailServer(server)
