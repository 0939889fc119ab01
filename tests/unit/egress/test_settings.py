"""The settings of a channel that sends over HTTP, as operators write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kinto_dispatch import GuardedSecretUrl, GuardedSettings, GuardedUrl, hookimpl
from kinto_dispatch.errors import BadSettings, EgressRefused
from kinto_dispatch.testing import make_channel


class PagerChannel:
    """A channel with an open and a secret URL."""

    class Settings(GuardedSettings):
        """In any order."""

        url: GuardedUrl
        hook: GuardedSecretUrl | None = None

    def __init__(self, settings: Settings) -> None:
        self.guard = settings.guard

    @hookimpl
    async def on_event_async(self) -> None:
        """Nothing."""


GOOD = {"url": "https://pager.example/in"}


def test_urls_are_checked_at_start() -> None:
    """The settings are those of the plugin, and a secret URL is not quoted."""
    assert make_channel(PagerChannel, GOOD).settings.url == GOOD["url"]
    for field in ("url", "hook"):
        with pytest.raises(BadSettings, match=rf"{field}.*10\.0\.0\.1 is refused") as caught:
            make_channel(PagerChannel, {**GOOD, field: "https://10.0.0.1/canary"})
        assert field == "url" or "canary" not in str(caught.value)


def test_the_operator_lets_through_what_is_private() -> None:
    """By host or network, wherever in the ini these stand; the guard knows them, too."""
    options = {"hook": "https://10.0.0.1/in", "allow_networks": "10.0.0.0/24 fd00::/8"}
    channel = make_channel(PagerChannel, {**options, **GOOD, "allow_hosts": "pager.internal"})
    guard = channel.settings.guard
    guard.check_address("10.0.0.2")
    guard.check_address("127.0.0.1", "pager.internal")
    with pytest.raises(EgressRefused):
        guard.check_address("10.0.1.1")


def test_a_secret_url_may_come_from_a_file_and_is_not_shown(tmp_path: Path) -> None:
    """As any other secret."""
    path = tmp_path / "hook"
    path.write_text("https://pager.example/canary\n")
    channel = make_channel(PagerChannel, {**GOOD, "hook_file": str(path)})
    assert channel.settings.hook.get_secret_value() == "https://pager.example/canary"
    assert "canary" not in repr(channel.settings)
    assert "canary" not in channel.redact("https://pager.example/canary")


def test_settings_do_not_change() -> None:
    """Once they are read."""
    channel = make_channel(PagerChannel, GOOD)
    with pytest.raises(ValidationError):
        channel.settings.url = "https://127.0.0.1/"
