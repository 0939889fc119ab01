"""Wires kinto-dispatch into Kinto: what is captured, who is told when, what operators see."""

from __future__ import annotations

from kinto_dispatch.listener.dispatcher import Dispatcher
from kinto_dispatch.listener.wiring import load_from_config


__all__ = ["Dispatcher", "load_from_config"]
