"""The ini as operators write it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from kinto_dispatch.errors import BadSettings
from kinto_dispatch.testing import make_channel


def secret_of(count: int) -> str:
    """A secret of so many bytes."""
    return "whsec_" + base64.b64encode(b"s" * count).decode()


GOOD = {"url": "https://shop.example/hook", "secrets": secret_of(32)}


@pytest.mark.parametrize("count", [24, 25, 64])
def test_secrets_of_a_good_length(count: int) -> None:
    """From 24 to 64 bytes (B10)."""
    assert make_channel("webhook", {**GOOD, "secrets": secret_of(count)}).status == "loaded"


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        (secret_of(23), "secret 1 has 23; make one with"),
        (f"{secret_of(24)} {secret_of(65)}", "secret 2 has 65"),
        (secret_of(25).rstrip("="), "secret 1 is not base64"),
        ("whsec_" + "-_" * 20, "secret 1 is not base64"),
        ("hunter2" * 10, "secret 1 does not begin with whsec_"),
        ("", "secrets"),
        (" ".join([secret_of(24)] * 6), "at most 5 secrets"),
    ],
)
def test_other_secrets_stop_the_start(secrets: str, expected: str) -> None:
    """With what to do, and without the secret (B10, B11)."""
    with pytest.raises(BadSettings, match=expected) as caught:
        make_channel("webhook", {**GOOD, "secrets": secrets})
    assert not secrets or secrets not in str(caught.value)


def test_secrets_may_come_from_a_file(tmp_path: Path) -> None:
    """One in each line."""
    (tmp_path / "secrets").write_text(f"{secret_of(24)}\n{secret_of(32)}\n")
    options = {"url": GOOD["url"], "secrets_file": str(tmp_path / "secrets")}
    assert len(make_channel("webhook", options).settings.secrets) == 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://127.0.0.1/canary", "127.0.0.1 is refused: loopback.*allow_networks"),
        ("https://[::ffff:10.0.0.1]/canary", "is refused"),
        ("https://169.254.169.254/canary", "link-local"),
        ("https://2130706433/canary", "write it as 127.0.0.1"),
        ("https://0x7f.1/canary", "write it as 127.0.0.1"),
        ("http://shop.example/canary", "https, or http with allow_hosts"),
        ("file:///canary", "a URL with https"),
    ],
)
def test_where_nobody_may_send_stops_the_start(url: str, expected: str) -> None:
    """Addresses, odd spellings and schemes (B1, B2, B7)."""
    with pytest.raises(BadSettings, match=expected) as caught:
        make_channel("webhook", {**GOOD, "url": url})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "1\r\nX-B: 2"},
        {"X-A\r\nX-B": "1"},
        {"X-A": "1\n"},
        {"X-A": "\x00"},
        {"X-A": "ü"},
        {"X-A": ""},
        {"X A": "1"},
        {"": "1"},
        {"Host": "evil.example"},
        {"content-length": "1"},
        {"Content-Type": "text/plain"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Proxy-Authorization": "x"},
        {"TE": "trailers"},
        {"Upgrade": "h2c"},
        {"Webhook-Id": "1"},
        {"webhook-signature": "v1,x"},
        {"X-A": "1", "x-a": "2"},
    ],
)
def test_headers_of_the_request_itself_stop_the_start(headers: dict[str, str]) -> None:
    """And values of more than one line (B12)."""
    with pytest.raises(BadSettings, match="headers"):
        make_channel("webhook", {**GOOD, "headers": json.dumps(headers)})


def test_the_wrong_header_is_named_and_none_is_quoted() -> None:
    """What they are called is no secret, what they say is."""
    headers = {"Authorization": "Bearer s3cr3t-value", "Transfer-Encoding": "chunked-s3cr3t"}
    with pytest.raises(BadSettings, match="leave out Transfer-Encoding") as caught:
        make_channel("webhook", {**GOOD, "headers": json.dumps(headers)})
    assert "s3cr3t" not in str(caught.value)


def test_one_authorization_is_enough() -> None:
    """The one in the URL, or the one in a header (B12)."""
    options = {**GOOD, "url": "https://me:pass-word@shop.example/"}
    with pytest.raises(BadSettings, match="no Authorization where the url"):
        make_channel("webhook", {**options, "headers": '{"authorization": "Bearer x"}'})
