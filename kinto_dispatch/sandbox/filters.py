"""The filters. Those named as in Jinja do the same; what could grow without bound is left out.

Each takes the run and the value that stands before the ``|``, and raises ``TypeError`` or
``ValueError`` with what it takes instead.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jinja2.filters import do_capitalize, do_float, do_int, do_title
from markupsafe import Markup, escape

from kinto_dispatch.sandbox.own_filters import date_and_time, diff, link, past
from kinto_dispatch.sandbox.values import (
    LONGEST_TEXT,
    Missing,
    Run,
    kind,
    look_along,
    number,
    used,
)


Filter = Callable[..., Any]


# Text


def upper(run: Run, value: Any) -> str:
    return run.text(value).upper()


def lower(run: Run, value: Any) -> str:
    return run.text(value).lower()


def title(run: Run, value: Any) -> str:
    return do_title(run.text(value))


def capitalize(run: Run, value: Any) -> str:
    return do_capitalize(run.text(value))


def trim(run: Run, value: Any) -> str:
    return run.text(value).strip()


def string(run: Run, value: Any) -> str:
    return run.text(value)


def replace(run: Run, value: Any, old: Any, new: Any) -> str:
    text, before, after = run.text(value), run.text(old), run.text(new)
    _check_length(len(text) + text.count(before) * (len(after) - len(before)))
    return text.replace(before, after)


def truncate(
    run: Run, value: Any, length: int = 255, killwords: bool = False, end: str = "..."
) -> str:
    """At most ``length`` characters, ``end`` included; whole words unless ``killwords``."""
    text, end = run.text(value), run.text(end)
    if _whole(length) < len(end):
        raise ValueError(f"length {length} is less than that of the end, {end!r}")
    if len(text) <= length:
        return text
    kept = text[: length - len(end)]
    return (kept if killwords else kept.rsplit(" ", 1)[0]) + end


def url_encode(run: Run, value: Any) -> str:
    return quote(run.text(value), safe="/", errors="replace")


def escape_html(run: Run, value: Any) -> Markup:
    return value if isinstance(value, Markup) else escape(run.text(value))


def to_json(run: Run, value: Any, indent: int | None = None) -> str:
    """JSON, as it is: without Jinja's escapes for HTML, which would be wrong in a text."""
    if indent is not None and not 0 <= _whole(indent) <= 8:
        raise ValueError("indent is 0 to 8")
    run.budget.weigh(value)
    length, parts = 0, []
    encoder = json.JSONEncoder(indent=indent, ensure_ascii=False, default=_no_value)
    for part in encoder.iterencode(value):
        length += len(part)
        _check_length(length)
        parts.append(part)
    return "".join(parts)


def _no_value(value: Missing) -> None:
    """What JSON has for ``loop.previtem`` of the first round, and such."""


# Numbers


def integer(run: Run, value: Any, default: int = 0) -> int:
    return do_int(_number_or_text(value), default)


def floating(run: Run, value: Any, default: float = 0.0) -> float:
    return do_float(_number_or_text(value), default)


def absolute(run: Run, value: Any) -> int | float:
    return abs(number(value))


def round_number(run: Run, value: Any, precision: int = 0, method: str = "common") -> float:
    if not -15 <= _whole(precision) <= 15:
        raise ValueError("precision is -15 to 15")
    if method == "common":
        return round(float(number(value)), precision)
    if method not in ("ceil", "floor"):
        raise ValueError("method is common, ceil or floor")
    shift = 10.0**precision
    rounded: float = getattr(math, method)(number(value) * shift) / shift
    return rounded


# Lists and mappings


