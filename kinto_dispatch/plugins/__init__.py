"""Finds, loads, checks and calls channels; a bad plugin hurts nobody but its own channel."""

from __future__ import annotations

from kinto_dispatch.plugins.catalog import InstalledPlugin, installed
from kinto_dispatch.plugins.channel import Channel
from kinto_dispatch.plugins.configuration import Configuration, configure


__all__ = ["Channel", "Configuration", "InstalledPlugin", "configure", "installed"]
