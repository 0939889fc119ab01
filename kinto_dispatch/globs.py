"""Globs on object uris: ``*`` within a segment, ``**`` for any number of segments.

Matched without regular expressions, so that no glob and no uri can make it slow.
"""

from __future__ import annotations

from collections.abc import Sequence

from kinto_dispatch.errors import Problem


Segment = list[str] | None
"""A segment split at its asterisks; ``None`` for ``**``."""

_UNKNOWN_WILDCARDS = "?[]{}"


def problem_with(uri: str) -> Problem | None:
    """Why this glob would never match, and what to write instead; ``None`` if it may match."""
    found, segments = f"found {uri}", uri.split("/")
    expected = "globs on object uris, like /buckets/*/collections/news/**"
    if not uri.startswith("/"):
        return Problem("uris", found, expected, f"Write /{uri}.")
    if segments[1] in ("v0", "v1"):
        advice = f"Leave out /{segments[1]}: uris in events have no version."
        return Problem("uris", found, expected, advice)
    if "" in segments[1:]:
        return Problem("uris", found, expected, "Leave out the empty segment (// or a last /).")
    if segments[1:3] == ["buckets", "default"]:
        advice = (
            "/buckets/default stands for another bucket for each user, and events carry its real "
            "id: write /buckets/*, or add users = to single out a user."
        )
        return Problem("uris", found, expected, advice)
    if any("**" in segment and segment != "**" for segment in segments):
        advice = "** stands between slashes; within a segment write *."
        return Problem("uris", found, expected, advice)
    if any(character in uri for character in _UNKNOWN_WILDCARDS):
        return Problem("uris", found, expected, "Only * and ** stand for something else.")
    return None


def compile_glob(uri: str) -> list[Segment]:
    """The glob in its segments, to be matched."""
    return [None if segment == "**" else segment.split("*") for segment in uri.split("/")]


def matches_segments(glob: Sequence[Segment], segments: Sequence[str]) -> bool:
    """Whether all segments match; ``**`` takes any number of them, none included.

    Only the last ``**`` ever takes one more, so the cost is at most the product of the lengths.
    """
    at, taken = 0, 0
    star, resume = -1, 0
    while taken < len(segments):
        if at < len(glob) and (pattern := glob[at]) is not None:
            if matches_text(pattern, segments[taken]):
                at, taken = at + 1, taken + 1
                continue
        elif at < len(glob):
            star, resume = at, taken
            at += 1
            continue
        if star < 0:
            return False
        resume += 1
        at, taken = star + 1, resume
    return all(segment is None for segment in glob[at:])


def matches_text(pieces: Sequence[str], text: str) -> bool:
    """Whether ``text`` is made of ``pieces`` in order, with anything in between.

    Taking each piece at its first place is enough, so nothing is ever tried twice.
    """
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    if not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return at <= end
