"""The ini as operators write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinto_dispatch.errors import BadSettings
from kinto_dispatch.testing import make_channel


HOOK = "https://hooks.slack.com/services/T0/B0/canary-f00d"
BOT = {"token": "xoxb-canary-f00d", "conversation": "C1"}


@pytest.mark.parametrize(
    "options",
    [
        {"webhook_url": HOOK},
        BOT,
        {**BOT, "api_url": "https://slack-gov.com/api/"},
        {"webhook_url": "http://chat.internal/hooks/x", "allow_hosts": "chat.internal"},
        {"webhook_url": "http://10.1.2.3/hooks/x", "allow_networks": "192.168.0.0/16 10.0.0.0/8"},
        {"webhook_url": "https://[::1]/hooks/x", "allow_networks": "::1/128"},
    ],
)
def test_a_webhook_or_a_bot(options: dict[str, str]) -> None:
    """Either is enough; a private place has to be named."""
    assert make_channel("slack", options).status == "loaded"


@pytest.mark.parametrize(
    "options",
    [{}, {"webhook_url": HOOK, **BOT}, {"token": "xoxb-1"}, {"conversation": "C1"}],
)
def test_not_both_and_not_half(options: dict[str, str]) -> None:
    """What belongs together is said."""
    with pytest.raises(BadSettings, match="webhook_url, or token with conversation"):
        make_channel("slack", options)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://127.0.0.1/canary-f00d", "127.0.0.1 is refused: loopback.*allow_networks"),
        ("https://[::1]:1/canary-f00d", "::1 is refused: loopback"),
        ("https://169.254.169.254/canary-f00d", "link-local"),
        ("https://10.0.0.1/canary-f00d", "private.*set allow_hosts = 10.0.0.1"),
        ("https://2130706433/canary-f00d", "write it as 127.0.0.1"),
        ("http://hooks.slack.com/canary-f00d", "https, or http with allow_hosts"),
        ("file:///canary-f00d", "a URL with https"),
        ("canary-f00d", "a URL with https"),
    ],
)
@pytest.mark.parametrize("name", ["webhook_url", "api_url"])
def test_where_nobody_may_send_stops_the_start(name: str, url: str, expected: str) -> None:
    """With what to set if it is meant, and without the secret in it."""
    options = {"webhook_url": url} if name == "webhook_url" else {**BOT, "api_url": url}
    with pytest.raises(BadSettings, match=expected) as caught:
        make_channel("slack", options)
    assert f"channels.test.{name}: " in str(caught.value)
    if name == "webhook_url":
        assert "canary" not in str(caught.value)


def test_a_network_that_is_none_stops_the_start() -> None:
    """By the name of the setting."""
    with pytest.raises(BadSettings, match=r"allow_networks: .*10\.0\.0\.0/99"):
        make_channel("slack", {"webhook_url": HOOK, "allow_networks": "10.0.0.0/99"})


def test_the_secret_may_come_from_a_file(tmp_path: Path) -> None:
    """And a line end at its end does not belong to it."""
    (tmp_path / "hook").write_text(f"{HOOK}\n")
    channel = make_channel("slack", {"webhook_url_file": str(tmp_path / "hook")})
    assert channel.settings.webhook_url.get_secret_value() == HOOK
