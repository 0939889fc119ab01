"""A channel that does nothing, to measure everything around it."""

from kinto_dispatch import hookimpl


class NoopChannel:
    """Delivered at once."""

    @hookimpl
    async def on_event_async(self, event: object) -> None:
        """Do nothing."""


class NoopSyncChannel:
    """In the request, at once."""

    @hookimpl
    def on_event(self, event: object) -> None:
        """Do nothing."""
