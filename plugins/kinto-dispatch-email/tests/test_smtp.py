"""Every answer of a mail server has its outcome, and nobody gets a mail twice for it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kinto_dispatch import Delivered, Outcome, Rejected, Retry
from kinto_dispatch.errors import RenderError
from kinto_dispatch.event import Subscription
from kinto_dispatch.testing import (
    LocalSmtp,
    ScriptedServer,
    drip,
    make_channel,
    make_delivery,
    make_event,
)
from kinto_dispatch_email import PATIENT_ATTEMPTS


ALL = {"recipients": "a@x.org, b@x.org", "bcc": "c@x.org"}


def send(
    address: str, attempt: int = 1, timeout_seconds: float = 5.0, **options: str
) -> Outcome | None:
    """The outcome of one attempt in the worker."""
    settings = {"server": address, "from": "postmaster@localhost", "recipients": "a@x.org"}
    channel = make_channel("email", {**settings, **options})
    delivery = make_delivery(key="e:test", attempt=attempt, timeout_seconds=timeout_seconds)
    outcome: Outcome | None = channel.call_async(make_event(), delivery)
    return outcome


def test_the_mail_is_the_tutorials(smtp_server: LocalSmtp) -> None:
    """The same envelope, headers and text as the listener that Kinto's tutorial writes by hand."""
    outcome = send(smtp_server.address, recipients="kinto@yopmail.com")
    assert outcome == Delivered("250 OK queued")
    (received,) = smtp_server.messages
    assert (received.sender, received.recipients) == (
        "postmaster@localhost",
        ("kinto@yopmail.com",),
    )
    lines = received.content.decode("ascii").splitlines()
    assert {
        'Content-Type: text/plain; charset="us-ascii"',
        "MIME-Version: 1.0",
        "Content-Transfer-Encoding: 7bit",
        "Subject: record created",
        "From: postmaster@localhost",
        "To: kinto@yopmail.com",
    } <= set(lines)
    assert lines[-1] == (
        "User id: basicauth:fea1e21d339299506d89e60f048cefd5b424ea641ba48267c35a4ce921439fa4"
    )


def test_all_recipients_get_one_mail(smtp_server: LocalSmtp) -> None:
    """Also those whom the others do not see."""
    assert isinstance(send(smtp_server.address, **ALL), Delivered)
    (received,) = smtp_server.messages
    assert received.recipients == ("a@x.org", "b@x.org", "c@x.org")
    assert received.message["To"] == "a@x.org, b@x.org"
    assert "c@x.org" not in received.content.decode()


def test_a_repeat_can_be_recognised(smtp_server: LocalSmtp) -> None:
    """Every attempt of a delivery has the same Message-ID."""
    send(smtp_server.address, attempt=1)
    send(smtp_server.address, attempt=2)
    first, second = smtp_server.messages
    assert first.message["Message-ID"] == second.message["Message-ID"]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(("code", "fate"), [(550, Rejected), (552, Rejected), (451, Retry)])
def test_a_refusal_is_told_in_the_servers_words(
    smtp_server: LocalSmtp, stage: str, code: int, fate: type[Rejected | Retry]
) -> None:
    """5xx is for good, 4xx for now; the reason has code and text, wherever it came."""
    smtp_server.refuse(code, "5.7.1 not this one", stage=stage)
    outcome = send(smtp_server.address)
    assert isinstance(outcome, fate)
    assert smtp_server.address in outcome.reason
    assert f"{code} 5.7.1 not this one" in outcome.reason


def test_a_server_that_hangs_up_politely_is_tried_again(smtp_server: LocalSmtp) -> None:
    """421 comes at any time."""
    smtp_server.refuse(421, "closing", stage="MAIL")
    assert isinstance(send(smtp_server.address), Retry)


