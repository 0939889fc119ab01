"""What the guides on templates and Slack show is what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kinto_dispatch.event import Event
from kinto_dispatch.render import NAMES, Renderer
from kinto_dispatch.sandbox.filters import FILTERS
from kinto_dispatch_slack.blocks import blocks


GUIDES = Path(__file__).parents[2] / "docs/guides"
TEMPLATES = (GUIDES / "templates.md").read_text()

EXAMPLES = re.findall(r"^```jinja\n(.*?)^```\n\n```(text|html)\n(.*?)^```", TEMPLATES, re.M | re.S)


def example_event() -> Event:
    """The event that the guide is about."""
    (source,) = re.findall(r"^```json\n(.*?)^```", TEMPLATES, re.M | re.S)
    return Event.decode(source.encode())


def test_every_template_of_the_guide_is_an_example() -> None:
    """None stands there without what comes out."""
    assert len(EXAMPLES) == TEMPLATES.count("```jinja")


@pytest.mark.parametrize(("template", "kind", "expected"), EXAMPLES)
def test_templates_of_the_guide(template: str, kind: str, expected: str) -> None:
    """They pass the check at start, and print what stands below them."""
    renderer = Renderer(None, template)
    renderer.check()
    message = renderer.render(example_event())
    found = message.html if kind == "html" else message.text
    assert found is not None
    assert found.strip() == expected.strip()
    assert (message.html is not None) == (kind == "html")


def test_the_guide_names_every_filter_and_every_name() -> None:
    """Whatever can be written is said."""
    for name in (*FILTERS, *NAMES):
        assert f"`{name}`" in TEMPLATES, name


def test_the_message_of_the_guide_to_slack() -> None:
    """Word for word."""
    (source,) = re.findall(r"^```json\n(.*?)^```", (GUIDES / "slack.md").read_text(), re.M | re.S)
    event = example_event()
    assert json.loads(source) == blocks(Renderer(None, None).render(event).subject, event)
