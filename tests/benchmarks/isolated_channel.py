"""Channels of which one leads nowhere, to measure what the others notice."""

import asyncio
import socket

from kinto_dispatch import hookimpl


class HealthyChannel:
    """Delivered after as long as a quick server takes to answer."""

    @hookimpl
    async def on_event_async(self, event: object) -> None:
        """Wait for 5 ms."""
        await asyncio.sleep(0.005)


class RefusingChannel:
    """Its destination does not listen."""

    @hookimpl
    async def on_event_async(self, event: object) -> None:
        """Be refused."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen
            await asyncio.open_connection(*nobody.getsockname())


class HangingChannel:
    """Its destination takes every connection, and never answers."""

    def __init__(self) -> None:
        self._silent = socket.create_server(("127.0.0.1", 0), backlog=1024)

    @hookimpl
    async def on_event_async(self, event: object) -> None:
        """Wait until the time is up."""
        reader, writer = await asyncio.open_connection(*self._silent.getsockname())
        try:
            await reader.read()
        finally:
            writer.close()