def test_who_is_refused_for_good_does_not_keep_it_from_the_others(smtp_server: LocalSmtp) -> None:
    """They get the mail at once, and the outcome names the refused."""
    smtp_server.refuse(550, "no such user", recipient="b@x.org")
    outcome = send(smtp_server.address, **ALL)
    assert outcome == Delivered("250 OK queued; refused: b@x.org (550 no such user)")
    assert smtp_server.messages[0].recipients == ("a@x.org", "c@x.org")


def test_who_is_refused_for_now_is_waited_for_a_while(smtp_server: LocalSmtp) -> None:
    """First nobody gets the mail, so that nobody gets it twice; then those who take it."""
    smtp_server.refuse(451, "greylisted", recipient="b@x.org")
    outcome = send(smtp_server.address, attempt=PATIENT_ATTEMPTS, **ALL)
    assert outcome == Retry(f"{smtp_server.address}: b@x.org (451 greylisted)")
    assert smtp_server.messages == []
    outcome = send(smtp_server.address, attempt=PATIENT_ATTEMPTS + 1, **ALL)
    assert outcome == Delivered("250 OK queued; refused: b@x.org (451 greylisted)")
    assert smtp_server.messages[0].recipients == ("a@x.org", "c@x.org")


def test_the_last_attempt_waits_for_nobody(smtp_server: LocalSmtp) -> None:
    """Where there are few, those who take the mail get it all the same."""
    smtp_server.refuse(451, "greylisted", recipient="b@x.org")
    options = {"server": smtp_server.address, "from": "k@x.org", **ALL}
    channel = make_channel("email", options, max_attempts=3)
    outcomes = [
        channel.call_async(make_event(), make_delivery(attempt=attempt)) for attempt in (1, 2, 3)
    ]
    assert [type(outcome) for outcome in outcomes] == [Retry, Retry, Delivered]
    assert [mail.recipients for mail in smtp_server.messages] == [("a@x.org", "c@x.org")]


def test_in_the_request_nobody_is_waited_for(smtp_server: LocalSmtp) -> None:
    """There is only one attempt."""
    smtp_server.refuse(451, "greylisted", recipient="b@x.org")
    options = {"server": smtp_server.address, "from": "k@x.org", **ALL}
    outcome = make_channel("email", options, mode="sync").call_sync(make_event())
    assert isinstance(outcome, Delivered)
    assert smtp_server.messages[0].recipients == ("a@x.org", "c@x.org")


def test_a_refusal_for_all_for_now_is_never_given_up(smtp_server: LocalSmtp) -> None:
    """Patience ends only where somebody gets the mail."""
    smtp_server.refuse(451, "greylisted")
    assert isinstance(send(smtp_server.address, attempt=14, **ALL), Retry)


def test_a_wrong_password_loses_no_mail() -> None:
    """It is not the mail that is refused: the operator has time to set it right."""
    with LocalSmtp(user="kinto", password="right") as server:
        outcome = send(server.address, username="kinto", password="wr0ng-password")
        assert isinstance(outcome, Retry)
        assert "535" in outcome.reason
        assert "wr0ng" not in outcome.reason
        assert isinstance(send(server.address, username="kinto", password="right"), Delivered)
        assert server.messages[0].user == "kinto"


# --- encryption ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that only who names it trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    return path


