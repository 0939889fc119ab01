"""A listener that does nothing, to measure what Kinto itself does for any listener."""


def load_from_config(config: object, prefix: str = "") -> object:
    """What Kinto calls."""
    return IdleListener()


class IdleListener:
    """Called with each event."""

    def __call__(self, event: object) -> None:
        """Do nothing."""
