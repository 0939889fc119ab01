"""The listing of plugins: installed, in use, broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kinto_dispatch.errors import PluginError
from kinto_dispatch.plugins import contract, discovery
from kinto_dispatch.plugins.channel import Channel
from kinto_dispatch.plugins.failures import blaming
from kinto_dispatch.plugins.redaction import Redactor


@dataclass(frozen=True, slots=True)
class InstalledPlugin:
    """One plugin in the listing of plugins.

    ``status`` is ``available`` for one that was not imported, since nothing uses it. One that is
    named in the ini as ``module:Class`` has no ``distribution`` and no ``version``.
    """

    name: str
    distribution: str | None
    version: str | None
    status: Literal["available", "loaded", "failed"]
    reason: str | None = None
    hooks: tuple[str, ...] = ()


def installed(channels: Sequence[Channel] = (), *, load: bool = False) -> list[InstalledPlugin]:
    """Every plugin that is installed or used by ``channels``, by name.

    Imports nothing: the status of a plugin is that of its channels. With ``load`` the others are
    imported and checked too; nothing is made of them.
    """
    points = discovery.installed_entry_points()
    names = [point.name for point in points]
    found = []
    for point in points:
        users = [channel for channel in channels if channel.config.plugin == point.name]
        owner = (discovery.distribution_name(point), point.dist.version if point.dist else None)
        if names.count(point.name) > 1:
            reason = f"more than one distribution brings {point.name!r}"
            found.append(InstalledPlugin(point.name, *owner, "failed", reason))
        elif users or load:
            found.append(_in_use(point.name, owner, users))
        else:
            found.append(InstalledPlugin(point.name, *owner, "available"))
    for name in dict.fromkeys(channel.config.plugin for channel in channels):
        if name not in names:
            users = [channel for channel in channels if channel.config.plugin == name]
            found.append(_in_use(name, (None, None), users))
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution or ""))


def _in_use(
    name: str, owner: tuple[str | None, str | None], users: Sequence[Channel]
) -> InstalledPlugin:
    if not users:
        reason, hooks = _try(name)
    else:
        failed = [channel for channel in users if channel.status == "failed"]
        reason = f"channel {failed[0].name!r}: {failed[0].reason}" if failed else None
        hooks = tuple(sorted({hook for channel in users for hook in channel.hooks}))
    return InstalledPlugin(name, *owner, "failed" if reason else "loaded", reason, hooks)


def _try(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Why the plugin cannot be loaded, if so, and its hooks."""
    try:
        with blaming(name, "it cannot be imported", Redactor(())):
            target = discovery.load(name)
            contract.check_target(name, target)
            contract.settings_model(name, target)
            return None, tuple(sorted(contract.hooks_of(name, target)))
    except PluginError as error:
        return error.reason, ()
