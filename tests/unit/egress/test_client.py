"""What a plugin posts with: one answer or a reason, in time, and nothing of the URL in it."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from kinto_dispatch import EgressGuard, HttpAnswer, HttpClient, Rejected, Retry
from kinto_dispatch.testing import LocalHttp


LOOPBACK = EgressGuard(allow_networks=["127.0.0.0/8"])


@asynccontextmanager
async def opened(client: HttpClient) -> AsyncIterator[HttpClient]:
    """A client that is closed in the end."""
    try:
        async with asyncio.timeout(30):
            yield client
    finally:
        await client.close()


@contextmanager
def raw(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """The URL of a server that treats its one client as ``serve`` does, once it has sent."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)
                serve(connection, over)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/canary"
        finally:
            over.set()
            thread.join()


async def test_what_is_posted_and_what_is_answered(http_sink: LocalHttp) -> None:
    """The very bytes, the headers of the client and of the request; status, headers and text."""
    http_sink.answer(201, b"made", {"X-Id": "7"})
    made = HttpClient(LOOPBACK, f"{http_sink.url}/a?b=c", {"X-A": "1", "user-agent": "me/1"})
    async with opened(made) as client:
        answer = await client.post(b"\x00{}", {"X-B": "2"}, seconds=20)
    assert isinstance(answer, HttpAnswer)
    assert (answer.status, answer.headers["x-id"], answer.text) == (201, "7", "made")
    (request,) = http_sink.requests
    assert (request.method, request.path, request.body) == ("POST", "/a?b=c", b"\x00{}")
    sent = [request.headers[name] for name in ("x-a", "x-b", "user-agent", "accept-encoding")]
    assert sent == ["1", "2", "me/1", "identity"]


async def test_a_header_in_two_spellings_is_sent_once() -> None:
    """What the operator sets takes the place of what would be there anyway."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        headers = {"User-Agent": "plugin", "user-agent": "me/1"}
        async with opened(HttpClient(LOOPBACK, url, headers)) as client:
            await client.post(b"", seconds=20)
    assert seen.lower().count(b"user-agent:") == 1
    assert b"me/1" in seen


async def test_connections_are_kept() -> None:
    """A second request goes where the first went."""
    connected = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        while await reader.read(65_536):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with opened(HttpClient(LOOPBACK, url)) as client:
            for _ in range(3):
                assert isinstance(await client.post(b"", seconds=20), HttpAnswer)
    assert connected == 1


def test_each_event_loop_has_connections_of_its_own(http_sink: LocalHttp) -> None:
    """One client serves several loops, one after the other or at a time."""
    client = HttpClient(LOOPBACK, http_sink.url)

    async def post() -> int:
        async with opened(client):
            answer = await client.post(b"", seconds=20)
        assert isinstance(answer, HttpAnswer)
        return answer.status

    assert [asyncio.run(post()), asyncio.run(post())] == [200, 200]


async def test_a_client_that_never_posted_can_be_closed(http_sink: LocalHttp) -> None:
    """And one that was closed posts again."""
    client = HttpClient(LOOPBACK, http_sink.url)
    await client.close()
    async with opened(client):
        assert isinstance(await client.post(b"", seconds=20), HttpAnswer)
        await client.close()
        assert isinstance(await client.post(b"", seconds=20), HttpAnswer)


async def test_a_refused_address_is_rejected(http_sink: LocalHttp) -> None:
    """With what to set; nothing is sent (B6)."""
    async with opened(HttpClient(EgressGuard(), f"{http_sink.url}/canary")) as client:
        outcome = await client.post(b"", seconds=20)
    assert isinstance(outcome, Rejected)
    assert "allow_hosts = 127.0.0.1" in outcome.reason
    assert http_sink.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_rejected(http_sink: LocalHttp, status: int) -> None:
    """The second server is never visited (B5)."""
    with LocalHttp() as elsewhere:
        http_sink.answer(status, headers={"Location": f"{elsewhere.url}/"})
        async with opened(HttpClient(LOOPBACK, http_sink.url)) as client:
            outcome = await client.post(b"", seconds=20)
        assert isinstance(outcome, Rejected)
        assert f"answered {status}, a redirect" in outcome.reason
        assert elsewhere.requests == []


async def test_nobody_at_the_address_is_no_reason_to_give_up() -> None:
    """What failed is told, with the host and without the path."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    async with opened(HttpClient(LOOPBACK, f"http://127.0.0.1:{port}/canary")) as client:
        outcome = await client.post(b"", seconds=20)
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith("cannot connect to 127.0.0.1: ")
    assert "canary" not in outcome.reason


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 2", b"hello?\r\n\r\n"])
async def test_an_answer_that_is_none_is_no_reason_to_give_up(said: bytes) -> None:
    """Whatever breaks off is told without the URL."""
    with raw(lambda connection, _: connection.sendall(said)) as url:
        async with opened(HttpClient(LOOPBACK, url)) as client:
            outcome = await client.post(b"", seconds=20)
    assert isinstance(outcome, Retry)
    assert "canary" not in outcome.reason


async def test_the_deadline_holds_without_an_answer() -> None:
    """And is part of the reason (B8)."""
    with raw(lambda _, over: over.wait(30) and None) as url:
        async with opened(HttpClient(LOOPBACK, url)) as client:
            assert await client.post(b"", seconds=0.2) == Retry("no answer within 0.2 s")


def half_an_answer(connection: socket.socket, over: threading.Event) -> None:
    """A status, and a text that does not end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    over.wait(100)


@pytest.mark.parametrize(("seconds", "text_seconds"), [(0.5, math.inf), (100.0, 0.2)])
async def test_a_status_is_an_answer_without_its_text(seconds: float, text_seconds: float) -> None:
    """After the deadline, or the time that the text may take; the caller sees that it is
    missing (B8)."""
    with raw(half_an_answer) as url:
        async with opened(HttpClient(LOOPBACK, url, text_seconds=text_seconds)) as client:
            answer = await client.post(b"", seconds=seconds)
    assert isinstance(answer, HttpAnswer)
    assert (answer.status, answer.text) == (200, None)


async def test_of_a_text_64_kb_are_read(http_sink: LocalHttp) -> None:
    """And the next answer is not mixed up with the rest (B9)."""
    http_sink.answer(body=b"x" * 10_000_000)
    async with opened(HttpClient(LOOPBACK, http_sink.url)) as client:
        answer = await client.post(b"", seconds=20)
        assert isinstance(answer, HttpAnswer)
        assert answer.text == "x" * 65_536
        http_sink.answer(body=b"next")
        answer = await client.post(b"", seconds=20)
        assert isinstance(answer, HttpAnswer)
        assert answer.text == "next"


async def test_what_is_compressed_is_not_read(http_sink: LocalHttp) -> None:
    """It was not asked for, and may be a bomb (B9)."""
    http_sink.answer(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    async with opened(HttpClient(LOOPBACK, http_sink.url)) as client:
        answer = await client.post(b"", seconds=20)
    assert isinstance(answer, HttpAnswer)
    assert answer.text is None
