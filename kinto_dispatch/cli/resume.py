"""``kinto-dispatch resume``: deliver again."""

from __future__ import annotations

import rich_click as click

from kinto_dispatch.cli.common import set_paused
from kinto_dispatch.cli.options import ini_option
from kinto_dispatch.cli.printing import note


@click.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@ini_option
def command(channels: tuple[str, ...]) -> None:
    """Deliver again what these channels' lanes hold. Does nothing to a lane that is not paused."""
    for name in set_paused(channels, False):
        note(f"Channel {name!r} delivers.")
