"""How much work an expression or a template may do: counted in steps, not in seconds.

Counting keeps evaluation pure: what fits once fits always, on any machine and under any load. A
step takes at most a third of a microsecond on a machine of 2024, so that a million of them stay
well below a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kinto_dispatch.errors import OutOfBudget


TEXT_PER_STEP = 16
"""Characters that are copied, compared or searched for the price of one item. Bounds memory, too:
a million steps make 16 million characters at most."""


STEPS_PER_SECOND = 3_000_000
"""What is measured in time, since it cannot be counted, costs as many steps as fit into it."""


class Budget:
    """The steps that one evaluation may take. Not shared between threads."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take ``steps``. Raises ``OutOfBudget`` when fewer are left."""
        self.left -= steps
        if self.left < 0:
            raise OutOfBudget(self.steps)

    def weigh(self, *values: Any) -> None:
        """Spend what walking through ``values`` to the last leaf costs.

        To be called before anything that does so (comparing, printing, sorting): a value that
        holds itself many times over (``[a, a]`` of ``[b, b]`` of ...) is small in memory and
        endless to walk. Never recurses. Raises ``OutOfBudget``.
        """
        pending = list(values)
        while pending:
            value = pending.pop()
            if isinstance(value, str):
                self.spend(1 + len(value) // TEXT_PER_STEP)
            elif isinstance(value, Mapping):
                self.spend(1 + 2 * len(value))
                pending.extend(value)
                pending.extend(value.values())
            elif isinstance(value, list | tuple):
                self.spend(1 + len(value))
                pending.extend(value)
            elif isinstance(value, int):
                self.spend(1 + value.bit_length() // TEXT_PER_STEP)
            else:
                self.spend(1)
