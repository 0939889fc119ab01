"""What a hook may look like, and what becomes of it: a rule and a message. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kinto_dispatch.budget import Budget
from kinto_dispatch.errors import BadHook, BadRoute, RenderError
from kinto_dispatch.event import Change, Event, Subscription
from kinto_dispatch.mailboxes import is_mailbox
from kinto_dispatch.render import Message, Renderer, one_line, sendable
from kinto_dispatch.route import Route
from kinto_dispatch.settings import RouteSettings
from kinto_dispatch.subscriptions import patterns, placeholders
from kinto_dispatch.subscriptions.legacy import CONTEXT, KNOWN, LegacyFilter, context_of
from kinto_dispatch.subscriptions.placeholders import BadTemplate, Placeholders
from kinto_dispatch.subscriptions.recipients import MOST_RECIPIENTS, group_of


OURS, EMAILER, SLACK = "kinto-dispatch", "kinto-emailer", "kinto-slack"
FORMATS = (OURS, EMAILER, SLACK)
"""The keys in the metadata, each with ``{"hooks": [...]}`` below it."""

STEPS = 100_000
"""What judging one change, and rendering one message, may cost: a tenth of what an operator's own
expressions and templates may, some 30 ms."""

Model = TypeVar("Model", bound=BaseModel)
Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Condition = Annotated[str, StringConstraints(max_length=1_000)]
Names = Annotated[list[Name], Field(max_length=50)]
Recipients = Annotated[list[Name], Field(max_length=MOST_RECIPIENTS)]


class Compiled(Protocol):
    """A hook that can be carried out."""

    splits: bool
    """Whether each change is a delivery of its own, even where the channel does not split."""

    def select(self, event: Event, account: Budget) -> tuple[Change, ...]:
        """The changes that it asks for. Raises ``RouteError`` or ``BadHook``, and ``OutOfBudget``
        when that costs more than there is in the ``account``."""

    def render(self, event: Event, subscription: Subscription) -> Message:
        """The message for these changes. Raises ``RenderError``."""


def compile_hook(format: str, hook: Mapping[str, Any]) -> Compiled:
    """Raises ``BadHook`` with everything that is wrong with it."""
    try:
        text = json.dumps([format, hook], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadHook([("", "it cannot be read")]) from error
    return _compiled(text)


@lru_cache(maxsize=256)
def _compiled(text: str) -> Compiled:
    format, hook = json.loads(text)
    return OwnHook(hook) if format == OURS else LegacyHook(hook, format)


# --- our own -----------------------------------------------------------------------------


class _Own(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    channel: Name
    events: Names = []
    actions: list[Literal["create", "update", "delete"]] = Field([], max_length=3)
    resources: Names = []
    uris: Names = []
    users: Names = []
    when: str | None = Field(None, max_length=2_000)
    subject: str | None = Field(None, max_length=1_000)
    template: str | None = Field(None, max_length=placeholders.LONGEST_TEMPLATE)
    recipients: Recipients = []


class OwnHook:
    """A hook in the words of the settings of a channel."""

    splits = False

    def __init__(self, hook: Mapping[str, Any]) -> None:
        own = _checked(_Own, hook)
        problems = list(_bad_recipients(own.recipients, placeholder=False))
        rule = RouteSettings(
            events=tuple(own.events),
            actions=tuple(own.actions),
            resources=tuple(own.resources),
            uris=tuple(own.uris),
            users=tuple(own.users),
            when=own.when,
        )
        try:
            self._route = Route(rule, steps=STEPS)
        except BadRoute as error:
            problems += [
                (one.setting, f"{one.found}; expected {one.expected}. {one.advice}".strip())
                for one in error.problems
            ]
        try:
            self._renderer = Renderer(own.subject, own.template, steps=STEPS)
            self._renderer.check()
        except RenderError as error:
            problems.append((error.template, error.reason))
        if problems:
            raise BadHook(problems)
        self._recipients = tuple(dict.fromkeys(own.recipients)) or None

    def select(self, event: Event, account: Budget) -> tuple[Change, ...]:
        """As ``Compiled.select``."""
        return self._route.select(event, account)

    def render(self, event: Event, subscription: Subscription) -> Message:
        """As ``Compiled.render``."""
        message = self._renderer.render(event)
        return replace(message, recipients=self._recipients)


# --- those of kinto-emailer and kinto-slack ----------------------------------------------


class _Legacy(BaseModel):
    """What the two have in common; other keys were ignored by them, and are here."""

    model_config = ConfigDict(strict=True, extra="ignore")

    event: Condition | None = None
    action: Condition | None = None
    resource_name: Condition | None = None
    id: Condition | None = None
    record_id: Condition | None = None
    collection_id: Condition | None = None
    template: str = Field(max_length=placeholders.LONGEST_TEMPLATE)


class _Emailer(_Legacy):
    subject: str = Field("New message", max_length=1_000)
    sender: Name | None = None
    recipients: Annotated[Recipients, Field(min_length=1)]


class _Slack(_Legacy):
    channel: Name | None = None


@dataclass(frozen=True, slots=True)
class _Texts:
    subject: Placeholders
    body: Placeholders
    recipients: Sequence[Placeholders]


class LegacyHook:
    """A hook of kinto-emailer or kinto-slack: a message for each object, plain text."""

    splits = True

    def __init__(self, hook: Mapping[str, Any], format: str) -> None:
        emailer = _checked(_Emailer, hook) if format == EMAILER else None
        legacy = emailer or _checked(_Slack, hook)
        problems: list[tuple[str, str]] = []
        # What kinto-slack does not know it leaves empty.
        known = KNOWN if emailer else None
        sources = (emailer.subject if emailer else "", legacy.template)
        subject, body = (
            _read(name, source, known, problems)
            for name, source in zip(("subject", "template"), sources, strict=True)
        )
        problems += _bad_recipients(emailer.recipients if emailer else (), placeholder=True)
        if emailer and emailer.sender and not is_mailbox(emailer.sender):
            problems.append(("sender", f"{emailer.sender!r} is no address"))
        self._filter = LegacyFilter(
            {name: value for name in CONTEXT if (value := getattr(legacy, name)) is not None}
        )
        for name, pattern in self._filter.conditions.items():
            try:
                patterns.check(pattern)
            except patterns.BadPattern as error:
                problems.append((name, str(error)))
        if problems:
            raise BadHook(problems)
        names = [] if emailer is None else list(dict.fromkeys(emailer.recipients))
        self._texts = _Texts(subject, body, [placeholders.read(one, None) for one in names])
        self._sender = emailer.sender if emailer else None

    @property
    def asks_for(self) -> frozenset[str]:
        """The names that its texts are filled with."""
        return self._texts.subject.names | self._texts.body.names

    def select(self, event: Event, account: Budget) -> tuple[Change, ...]:
        """As ``Compiled.select``."""
        try:
            return self._filter.select(event, account)
        except patterns.BadPattern as error:
            raise BadHook([("", str(error))]) from error

    def render(self, event: Event, subscription: Subscription) -> Message:
        """As ``Compiled.render``. ``sender`` becomes the address for answers: whoever may write a
        collection must not write mails in the name of others."""
        context = context_of(event, event.changes[0], subscription)
        named = self._texts.recipients
        filled = filter(_is_recipient, (one.fill(context) for one in named))
        return Message(
            one_line(self._texts.subject.fill(context)),
            sendable(self._texts.body.fill(context)),
            # Where nobody is left nobody is written to, rather than those of the channel.
            recipients=tuple(dict.fromkeys(filled)) if named else None,
            reply_to=self._sender,
            has_template=True,
        )


# --- what both need ----------------------------------------------------------------------


def _checked(model: type[Model], hook: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(hook)
    except ValidationError as error:
        problems = [
            (".".join(map(str, one["loc"])), f"{one['msg'][:1].lower()}{one['msg'][1:]}")
            for one in error.errors()
        ]
        raise BadHook(problems) from error


def _read(
    name: str, source: str, known: frozenset[str] | None, problems: list[tuple[str, str]]
) -> Placeholders:
    try:
        return placeholders.read(source, known)
    except BadTemplate as error:
        problems.append((name, str(error)))
        return Placeholders(())


def _bad_recipients(texts: Sequence[str], *, placeholder: bool) -> Iterator[tuple[str, str]]:
    for text in texts:
        plain = text
        if placeholder:
            try:
                plain = placeholders.read(text, KNOWN).fill(dict.fromkeys(KNOWN, "x"))
            except BadTemplate as error:
                yield "recipients", str(error)
                continue
        if not _is_recipient(plain):
            yield "recipients", f"{text!r} is neither an address nor /buckets/ID/groups/ID"


def _is_recipient(text: str) -> bool:
    return is_mailbox(text) or group_of(text) is not None