@pytest.fixture
def encrypted_server(certificate: Path) -> Iterator[LocalSmtp]:
    """A server that offers STARTTLS and wants a password."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with LocalSmtp(password="right", tls_context=context) as server:
        yield server


def test_with_tls_everything_is_encrypted(
    encrypted_server: LocalSmtp, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Password and mail, with a server whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    outcome = send(encrypted_server.address, tls="true", username="kinto", password="right")
    assert isinstance(outcome, Delivered), outcome
    (received,) = encrypted_server.messages
    assert received.encrypted
    assert received.user == "kinto"


def test_with_tls_an_unknown_certificate_gets_nothing(encrypted_server: LocalSmtp) -> None:
    """Whoever pretends to be the server learns neither password nor mail."""
    outcome = send(encrypted_server.address, tls="true", username="kinto", password="right")
    assert isinstance(outcome, Retry)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.reason
    assert encrypted_server.messages == []


@pytest.mark.parametrize("tls", ["true", "implicit"])
def test_with_tls_the_certificate_of_another_server_gets_nothing(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    """However trusted: anybody can have one for a name of their own. This is for 127.0.0.1."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard = bytearray()

    def talk(connection: socket.socket) -> None:
        if tls == "true":
            connection.sendall(b"220 here\r\n")
            connection.recv(1000)
            connection.sendall(b"250-here\r\n250 STARTTLS\r\n")
            connection.recv(1000)
            connection.sendall(b"220 go\r\n")
        with contextlib.suppress(OSError):
            encrypted = context.wrap_socket(connection, server_side=True)
            encrypted.sendall(b"220 here\r\n" if tls == "implicit" else b"")
            heard.extend(encrypted.recv(1000))

    with ScriptedServer(talk) as server:
        port = server.address.rpartition(":")[2]
        outcome = send(f"localhost:{port}", tls=tls, username="kinto", password="right")
    assert isinstance(outcome, Retry)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.reason
    assert heard == b""


def test_with_tls_a_server_without_it_gets_nothing(smtp_server: LocalSmtp) -> None:
    """Somebody on the way could have taken the offer out."""
    outcome = send(smtp_server.address, tls="true")
    assert isinstance(outcome, Retry)
    assert "STARTTLS" in outcome.reason
    assert smtp_server.messages == []