def default(run: Run, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return default_value if isinstance(value, Missing) or (boolean and not value) else value


def length(run: Run, value: Any) -> int:
    if not isinstance(value, str | list | tuple | Mapping):
        raise TypeError(f"takes text, a list or a mapping, found {kind(value)}")
    return len(value)


def first(run: Run, value: Any) -> Any:
    return next(iter(_items(run, value)), Missing("the first of an empty list"))


def last(run: Run, value: Any) -> Any:
    return next(reversed(_items(run, value)), Missing("the last of an empty list"))


def as_list(run: Run, value: Any) -> list[Any]:
    return _items(run, value)


def pairs(run: Run, value: Any) -> list[tuple[Any, Any]]:
    """The keys of a mapping with their values."""
    if not isinstance(value, Mapping):
        raise TypeError(f"takes a mapping, found {kind(value)}")
    run.budget.spend(len(value))
    return list(value.items())


def sorted_pairs(run: Run, value: Any) -> list[tuple[Any, Any]]:
    """As ``items``, sorted by the keys as text, upper and lower case alike."""
    found = pairs(run, value)
    run.budget.weigh([key for key, _ in found])
    return sorted(found, key=lambda pair: str(pair[0]).lower())


def join(run: Run, value: Any, separator: str = "", attribute: str | None = None) -> str:
    glue = run.text(separator)
    items = _attributes(run, value, attribute)
    texts: list[str] = []
    total = len(glue) * len(items)
    for item in items:
        texts.append(run.text(item))
        total += len(texts[-1])
        _check_length(total - len(glue))
    return glue.join(texts)


def reverse(run: Run, value: Any) -> Any:
    items = _items(run, value)
    return "".join(reversed(items)) if isinstance(value, str) else items[::-1]


def sort(
    run: Run,
    value: Any,
    reverse: bool = False,
    case_sensitive: bool = False,
    attribute: str | None = None,
) -> list[Any]:
    keys = _keys(run, value, attribute, case_sensitive)
    order = sorted(range(len(keys)), key=keys.__getitem__, reverse=bool(reverse))
    items = _items(run, value)
    return [items[index] for index in order]


def unique(
    run: Run, value: Any, case_sensitive: bool = False, attribute: str | None = None
) -> list[Any]:
    keys = _keys(run, value, attribute, case_sensitive)
    seen: dict[Any, Any] = {}
    for key, item in zip(keys, _items(run, value), strict=True):
        if isinstance(key, list | tuple | Mapping):
            raise TypeError(f"takes texts or numbers, found {kind(key)}")
        # Integers beyond this share their hashes, and a mapping of those takes for ever.
        is_large = isinstance(key, int) and abs(key) >= sys.hash_info.modulus
        seen.setdefault((None, str(key)) if is_large else key, item)
    return list(seen.values())


def least(run: Run, value: Any, case_sensitive: bool = False, attribute: str | None = None) -> Any:
    ordered = sort(run, value, False, case_sensitive, attribute)
    return ordered[0] if ordered else Missing("the least of an empty list")


def greatest(
    run: Run, value: Any, case_sensitive: bool = False, attribute: str | None = None
) -> Any:
    ordered = sort(run, value, True, case_sensitive, attribute)
    return ordered[0] if ordered else Missing("the greatest of an empty list")


def total(run: Run, value: Any, attribute: str | None = None, start: int = 0) -> int | float:
    return sum((number(item) for item in _attributes(run, value, attribute)), number(start))


def map_items(
    run: Run, value: Any, name: str | None = None, *args: Any, attribute: str | None = None
) -> list[Any]:
    """Each item through the filter ``name``, or its ``attribute``."""
    if name is None:
        if attribute is None:
            raise TypeError("takes the name of a filter, or attribute=")
        return _attributes(run, value, attribute)
    return [run.filter(name, item, *args) for item in _items(run, value)]


def select(run: Run, value: Any, name: str | None = None, *args: Any) -> list[Any]:
    return [item for item in _items(run, value) if _passes(run, item, name, args)]


def reject(run: Run, value: Any, name: str | None = None, *args: Any) -> list[Any]:
    return [item for item in _items(run, value) if not _passes(run, item, name, args)]


def select_by(run: Run, value: Any, attribute: str, name: str | None = None, *args: Any) -> Any:
    """The items whose ``attribute`` passes the test, or is true."""
    items = _items(run, value)
    return [one for one in items if _passes(run, look_along(one, attribute), name, args)]


def reject_by(run: Run, value: Any, attribute: str, name: str | None = None, *args: Any) -> Any:
    items = _items(run, value)
    return [one for one in items if not _passes(run, look_along(one, attribute), name, args)]


# What they share


def _check_length(characters: int) -> None:
    if characters > LONGEST_TEXT:
        raise ValueError(f"makes a text of more than {LONGEST_TEXT:,} characters")


def _items(run: Run, value: Any) -> list[Any]:
    if not isinstance(used(value), str | list | tuple | Mapping):
        raise TypeError(f"takes a list, found {kind(value)}")
    run.budget.spend(len(value))
    return list(value)


def _attributes(run: Run, value: Any, attribute: str | None) -> list[Any]:
    items = _items(run, value)
    if attribute is None:
        return items
    return [used(look_along(item, attribute)) for item in items]


def _keys(run: Run, value: Any, attribute: str | None, case_sensitive: bool) -> Sequence[Any]:
    """What to compare the items by; paid for, so that they may be compared."""
    keys: Iterable[Any] = _attributes(run, value, attribute)
    run.budget.weigh(keys)
    return [key.lower() if isinstance(key, str) and not case_sensitive else key for key in keys]


def _passes(run: Run, item: Any, name: str | None, args: Sequence[Any]) -> bool:
    return bool(item) if name is None else run.test(name, item, *args)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"takes a whole number, found {kind(value)}")
    return value


def _number_or_text(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else None


FILTERS: Mapping[str, Filter] = {
    "abs": absolute,
    "capitalize": capitalize,
    "count": length,
    "d": default,
    "datetime": date_and_time,
    "default": default,
    "dictsort": sorted_pairs,
    "diff": diff,
    "e": escape_html,
    "escape": escape_html,
    "first": first,
    "float": floating,
    "int": integer,
    "items": pairs,
    "join": join,
    "last": last,
    "length": length,
    "link": link,
    "list": as_list,
    "lower": lower,
    "map": map_items,
    "max": greatest,
    "min": least,
    "past": past,
    "reject": reject,
    "rejectattr": reject_by,
    "replace": replace,
    "reverse": reverse,
    "round": round_number,
    "select": select,
    "selectattr": select_by,
    "sort": sort,
    "string": string,
    "sum": total,
    "title": title,
    "tojson": to_json,
    "trim": trim,
    "truncate": truncate,
    "unique": unique,
    "upper": upper,
    "urlencode": url_encode,
}
