"""A channel's options, as text, become an instance of its plugin's ``Settings``.

What pydantic finds wrong is told by the names that the operator typed, without secrets.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from kinto_dispatch.errors import BadSettings, Problem
from kinto_dispatch.plugins.redaction import Redactor
from kinto_dispatch.settings import ChannelSettings
from kinto_dispatch.settings.channels import Alias, bases, channel_base, is_single
from kinto_dispatch.settings.intake import shown, unknown
from kinto_dispatch.settings.parsers import Unfit
from kinto_dispatch.settings.text import SettingsText, Typed
from kinto_dispatch.settings.values import ALIAS_NAMES, CHANNEL_NAMES


LISTS = (list, tuple, set, frozenset)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting that a plugin declares. ``names`` are the spellings that its model takes.

    ``kinds`` are the types that it may have; a secret may also come from a file.
    """

    field: str
    names: tuple[str, ...]
    kinds: tuple[Any, ...]
    is_secret: bool
    description: str = ""

    @property
    def is_mapping(self) -> bool:
        """Whether it is written as JSON."""
        return any(_is_mapping(kind) for kind in self.kinds)

    @property
    def is_confidential(self) -> bool:
        """Whether no report may show its value: a mapping may hold a header with a token."""
        return self.is_secret or self.is_mapping

    @property
    def typed_names(self) -> tuple[str, ...]:
        """Everything that may be typed for it."""
        files = tuple(f"{name}_file" for name in self.names)
        return self.names + files if self.is_secret else self.names

    def value(self, text: str) -> Any:
        """What the model is given for ``text``. Raises ``Unfit``."""
        if BeforeValidator in self.kinds:
            return text  # it reads texts by itself, as ``Addresses`` does
        if any(isinstance(kind, type) and issubclass(kind, LISTS) for kind in self.kinds):
            return text.split()
        return _json_object(text) if self.is_mapping else text


def options_of(model: type[BaseModel]) -> tuple[Option, ...]:
    """The settings that ``model`` declares, in its order."""
    return tuple(_option(model, name, info) for name, info in model.model_fields.items())


def _option(model: type[BaseModel], name: str, info: FieldInfo) -> Option:
    annotation: Any = info.annotation
    if info.metadata:
        annotation = Annotated[(annotation, *info.metadata)]
    return Option(
        field=name,
        names=tuple(_names(model, name, info)),
        kinds=tuple(_kinds(annotation)),
        is_secret=_holds_secret(annotation),
        description=info.description or "",
    )


