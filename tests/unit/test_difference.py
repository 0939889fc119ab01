"""What changed of an object is shown in lines that data cannot forge."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kinto_dispatch.difference import LONGEST_VALUE, MOST_LINES
from kinto_dispatch.testing.builders import make_change


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.none() | st.dictionaries(st.text(st.characters()), JSON, max_size=60)


@given(old=OBJECTS, new=OBJECTS)
@example(old={"a": "1\n+ admin: true"}, new={"a\n+ admin": "\u202e\u2028\x9b31m\ud800"})
@example(old=None, new={f"field{n}": "x" * 500 for n in range(200)})
def test_each_changed_field_has_one_line(
    old: dict[str, Any] | None, new: dict[str, Any] | None
) -> None:
    """Whatever its name and its values are, with the sign of what became of it."""
    changed = tuple(sorted({**(old or {}), **(new or {})}))
    shown = make_change(old=old, new=new, changed=changed).diff()
    lines = shown.splitlines()
    names = [name for name in changed if name not in {"id", "last_modified", "deleted"}]
    assert len(lines) == min(len(names), MOST_LINES + 1)
    for name, line in zip(names[:MOST_LINES], lines, strict=False):
        sides = name in (old or {}), name in (new or {})
        assert line[:2] == {(True, True): "~ ", (True, False): "- ", (False, True): "+ "}[sides]
        assert len(line) <= 3 * LONGEST_VALUE + len("~ : → ") + 1
        assert not set(line) & set("\r\n\x00\x9b\u2028\u202e\u2066\ud800")


def test_two_names_never_look_alike() -> None:
    """A name that is not plain stands in quotes."""
    change = make_change(old=None, new={"a": 1, "a: 2, b": 1, '"a"': 1, "": 1})
    assert change.diff().splitlines() == ['+ "": 1', '+ "\\"a\\"": 1', "+ a: 1", '+ "a: 2, b": 1']


def test_a_value_without_end_hides_no_other() -> None:
    """What is nested a hundred thousand levels deep is said to be."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert make_change(old=None, new={"a": 1, "deep": deep}).diff() == (
        "+ a: 1\n+ deep: (nested too deeply)"
    )
