"""All targets by name."""

from __future__ import annotations

from tests.fuzz import decoder, egress, renderer, routes, slack


TARGETS = {
    module.TARGET.name: module.TARGET for module in (decoder, routes, renderer, egress, slack)
}
