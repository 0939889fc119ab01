"""Which headers an operator may add to a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinto_dispatch import check_headers


def test_headers_that_the_plugin_sets_are_its_own() -> None:
    """By the beginnings of their names, in any spelling."""
    check_headers({"X-Hub-Signature": "1"})
    with pytest.raises(ValueError, match="leave out X-Hub-Signature"):
        check_headers({"X-Hub-Signature": "1"}, reserved=("x-hub-",))


@given(name=st.text(max_size=20), value=st.text(max_size=20))
def test_no_header_that_passes_can_begin_another(name: str, value: str) -> None:
    """Whatever passes is one line of ASCII (B12)."""
    try:
        check_headers({name: value})
    except ValueError:
        return
    line = f"{name}: {value}"
    assert line.isascii()
    assert line.isprintable()
    assert line.split(":", 1)[0] == name