def _names(model: type[BaseModel], name: str, info: FieldInfo) -> Iterator[str]:
    alias, config = info.validation_alias, model.model_config
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, AliasChoices):
        yield from (choice for choice in alias.choices if isinstance(choice, str))
    if alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
        yield name


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that a field may have; ``BeforeValidator`` if it has one of these."""
    annotation = getattr(annotation, "__value__", annotation)  # type X = ...
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if any(isinstance(mark, BeforeValidator) for mark in args[1:]):
            yield BeforeValidator
        yield from _kinds(args[0])
    elif origin in (Union, types.UnionType):
        for arg in args:
            yield from _kinds(arg)
    else:
        yield origin or annotation


def _is_mapping(kind: Any) -> bool:
    is_class = isinstance(kind, type)
    return is_class and (issubclass(kind, (Mapping, BaseModel)) or is_dataclass(kind))


def _holds_secret(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether pydantic would hide something in a value of this type."""
    annotation = getattr(annotation, "__value__", annotation)
    inner = [*get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner += [info.annotation for info in annotation.model_fields.values()]
    if hasattr(get_origin(annotation) or annotation, "get_secret_value"):
        return True
    if annotation in seen:
        return False
    return any(_holds_secret(one, seen | {annotation}) for one in inner)


def _json_object(text: str) -> Any:
    expected = 'a JSON object, as in {"name": "value"}'
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"no JSON ({error.msg} at column {error.colno})"
        raise Unfit(expected, found=found) from None
    except RecursionError:
        raise Unfit(expected, found="JSON of too many levels") from None
    if not isinstance(value, dict):
        raise Unfit(expected, found="JSON, but no object")
    return value


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

    ``given`` maps the spelling that was used to the option and its text; ``redact`` knows the
    text of everything that is not known to be public.
    """

    base: str
    text: SettingsText
    given: Mapping[str, tuple[Option, Typed]]
    problems: tuple[Problem, ...]
    redact: Redactor


def gather(channel: ChannelSettings, text: SettingsText, declared: Sequence[Option]) -> Options:
    """Every option that has a text, in the ini, the environment or a file named there."""
    base = channel_base(channel)
    given: dict[str, tuple[Option, Typed]] = {}
    problems = []
    for option in declared:
        try:
            given.update(_find(option, base, text))
        except Unfit as unfit:
            name = text.name(base + option.names[0])
            problems.append(Problem(name, unfit.found, unfit.expected, unfit.advice))
    public = {name for option in declared if not option.is_confidential for name in option.names}
    confidential = [typed.text for option, typed in given.values() if option.is_confidential]
    # What has a name that nobody knows may be a password with a slip of the finger in its name.
    confidential += [value for name, value in channel.options.items() if name not in public]
    return Options(base, text, given, tuple(problems), Redactor(confidential))


def _find(option: Option, base: str, text: SettingsText) -> dict[str, tuple[Option, Typed]]:
    """The option under the one spelling in which it is given. Raises ``Unfit``."""
    get = text.get_or_file if option.is_secret else text.get
    found = {name: (option, typed) for name in option.names if (typed := get(base + name))}
    if len(found) > 1:
        raise Unfit("one of them", found=f"given as {' and as '.join(found)}")
    return found


def build(model: type[BaseModel], options: Options) -> BaseModel:
    """The model with what was given; empty texts count as not given. Raises ``BadSettings``, and
    whatever a validator of the plugin raises besides the errors that pydantic expects of it."""
    raw: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, (option, typed) in options.given.items():
        try:
            raw[name] = option.value(typed.text)
        except Unfit as unfit:
            found = unfit.found or _shown(option, typed)
            problems.append(Problem(typed.name, found, unfit.expected, unfit.advice))
    try:
        built = model.model_validate(raw)
    except ValidationError as error:
        unread = {option.field for name, (option, _) in options.given.items() if name not in raw}
        found_by_model = _problems_of(error, model, options)
        problems += [problem for field, problem in found_by_model if field not in unread]
    if problems:
        raise BadSettings(problems)
    return built


def _problems_of(
    error: ValidationError, model: type[BaseModel], options: Options
) -> Iterator[tuple[str, Problem]]:
    """What pydantic found, in the operator's words: ``(field, problem)``."""
    declared = {
        name: option for option in options_of(model) for name in (*option.names, option.field)
    }
    given = {option.field: typed for option, typed in options.given.values()}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        option = declared.get(str(detail["loc"][0])) if detail["loc"] else None
        expected = options.redact(_expected(detail["type"], detail["msg"]))
        if option is None:
            whole = options.text.style(options.base).rstrip(".")
            yield "", Problem(whole, "refused by the plugin", expected)
            continue
        typed = given.get(option.field)
        if typed is None:
            name = options.text.name(options.base + option.names[0])
            yield option.field, Problem(name, "not set", option.description or "a value")
        else:
            yield option.field, Problem(typed.name, _shown(option, typed), expected)


def _expected(kind: str, message: str) -> str:
    """What is allowed, out of pydantic's sentence."""
    if kind in ("value_error", "assertion_error"):
        return f"what the plugin takes: {message.partition(', ')[2].rstrip('.')}"
    start, separator, rest = message.partition("Input should be ")
    return rest if separator and not start else f"another value: {message.rstrip('.')}"


def _shown(option: Option, typed: Typed) -> str:
    return "a secret value" if option.is_confidential else shown(typed.text)
