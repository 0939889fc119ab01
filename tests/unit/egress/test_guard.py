"""What the guard lets through, decided on the address that is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from kinto_dispatch import EgressGuard
from kinto_dispatch.errors import EgressRefused, RedirectRefused
from kinto_dispatch.testing import LocalHttp


NOBODY = EgressGuard()
LOOPBACK = EgressGuard(allow_networks=["127.0.0.0/8", "::1/128"])


async def fetch(guard: EgressGuard, url: str, **options: Any) -> bytes:
    """The body of the answer to a request through the guard."""
    async with (
        asyncio.timeout(5),
        guard.session(url, **options) as session,
        session.get(url) as response,
    ):
        return await response.read()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[list[str]]]]:
    """The DNS of this test: for each name the answers, one after the other; the last one stays."""
    answers: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in answers:
            return real(host, port, *rest, **options)
        found = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


async def test_loopback_is_refused_and_the_error_says_what_to_set(http_sink: LocalHttp) -> None:
    """Nothing is sent, and the operator learns how to allow it."""
    with pytest.raises(EgressRefused, match=r"127\.0\.0\.1 is refused: loopback.*allow_hosts"):
        await fetch(NOBODY, http_sink.url)
    assert http_sink.requests == []


async def test_the_connector_alone_says_why_in_aiohttps_words(http_sink: LocalHttp) -> None:
    """For sessions that a plugin makes by itself."""
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession(connector=NOBODY.connector(http_sink.url)) as session,
    ):
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(http_sink.url)
    assert "is refused: loopback" in (caught.value.strerror or "")
    assert http_sink.requests == []


async def test_a_network_or_a_host_can_be_allowed(http_sink: LocalHttp) -> None:
    """What the operator names is let through, by address or by name."""
    by_name = f"http://localhost:{http_sink.port}/"
    assert await fetch(LOOPBACK, http_sink.url) == b"ok"
    assert await fetch(EgressGuard(["LOCALHOST"]), by_name) == b"ok"
    assert await fetch(LOOPBACK, by_name) == b"ok"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "[::1]",
        "[::1%25lo]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "1:2@127.0.0.1",
        "example.com@127.0.0.1",
        "１２７.０.０.１",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "0.0.0.0",
        "[::]",
    ],
)
async def test_no_spelling_of_loopback_gets_through(host: str, http_sink: LocalHttp) -> None:
    """Refused by the guard or as a URL; in no case does the server see a request (B1, B2)."""
    with pytest.raises((EgressRefused, aiohttp.ClientError, ValueError)):
        await fetch(NOBODY, f"http://{host}:{http_sink.port}/")
    assert http_sink.requests == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "user@10.0.0.1", "[::]"],
)
def test_a_refused_address_is_found_before_the_first_request(host: str) -> None:
    """An operator who writes one into the ini is told at the start (B1)."""
    with pytest.raises(ValueError, match=r"is refused: .*allow_networks"):
        NOBODY.check_url(f"https://{host}/hook")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "10.1"])
def test_an_address_in_an_odd_spelling_is_found_before_the_first_request(host: str) -> None:
    """Whether it would be allowed or not: programs read it in different ways (B2)."""
    with pytest.raises(ValueError, match=r"is an address; write it as (127|10)"):
        NOBODY.check_url(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    ["https://hooks.slack.com/services/x", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/"],
)
def test_names_and_addresses_of_the_internet_pass(url: str) -> None:
    """Names are judged once they are resolved."""
    NOBODY.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/services/x",
        "https://",
        "https:///x",
        "https://[",
        "https://x:99999/",
        "HTTPS:x",
        "file:///etc/passwd",
        "gopher://x/",
        "json://x/",
        "unix:///run/x.sock",
    ],
)
def test_only_urls_over_http_with_a_host_pass(url: str) -> None:
    """Everything else could not be dialled, or not through this door (B7)."""
    with pytest.raises(ValueError, match="a URL"):
        EgressGuard(["x"]).check_url(url)


def test_without_encryption_only_what_the_operator_names() -> None:
    """A secret in a URL does not travel openly by accident."""
    with pytest.raises(ValueError, match=r"^https, or http with allow_hosts = chat\.example$"):
        NOBODY.check_url("http://chat.example/hook/secret")
    EgressGuard(["chat.example"]).check_url("http://chat.example/hook/secret")
    LOOPBACK.check_url("http://127.0.0.1:8080/hook/secret")


def test_a_host_is_the_same_in_any_spelling_of_its_name() -> None:
    """Case and the dot of a full name make no difference."""
    EgressGuard(["hooks.internal"]).check_address("10.0.0.1", "Hooks.Internal.")


def test_what_is_no_address_is_refused() -> None:
    """Fail closed: only what was understood is dialled."""
    with pytest.raises(EgressRefused, match="not an address"):
        NOBODY.check_address("gibberish")


async def test_a_name_is_judged_by_what_it_resolves_to(
    http_sink: LocalHttp, resolve: dict[str, list[list[str]]]
) -> None:
    """A public name for a private address is refused, with both in the error (B3)."""
    resolve["hooks.example.com"] = [["127.0.0.1"]]
    with pytest.raises(EgressRefused, match=r"hooks\.example\.com \(127\.0\.0\.1\) is refused"):
        await fetch(NOBODY, f"http://hooks.example.com:{http_sink.port}/")
    assert http_sink.requests == []


async def test_of_several_addresses_only_the_allowed_are_dialled(
    http_sink: LocalHttp, resolve: dict[str, list[list[str]]]
) -> None:
    """A name with a private address among others never leads there (B3)."""
    resolve["hooks.example.com"] = [["169.254.169.254", "::1", "127.0.0.1"]]
    guard = EgressGuard(allow_networks=["127.0.0.0/8"])
    assert await fetch(guard, f"http://hooks.example.com:{http_sink.port}/") == b"ok"
    assert len(http_sink.requests) == 1


async def test_a_name_that_changes_its_mind_is_judged_again(
    http_sink: LocalHttp, resolve: dict[str, list[list[str]]]
) -> None:
    """Good at the first look and private at the next, it is refused when it is private (B4)."""
    resolve["hooks.example.com"] = [["127.0.0.1"], ["127.0.0.2"]]
    guard = EgressGuard(allow_networks=["127.0.0.1/32"])
    url = f"http://hooks.example.com:{http_sink.port}/"
    assert await fetch(guard, url) == b"ok"
    with pytest.raises(EgressRefused, match=r"127\.0\.0\.2"):
        await fetch(guard, url)
    assert http_sink.requests[0].headers["host"] == f"hooks.example.com:{http_sink.port}"
    assert len(http_sink.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int, http_sink: LocalHttp) -> None:
    """The second server is never visited (B5)."""
    with LocalHttp() as elsewhere:
        http_sink.answer(status, headers={"Location": f"{elsewhere.url}/secret"})
        with pytest.raises(RedirectRefused, match=str(status)):
            await fetch(LOOPBACK, http_sink.url)
        assert elsewhere.requests == []


async def test_of_an_answer_only_the_beginning_is_read(http_sink: LocalHttp) -> None:
    """A hundred megabytes cost no more than 64 kB, and the next answer is not mixed up with it
    (B9)."""
    http_sink.answer(body=b"x" * 100_000_000)
    url = http_sink.url
    async with asyncio.timeout(10), LOOPBACK.session(url) as session:
        async with session.get(url) as response:
            assert await response.read() == b"x" * 65_536
        http_sink.answer(body=b"next")
        async with session.get(url) as response:
            assert await response.text() == "next"


async def test_a_compressed_answer_is_left_as_it_is(http_sink: LocalHttp) -> None:
    """A bomb does not go off (B9)."""
    http_sink.answer(body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"})
    assert await fetch(LOOPBACK, http_sink.url) == b"\x1f\x8b not really"
    assert http_sink.requests[0].headers["accept-encoding"] == "identity"


async def test_an_answer_can_always_be_decoded(http_sink: LocalHttp) -> None:
    """Whatever it claims to be."""
    http_sink.answer(body=b"\xff\xfe", headers={"Content-Type": "text/plain; charset=nonsense"})
    url = http_sink.url
    async with (
        asyncio.timeout(5),
        LOOPBACK.session(url) as session,
        session.get(url) as response,
    ):
        assert await response.text() == "\ufffd\ufffd"


async def test_nothing_is_taken_from_the_environment(
    http_sink: LocalHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment would be a way around the guard (B6)."""
    with LocalHttp() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert await fetch(LOOPBACK, http_sink.url) == b"ok"
        assert proxy.requests == []


async def test_cookies_are_not_kept(http_sink: LocalHttp) -> None:
    """No delivery knows of another."""
    http_sink.answer(headers={"Set-Cookie": "a=b"})
    async with (
        asyncio.timeout(5),
        EgressGuard(["localhost"]).session("http://localhost") as session,
    ):
        for _ in range(2):
            async with session.get(f"http://localhost:{http_sink.port}/"):
                pass
    assert "cookie" not in http_sink.requests[1].headers
