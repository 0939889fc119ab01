"""Receivers, and the names that lead to them, that want more than a webhook."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from kinto_dispatch import Channel, Outcome, Rejected, Retry
from kinto_dispatch.testing import LocalHttp, make_channel, make_delivery, make_event


SECRET = "whsec_" + b64encode(b"shop" * 8).decode()
NAME = "hooks.example.com"


def webhook(url: str, allow_networks: str = "127.0.0.0/8") -> Channel:
    """A channel that posts there."""
    return make_channel(
        "webhook", {"url": url, "secrets": SECRET, "allow_networks": allow_networks}
    )


async def attempt(channel: Channel) -> Outcome:
    """The outcome of one attempt, on connections of its own."""
    try:
        async with asyncio.timeout(60):
            outcome: Outcome = await channel.call_async(
                make_event(), make_delivery(timeout_seconds=30.0)
            )
        return outcome
    finally:
        await channel.close()


# --- names ---------------------------------------------------------------------------------------


class Listener:
    """Whoever connects to this address is written down, with the first that they say."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.said: list[bytes] = []
        self._listening = socket.create_server((address, port))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    self.said.append(connection.recv(65_536))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def public() -> Iterator[Listener]:
    """An address that stands for one on the Internet: the operator's settings let it through."""
    with contextlib.closing(Listener("127.0.0.1")) as listener:
        yield listener


@pytest.fixture
def private(public: Listener) -> Iterator[Listener]:
    """One on the same port that nobody may send to."""
    with contextlib.closing(Listener("127.0.0.2", public.port)) as listener:
        yield listener


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What DNS says of ``NAME``, one answer for each time that it is asked; no more are there."""
    answers: list[list[str]] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, port, *rest, **options)
        if not answers[0]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [(socket.AF_INET, kind, protocol, "", (one, port)) for one in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


async def test_b4_a_name_that_leads_elsewhere_at_the_next_look(
    public: Listener, private: Listener, lookups: list[list[str]]
) -> None:
    """What was checked is dialled, without a second look; at the next attempt the name is judged
    anew. TLS is told the name and not the address (B4)."""
    channel = webhook(f"https://{NAME}:{public.port}/hook", "127.0.0.1/32")
    lookups += [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1"]]
    first = await attempt(channel)
    assert len(lookups) == 2
    assert isinstance(first, Retry)  # the listener knows no TLS
    refused = await attempt(channel)
    assert isinstance(refused, Rejected)
    assert f"{NAME} (127.0.0.2) is refused: loopback" in refused.reason
    assert isinstance(await attempt(channel), Retry)
    assert private.said == []
    assert len(public.said) == 2
    assert all(NAME.encode() in hello for hello in public.said)


async def test_b3_of_several_addresses_only_those_that_may_be_are_dialled(
    public: Listener, private: Listener, lookups: list[list[str]]
) -> None:
    """Also where the one that may not be comes first, and the other does not answer well (B3)."""
    channel = webhook(f"https://{NAME}:{public.port}/hook", "127.0.0.1/32")
    lookups += [["127.0.0.2", "127.0.0.1"]]
    assert isinstance(await attempt(channel), Retry)
    assert (len(public.said), private.said) == (1, [])


async def test_a_name_that_is_unknown_for_now(lookups: list[list[str]]) -> None:
    """Is no reason to give up."""
    lookups += [[]]
    outcome = await attempt(webhook(f"https://{NAME}/hook"))
    assert isinstance(outcome, Retry)
    assert outcome.reason.startswith(f"cannot connect to {NAME}: ")


# --- answers -------------------------------------------------------------------------------------


async def memory_for(url: str) -> tuple[Outcome, int]:
    """The outcome of an attempt, and how many bytes more than before were ever held for it."""
    channel = webhook(url)
    await attempt(channel)  # what is loaded and cached once
    tracemalloc.start()
    try:
        outcome = await attempt(channel)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return outcome, peak


@pytest.mark.parametrize("status", [200, 500])
async def test_b9_a_hundred_megabytes_are_not_held(http_sink: LocalHttp, status: int) -> None:
    """64 kB of them are read, and what the network brings at a time (B9)."""
    http_sink.answer(status, b"x" * 100_000_000)
    outcome, peak = await memory_for(http_sink.url)
    assert repr(outcome).count("x" * 200) == 1
    assert peak < 5_000_000


async def test_b9_a_bomb_is_not_unpacked(http_sink: LocalHttp) -> None:
    """A hundred megabytes in a hundred kilobytes stay what they are, though they were not asked
    for, and nothing of them is shown (B9)."""
    packing = zlib.compressobj(wbits=31)
    bomb = b"".join(packing.compress(b"x" * 1_000_000) for _ in range(100)) + packing.flush()
    http_sink.answer(500, bomb, {"Content-Encoding": "gzip"})
    outcome, peak = await memory_for(http_sink.url)
    assert outcome == Retry("500")
    assert peak < 5_000_000
    assert http_sink.requests[0].headers["accept-encoding"] == "identity"


async def test_b9_an_answer_without_end() -> None:
    """Chunk after chunk, faster than anybody reads: its beginning is enough (B9)."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
        writer.close()
        left.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await attempt(webhook(f"http://127.0.0.1:{port}/hook"))
        await asyncio.wait_for(left.wait(), 30)
    assert repr(outcome).count("x" * 200) == 1
