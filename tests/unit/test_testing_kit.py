"""The servers that tests stand on behave as real ones do."""

from __future__ import annotations

import json
import smtplib
import time
import urllib.error
import urllib.request
from email.message import EmailMessage

import pytest

from kinto_dispatch.testing import LocalHttp, LocalSmtp, make_change, make_event


def mail(subject: str = "Hello") -> EmailMessage:
    """A small mail."""
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = "a@example.com"
    message["To"] = "b@example.com"
    message.set_content("Grüße")
    return message


def test_smtp_keeps_what_it_gets(smtp_server: LocalSmtp) -> None:
    """The envelope and the parsed message can be looked at."""
    with smtplib.SMTP(smtp_server.address, timeout=5) as client:
        client.send_message(mail())
    (received,) = smtp_server.messages
    assert (received.sender, received.recipients) == ("a@example.com", ("b@example.com",))
    assert received.message["Subject"] == "Hello"
    assert received.message.get_content().strip() == "Grüße"


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_smtp_refuses_until_told_otherwise(smtp_server: LocalSmtp, stage: str) -> None:
    """A refusal has the code and the text that the test wants, at the stage it wants."""
    smtp_server.refuse(451, "4.3.0 later", stage=stage)
    with smtplib.SMTP(smtp_server.address, timeout=5) as client:
        with pytest.raises(smtplib.SMTPException, match=r"451.*later"):
            client.send_message(mail())
        smtp_server.accept()
        client.send_message(mail())
    assert len(smtp_server.messages) == 1


def test_smtp_refuses_one_recipient(smtp_server: LocalSmtp) -> None:
    """The others get the mail."""
    smtp_server.refuse(550, "no such user", recipient="c@example.com")
    with smtplib.SMTP(smtp_server.address, timeout=5) as client:
        refused = client.sendmail("a@x.org", ["b@example.com", "c@example.com"], b"Hi")
    assert refused == {"c@example.com": (550, b"no such user")}
    assert smtp_server.messages[0].recipients == ("b@example.com",)


def test_smtp_checks_passwords() -> None:
    """With a password, a wrong one is refused and a right one is remembered."""
    with LocalSmtp(user="kinto", password="right") as server:
        with smtplib.SMTP(server.address, timeout=5) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("kinto", "wrong")
            client.login("kinto", "right")
            client.send_message(mail())
        assert server.messages[0].user == "kinto"


def test_smtp_ends_with_clients_connected() -> None:
    """A client that stays does not keep the server from closing."""
    with LocalSmtp() as server:
        client = smtplib.SMTP(server.address, timeout=5)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()
    client.close()


def test_http_keeps_what_it_gets_and_answers_as_told(http_sink: LocalHttp) -> None:
    """Status, headers and body of the answer are the test's."""
    http_sink.answer(429, b"slow down", {"Retry-After": "7"})
    request = urllib.request.Request(f"{http_sink.url}/a?b=c", b'{"x": 1}', {"X-Y": "z"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    with caught.value as answer:
        assert (answer.code, answer.headers["Retry-After"]) == (429, "7")
    (received,) = http_sink.requests
    assert (received.method, received.path) == ("POST", "/a?b=c")
    assert received.headers["x-y"] == "z"
    assert json.loads(received.body) == {"x": 1}


def test_http_ends_at_once_while_somebody_waits_for_a_late_answer() -> None:
    """Closing does not wait for the delay of an answer."""
    started = time.monotonic()
    with LocalHttp() as server:
        server.answer(delay_seconds=60)
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(server.url, timeout=0.2)
    assert time.monotonic() - started < 5


def test_an_event_is_a_record_that_was_created() -> None:
    """A test names only what it cares about, and the payload says the same as the event."""
    event = make_event(user_id=None, changes=(make_change(object_id="x"),))
    assert event.action == "create"
    assert event.payload["user_id"] is None
    assert event.payload["record_id"] == "x"
    assert event.changes[0].new is not None
