"""Which entries of a lane the wanted changes of an event become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kinto_dispatch.digest import place_of
from kinto_dispatch.event import CHANGED, Change, Event
from kinto_dispatch.queue.values import Entry
from kinto_dispatch.settings import DigestBy


def entries_of(
    event: Event,
    wanted: Sequence[Change],
    key: str,
    *,
    by: DigestBy | None = None,
    splits: bool = False,
    body: bytes | None = None,
    hook: str = "",
) -> Iterator[Entry]:
    """None without a wanted change; else one under ``key``, or several under keys that end in the
    position of a change: one for each place where the channel collects ``by`` something, else one
    for each change where it ``splits``. ``body`` is the whole event on the wire, if that is at
    hand; ``hook`` tells apart what different hooks in metadata asked for.
    """
    if not wanted:
        return
    if by is None and not splits:
        kept = event.only(wanted)
        yield Entry(key, body if body is not None and kept is event else kept.encode())
        return
    positions = {id(change): position for position, change in enumerate(event.changes)}
    places: dict[str, list[Change]] = {}
    for change in wanted:
        place = place_of(change.uri, by) if by else str(positions[id(change)])
        places.setdefault(place, []).append(change)
    for place, changes in places.items():
        whole = by in ("channel", "collection") and len(places) == 1
        name = key if whole else f"{key}:{positions[id(changes[0])]}"
        # What other plugins tell is never joined with changes, nor does it take their place.
        kind = "" if event.name == CHANGED else f"{event.name} "
        digest = f"{hook}{kind}{place}" if by else None
        yield Entry(name, event.only(changes).encode(), digest=digest)
