"""What a plugin declares in its ``Settings``, as the settings of a channel that can be typed."""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from kinto_dispatch.settings.parsers import Unfit


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
        if any(_is_list(kind) for kind in self.kinds):
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


def _is_list(kind: Any) -> bool:
    no_list = (str, bytes, Mapping)
    return (
        isinstance(kind, type) and issubclass(kind, Collection) and not issubclass(kind, no_list)
    )


def _is_mapping(kind: Any) -> bool:
    if not isinstance(kind, type) or kind is BeforeValidator:
        return False
    return issubclass(kind, (Mapping, BaseModel)) or is_dataclass(kind)


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
