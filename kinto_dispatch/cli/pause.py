"""``kinto-dispatch pause``: let a lane fill."""

from __future__ import annotations

import rich_click as click

from kinto_dispatch.cli.common import set_paused
from kinto_dispatch.cli.options import ini_option
from kinto_dispatch.cli.printing import note


@click.command()
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@ini_option
def command(channels: tuple[str, ...]) -> None:
    """Let the lanes of these channels fill without delivering, until `resume`.

    What is in flight is finished. Holds for all workers, and over their restarts.
    """
    for name in set_paused(channels, True):
        note(f"Channel {name!r} is paused; go on with: kinto-dispatch resume {name}")
