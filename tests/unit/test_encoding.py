"""Whatever Kinto may hold becomes JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch import encode_json


TEXT = st.text(st.characters())  # lone surrogates included
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(value=VALUES)
def test_what_json_knows_comes_back(value: Any) -> None:
    """As any parser reads it: halves of characters and integers of any length included."""
    assert json.loads(encode_json(value)) == value


@pytest.mark.parametrize("beside", ["", "\ud800"], ids=["quick", "slow"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_null(number: float, beside: str) -> None:
    """As in a browser; a receiver's parser would refuse the whole message."""
    assert json.loads(encode_json([number, beside]), parse_constant=pytest.fail) == [None, beside]


def test_what_is_nested_too_deeply_is_told() -> None:
    """With an error that a plugin can catch, and a process that lives."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        encode_json(deep)
