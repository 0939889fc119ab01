"""How much of a lane to claim with one command, which is told a number and answers with bytes."""

from __future__ import annotations

from collections.abc import Sequence


FIRST = 16
"""Where nothing is known of what waits in a lane. With events of 5 MB that is much, but comes."""

LARGEST = 1 << 16


class Portion:
    """A number of entries that are likely to have at most ``most_bytes`` together.

    It doubles from ``FIRST`` with every answer that was full, is bound by the largest entry of the
    last answer, and is halved by every call that failed, for which its size may be the reason.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._count = FIRST

    def of(self, wanted: int, claimed_bytes: int = 0) -> int:
        """How many to ask for where so many are wanted; 0 where enough was claimed already."""
        if claimed_bytes >= self._most_bytes:
            return 0
        return min(wanted, self._count)

    def came(self, sizes: Sequence[int]) -> None:
        """An answer came, with entries of so many bytes."""
        if sizes:
            fits = self._most_bytes // max(1, *sizes)
            grown = 2 * self._count if len(sizes) >= self._count else self._count
            self._count = max(1, min(grown, fits, LARGEST))

    def failed(self) -> None:
        """No answer came."""
        self._count = max(1, self._count // 2)
