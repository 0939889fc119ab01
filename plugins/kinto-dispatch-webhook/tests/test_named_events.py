"""Events of other plugins of Kinto, as requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kinto_dispatch.testing import make_event
from kinto_dispatch_webhook.message import Format, Payload, body


NAME = "some_plugin.ReviewRequested"


def sent(payload: Payload, format: Format) -> dict[str, Any]:
    event = make_event(name=NAME, payload={"comment": "please"})
    message: dict[str, Any] = json.loads(body(event, "key", payload, format))
    return message


@pytest.mark.parametrize("format", ["cloudevents", "plain"])
def test_an_event_of_another_plugin_has_its_name(format: Format) -> None:
    """As its type, where a change has what changed; what it says is for those who get all."""
    thin, full = sent("thin", format), sent("full", format)
    assert thin["type"] == full["type"] == NAME
    assert "payload" not in thin["data"]
    assert full["data"]["payload"] == {"comment": "please"}
    change = json.loads(body(make_event(), "key", "full", format))
    assert change["type"].endswith("record.create")
    assert "payload" not in change["data"]
