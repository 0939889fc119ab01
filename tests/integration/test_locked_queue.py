"""A queue server that lets in whom it should, and no further. Real processes and sockets."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kinto_dispatch.errors import QueueUnavailable
from kinto_dispatch.queue.streams import StreamsQueue
from kinto_dispatch.queue.values import Entry, Later, Settlement
from kinto_dispatch.testing import LocalValkey
from kinto_dispatch.testing.waiting import eventually


if TYPE_CHECKING:
    from tests.conftest import Deploy

PASSWORD = "s3cr3t"
RIGHTS = ["~kinto-dispatch:*", "-@all", "+@read", "+@write", "+@scripting", "+@connection"]
RIGHTS += ["+time", "+info", "+config|get"]
"""All that Kinto and a worker need."""


@pytest.fixture
def fenced_valkey(tmp_path: Path) -> Iterator[LocalValkey]:
    """A server with a user who has as few rights as can be."""
    (tmp_path / "valkey").mkdir()
    with LocalValkey(tmp_path / "valkey") as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "kd", "on", f">{PASSWORD}", *RIGHTS)
            client.set("somebody-elses", "secret")
        yield server


def test_few_rights_are_enough(deploy: Deploy, fenced_valkey: LocalValkey) -> None:
    """Those to the keys with the own prefix: nobody else's are read or written, and the server is
    not changed (B30)."""
    url = fenced_valkey.url.replace("unix://", f"unix://kd:{PASSWORD}@")
    deployment = deploy({"ops": {}, "sums": {"digest_seconds": "0.1"}}, queue_url=url)
    with deployment.kinto, deployment.worker() as worker:
        deployment.make_collections()
        deployment.put("r", title="x").raise_for_status()
        deployment.await_delivered(["r"], seconds=30)
        deployment.await_delivered(["r"], "sums", seconds=30)
        deployment.put("s", do="reject").raise_for_status()
        eventually(deployment.dead_letters, "the dead letter", 60)
        assert deployment.request("GET", "/__heartbeat__").status_code == 200
        assert worker.stop() == 0
        assert "NOPERM" not in worker.said + deployment.kinto.log_file.read_text()
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.get("somebody-elses")


async def test_a_right_that_is_missing_is_told(fenced_valkey: LocalValkey) -> None:
    """Also one that only a script needs: it is no bug, and the operator can allow it (B30)."""
    with redis.Redis.from_url(fenced_valkey.url) as client:
        client.execute_command("ACL", "SETUSER", "kd", "-time")
    url = fenced_valkey.url.replace("unix://", f"unix://kd:{PASSWORD}@")
    queue = StreamsQueue(lambda: url, "kinto-dispatch", ("ops",), 2.0)
    try:
        await queue.enqueue("ops", [Entry("e:ops", b"{}")])
        (claim,) = await queue.fetch("ops", "worker", 1, 1.0)
        with pytest.raises(QueueUnavailable, match="its ACL forbids a command that is needed"):
            await queue.settle("ops", [Settlement(claim, Later(1.0, 2), b"")])
    finally:
        await queue.close()


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that speaks TLS if it has a context; the URL of a queue that should speak it.

    What it was told in clear text, or after a greeting that was taken, stands in ``heard``.
    """

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):
                connection.settimeout(30)
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                heard.append(connection.recv(65_536))
                connection.sendall(b"-ERR what?\r\n")
            connection.close()

    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"rediss://kd:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)
    assert not any(PASSWORD.encode() in one for one in heard)


@pytest.fixture
def unknown(tmp_path: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - hour).not_valid_after(now + hour)
    made = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False).sign(
        key, hashes.SHA256()
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def refusal(url: str) -> str:
    """What is said of a server."""
    queue = StreamsQueue(lambda: url, "kinto-dispatch", ("ops",), 2.0)
    with pytest.raises(QueueUnavailable) as refused:
        await queue.register(["ops"])
    await queue.close()
    return str(refused.value)


async def test_a_server_that_does_not_speak_tls_gets_nothing() -> None:
    """Somebody on the way could be it: no password is sent, and none is in what is said
    (B30)."""
    with listening() as url:
        said = await refusal(url)
    assert "rediss://127.0.0.1" in said
    assert PASSWORD not in said


async def test_a_server_with_an_unknown_certificate_gets_nothing(unknown: ssl.SSLContext) -> None:
    """Nor does one that says it is another (B30)."""
    with listening(unknown) as url:
        said = await refusal(url)
    assert "rediss://127.0.0.1" in said
    assert PASSWORD not in said
