"""All targets by name."""

from __future__ import annotations

from tests.fuzz import decoder, egress, hooks, mails, renderer, routes, slack


TARGETS = {
    module.TARGET.name: module.TARGET
    for module in (decoder, hooks, routes, renderer, egress, mails, slack)
}
