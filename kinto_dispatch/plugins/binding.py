"""A channel's options, as text, become an instance of its plugin's ``Settings``.

What pydantic finds wrong is told by the names that the operator typed, without secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from kinto_dispatch.errors import BadSettings, Problem
from kinto_dispatch.plugins.options import Option, options_of
from kinto_dispatch.plugins.redaction import Redactor
from kinto_dispatch.settings import ChannelSettings
from kinto_dispatch.settings.channels import Alias, bases, channel_base, is_single
from kinto_dispatch.settings.intake import shown, unknown
from kinto_dispatch.settings.parsers import Unfit
from kinto_dispatch.settings.text import SettingsText, Typed
from kinto_dispatch.settings.values import ALIAS_NAMES, CHANNEL_NAMES


def check_names(
    channel: ChannelSettings, text: SettingsText, declared: Sequence[Option]
) -> Iterator[Problem]:
    """Everything under the channel that is neither the core's nor the plugin's."""
    base = channel_base(channel)
    core = (*CHANNEL_NAMES, *ALIAS_NAMES) if is_single(channel) else CHANNEL_NAMES
    own = {name for option in declared for name in option.typed_names}
    known = own | {*core}
    typed = [(text.name(base + rest), rest) for rest in text.under(base) if rest not in known]
    for name, rest in (*typed, *text.unknown_variables(base, known, bases(text))):
        if rest in ALIAS_NAMES:
            advice = f"Write it as {text.style(Alias(channel.alias).base + rest)}."
            yield Problem(name, "a setting of the listener", "it there", advice)
        else:
            yield unknown(name, rest, own, core)


@dataclass(frozen=True, slots=True)
class Options:
    """What was typed for one channel's plugin, matched with what the plugin declares.

    ``given`` maps the spelling that was used to the option and its text. ``unread`` are the fields
    that were typed in a way that ``problems`` tells of. ``redact`` knows what is secret.
    """

    base: str
    text: SettingsText
    given: Mapping[str, tuple[Option, Typed]]
    unread: Collection[str]
    problems: Sequence[Problem]
    redact: Redactor


def gather(channel: ChannelSettings, text: SettingsText, declared: Sequence[Option]) -> Options:
    """Every option that has a text, in the ini, the environment or a file named there."""
    base = channel_base(channel)
    given: dict[str, tuple[Option, Typed]] = {}
    unread: set[str] = set()
    problems: list[Problem] = []
    for option in declared:
        found, wrong = _find(option, base, text)
        given.update(found)
        problems += wrong
        unread |= {option.field} if wrong else set()
    known = {name for option in declared for name in option.names}
    secrets = [typed.text for option, typed in given.values() if option.is_secret]
    # What has a name that nobody knows may be a password with a slip of the finger in its name.
    secrets += [value for name, value in channel.options.items() if name not in known]
    return Options(base, text, given, unread, problems, Redactor(secrets))


def _find(
    option: Option, base: str, text: SettingsText
) -> tuple[dict[str, tuple[Option, Typed]], list[Problem]]:
    """The option under the one spelling in which it is given, or what is wrong."""
    get = text.get_or_file if option.is_secret else text.get
    found: dict[str, tuple[Option, Typed]] = {}
    for name in option.names:
        try:
            typed = get(base + name)
        except Unfit as unfit:
            file = text.name(f"{base}{name}_file")
            return {}, [Problem(file, unfit.found, unfit.expected, unfit.advice)]
        if typed:
            found[name] = (option, typed)
    if len(found) > 1:
        first, *others = (typed.name for _, typed in found.values())
        return {}, [Problem(others[0], f"given as {first} too", "one of them")]
    return found, []


def build(model: type[BaseModel], options: Options) -> BaseModel:
    """The model with what was given; empty texts count as not given. Raises ``BadSettings``, and
    whatever a validator of the plugin raises besides the errors that pydantic expects of it."""
    raw: dict[str, Any] = {}
    problems: list[Problem] = []
    unread = set(options.unread)
    for name, (option, typed) in options.given.items():
        try:
            raw[name] = option.value(typed.text)
        except Unfit as unfit:
            found = unfit.found or _shown(option, typed)
            problems.append(Problem(typed.name, found, unfit.expected, unfit.advice))
            unread.add(option.field)
    try:
        built = model.model_validate(raw)
    except ValidationError as error:
        problems += _problems_of(error, model, options, unread)
    if problems or unread:
        raise BadSettings(problems)
    return built


def _problems_of(
    error: ValidationError, model: type[BaseModel], options: Options, unread: Collection[str]
) -> Iterator[Problem]:
    """What pydantic found, in the operator's words, but nothing that only comes of ``unread``."""
    declared = {name: one for one in options_of(model) for name in (*one.names, one.field)}
    given = {option.field: typed for option, typed in options.given.values()}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        option = declared.get(str(detail["loc"][0])) if detail["loc"] else None
        expected = options.redact(_expected(detail["type"], detail["msg"]))
        if option is None:
            if not unread:
                whole = options.text.style(options.base).rstrip(".")
                yield Problem(whole, "refused by the plugin", expected)
        elif option.field in given and option.field not in unread:
            typed = given[option.field]
            yield Problem(typed.name, _shown(option, typed), expected)
        elif option.field not in unread:
            name = options.text.name(options.base + option.names[0])
            yield Problem(name, "not set", option.description or "a value")


def _expected(kind: str, message: str) -> str:
    """What is allowed, out of pydantic's sentence."""
    message = message if message.endswith("..") else message.removesuffix(".")
    if kind in ("value_error", "assertion_error"):
        return f"what the plugin takes: {message.partition(', ')[2]}"
    start, separator, rest = message.partition("Input should be ")
    return rest if separator and not start else f"another value: {message}"


def _shown(option: Option, typed: Typed) -> str:
    return "a secret value" if option.is_confidential else shown(typed.text)
