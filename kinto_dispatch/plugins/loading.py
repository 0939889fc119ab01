"""The way of a plugin from a name in the ini to hooks that can be called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pluggy
from pydantic import BaseModel

from kinto_dispatch import hookspecs
from kinto_dispatch.errors import BadSettings, PluginError, Problem
from kinto_dispatch.plugins import contract, discovery
from kinto_dispatch.plugins.binding import build, check_names, gather
from kinto_dispatch.plugins.channel import Implementation
from kinto_dispatch.plugins.failures import blaming
from kinto_dispatch.plugins.options import options_of
from kinto_dispatch.plugins.redaction import Redactor
from kinto_dispatch.settings import ChannelSettings
from kinto_dispatch.settings.channels import channel_base
from kinto_dispatch.settings.text import SettingsText


class Loading:
    """Loads the plugin of one channel. ``redact`` and ``hooks`` are what is known of it so far."""

    def __init__(self, config: ChannelSettings, text: SettingsText) -> None:
        self._config = config
        self._text = text
        self.hooks: Mapping[str, contract.Function] | None = None
        # Until the plugin says what is secret, everything is.
        self.redact = Redactor(config.options.values())

    def implementation(self) -> Implementation:
        """Raises ``BadSettings`` for the operator, ``PluginError`` for the author."""
        name = self._config.plugin
        with blaming(name, "it cannot be imported", self.redact):
            target = self._target()
            contract.check_target(name, target)
            self.hooks = contract.hooks_of(name, target)
        with blaming(name, "its Settings cannot be read", self._redact):
            settings = self._settings(contract.settings_model(name, target))
        with blaming(name, "it cannot be made", self.redact):
            plugin = contract.construct(name, target, settings)
            return Implementation(plugin, settings, self.hooks, self._register(plugin))

    def _redact(self, text: str) -> str:
        return self.redact(text)  # the one that is there when something is raised

    def _target(self) -> Any:
        try:
            return discovery.load(self._config.plugin)
        except discovery.NotFound as error:
            setting = self._text.name(channel_base(self._config) + "plugin")
            found = f"channel {self._config.name!r} uses {error.found}"
            raise BadSettings([Problem(setting, found, error.expected, error.advice)]) from error

    def _settings(self, model: type[BaseModel] | None) -> BaseModel | None:
        declared = options_of(model) if model else ()
        options = gather(self._config, self._text, declared)
        self.redact = options.redact
        problems = [*check_names(self._config, self._text, declared), *options.problems]
        settings = None
        try:
            settings = build(model, options) if model else None
        except BadSettings as error:
            problems += error.problems
        if problems:
            raise BadSettings(problems)
        return settings

    def _register(self, plugin: Any) -> pluggy.PluginManager:
        """A manager for this channel alone: pluggy takes the same module only once."""
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, name=self._config.name)
            manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(self._config.plugin, " ".join(str(error).split())) from error
        return manager