def test_encryption_may_begin_at_once(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on port 465: the greeting is encrypted already."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            converse(encrypted, after_data=b"250 mine\r\n", at_quit=True)

    with ScriptedServer(talk) as server:
        assert send(server.address, tls="implicit") == Delivered("250 mine")


def test_what_is_not_encrypted_gets_nothing_if_it_should_be(smtp_server: LocalSmtp) -> None:
    """A server that begins in the clear is not talked to."""
    outcome = send(smtp_server.address, tls="implicit")
    assert isinstance(outcome, Retry)
    assert "SSL" in outcome.reason
    assert smtp_server.messages == []


# --- servers that misbehave ----------------------------------------------------------------


def drip_after(answers: list[bytes]) -> Callable[[socket.socket], None]:
    """Some answers, then drops."""

    def talk(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for answer in answers:
                connection.sendall(answer)
                lines.readline()
        drip(b"2")(connection)

    return talk


@pytest.mark.parametrize(
    ("talk", "tls"),
    [
        (drip(b"2"), "false"),
        (drip(b"2"), "implicit"),
        (drip_after([b"220 hi\r\n", b"250 hello\r\n"]), "false"),
        (drip_after([b"220 hi\r\n", b"250-hello\r\n250 STARTTLS\r\n", b"220 go\r\n"]), "true"),
    ],
)
def test_a_server_that_talks_slowly_does_not_outlast_the_deadline(
    talk: Callable[[socket.socket], None], tls: str
) -> None:
    """However often it says a little, be it before or in the encryption (B8)."""
    with ScriptedServer(talk) as server:
        started = time.monotonic()
        outcome = send(server.address, timeout_seconds=0.5, tls=tls)
        assert isinstance(outcome, Retry), outcome
        assert time.monotonic() - started < 30


def talk_without_end(connection: socket.socket) -> None:
    """A reply that never comes to its last line."""
    connection.sendall(b"220 hi\r\n")
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"250-more\r\n" * 1_000)


def test_a_reply_without_end_fills_no_memory() -> None:
    """64 kB of it are read, long before the deadline (B9)."""
    with ScriptedServer(talk_without_end) as server:
        outcome = send(server.address, timeout_seconds=60)
    assert isinstance(outcome, Retry)
    assert "a reply of more than 65,536 bytes" in outcome.reason


def converse(connection: socket.socket, *, after_data: bytes, at_quit: bool) -> None:
    """A server that takes a mail, answers ``after_data`` to it, and may fall silent then."""
    with connection.makefile("rb") as lines:
        connection.sendall(b"220 hi\r\n")
        in_data = False
        for line in lines:
            if in_data:
                if line == b".\r\n":
                    in_data = False
                    connection.sendall(after_data)
                    if not after_data:
                        return
            elif re.match(rb"(?i)data", line):
                in_data = True
                connection.sendall(b"354 go\r\n")
            elif not re.match(rb"(?i)quit", line) or at_quit:
                connection.sendall(b"250 ok\r\n")


def test_what_is_accepted_is_delivered_even_if_the_farewell_fails() -> None:
    """Or it would be sent twice."""
    with ScriptedServer(
        lambda it: converse(it, after_data=b"250 mine\r\n", at_quit=False)
    ) as server:
        assert send(server.address) == Delivered("250 mine")


def test_without_an_answer_to_the_mail_it_is_sent_again() -> None:
    """The server may have it or not; a mail with the same Message-ID is better than none."""
    with ScriptedServer(lambda it: converse(it, after_data=b"", at_quit=True)) as server:
        outcome = send(server.address)
        assert isinstance(outcome, Retry), outcome


@pytest.mark.parametrize("greeting", [b"554 no mail here\r\n", b"nonsense\r\n", b"\xff" * 9000])
def test_a_server_that_does_not_greet_is_tried_again(greeting: bytes) -> None:
    """No mail was refused."""
    with ScriptedServer(lambda it: it.sendall(greeting)) as server:
        outcome = send(server.address, timeout_seconds=2)
        assert isinstance(outcome, Retry), outcome
        assert outcome.reason.isprintable()


# --- recipients whom users name ------------------------------------------------------------


def named_by(smtp_server: LocalSmtp, **hook: object) -> Outcome | None:
    """The outcome of a delivery that a hook in metadata asks for."""
    subscription = Subscription(
        format="kinto-emailer",
        owner="/buckets/blog",
        channel="test",
        hook={"template": "{id}", **hook},
    )
    options = {
        "server": smtp_server.address,
        "from": "postmaster@localhost",
        "recipients": "a@x.org",
        "cc": "b@x.org",
        "bcc": "c@x.org",
        "reply_to": "help@x.org",
    }
    channel = make_channel("email", options, subscribable="true")
    event = make_event(subscriptions=(subscription,))
    outcome: Outcome | None = channel.call_async(event, make_delivery())
    return outcome


def test_whom_a_hook_names_gets_the_mail_and_nobody_else(smtp_server: LocalSmtp) -> None:
    """From the channel's sender, whoever the hook says it is from: that one gets the answers."""
    names = {"sender": "Joe <joe@x.org>", "recipients": ["d@x.org", '"E, F" <e@x.org>']}
    assert isinstance(named_by(smtp_server, **names), Delivered)
    (received,) = smtp_server.messages
    assert received.sender == "postmaster@localhost"
    assert received.recipients == ("d@x.org", "e@x.org")
    assert received.message["From"] == "postmaster@localhost"
    assert received.message["Reply-To"] == "Joe <joe@x.org>"
    assert received.message["Cc"] is None


def test_a_hook_without_a_sender_has_the_channels_address_for_answers(
    smtp_server: LocalSmtp,
) -> None:
    """As the operator set it."""
    assert isinstance(named_by(smtp_server, recipients=["d@x.org"]), Delivered)
    assert smtp_server.messages[0].message["Reply-To"] == "help@x.org"


@pytest.mark.parametrize("address", ["a..b@x.org", ".d@x.org", "d@x.org\r\nBcc: e@x.org"])
def test_a_hook_names_addresses_as_strictly_as_the_ini(
    smtp_server: LocalSmtp, address: str
) -> None:
    """What is none is told before anything is sent (B15)."""
    with pytest.raises(RenderError, match="neither an address nor"):
        named_by(smtp_server, recipients=["d@x.org", address])
    assert smtp_server.messages == []
