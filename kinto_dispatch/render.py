"""Templates become messages, in a bounded sandbox. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kinto_dispatch.errors import RenderError
from kinto_dispatch.event import Event


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads. ``html`` is ``None`` where the template is plain text."""

    subject: str
    text: str
    html: str | None = None


class Renderer:
    """Renders messages from the two templates of a channel; ``None`` means the default."""

    def __init__(self, subject: str | None, template: str | None) -> None:
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        environment.filters["past"] = lambda word: word if word == "read" else word + "d"
        try:
            self._subject = environment.from_string(
                subject or "{{ resource_name }} {{ action|past }}"
            )
            self._text = environment.from_string(template or "User id: {{ user_id }}")
        except TemplateError as error:
            raise RenderError("template", str(error)) from error

    def render(self, event: Event) -> Message:
        """The message for ``event``. Raises ``RenderError``."""
        values: dict[str, Any] = msgspec.structs.asdict(event)
        values["change"] = event.changes[0] if event.changes else None
        try:
            subject = " ".join(self._subject.render(values).split())
            return Message(subject, self._text.render(values))
        except Exception as error:
            raise RenderError("template", str(error)) from error
