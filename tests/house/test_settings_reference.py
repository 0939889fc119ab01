"""The settings reference names every setting, with the default that holds."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from kinto_dispatch.settings.values import (
    ALIAS_NAMES,
    CHANNEL_NAMES,
    ChannelSettings,
    DispatchSettings,
)
from kinto_dispatch_apprise import AppriseSettings
from kinto_dispatch_email import EmailSettings
from kinto_dispatch_redis import RedisSettings
from kinto_dispatch_slack import SlackSettings
from kinto_dispatch_webhook import WebhookSettings


REFERENCE = (Path(__file__).parents[2] / "docs/reference/settings.md").read_text()


def section(title: str) -> dict[str, str]:
    """The settings in the table under this heading, each with its default as written."""
    body = REFERENCE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", body, re.M))


def test_listener_settings() -> None:
    """Everything that stands at a listener is in the reference, and nothing else."""
    assert set(section("At the listener")) == set(ALIAS_NAMES)


def test_channel_settings() -> None:
    """Everything that stands at a channel is in the reference, and nothing else."""
    assert set(section("At a channel")) == set(CHANNEL_NAMES)


@pytest.mark.parametrize(
    ("title", "values"),
    [("At the listener", DispatchSettings), ("At a channel", ChannelSettings)],
)
def test_defaults(title: str, values: type) -> None:
    """A default that is written as a number or a word is the one in force."""
    written = section(title)
    for field in dataclasses.fields(values):
        if field.name in written and field.default not in (dataclasses.MISSING, None):
            default = field.default
            text = f"{default:g}" if isinstance(default, float) else str(default).lower()
            shown = {text, f"{default:.0f}"} if isinstance(default, float) else {text}
            assert written[field.name].strip("`") in shown, field.name


@pytest.mark.parametrize(
    ("plugin", "model"),
    [
        ("apprise", AppriseSettings),
        ("email", EmailSettings),
        ("redis", RedisSettings),
        ("slack", SlackSettings),
        ("webhook", WebhookSettings),
    ],
)
def test_plugin_settings(plugin: str, model: type[BaseModel]) -> None:
    """Every setting of a plugin is in the reference, with what it does in the plugin's words."""
    written = section(f"kinto-dispatch-{plugin}")
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert set(written) == set(fields)
    for field in fields.values():
        assert field.description
        assert field.description in REFERENCE
