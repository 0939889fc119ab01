"""``kinto-dispatch demo``: the main job on real parts, in one command."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import rich_click as click

from kinto_dispatch.cli.exits import FAILED, OK


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option(
    "--records", type=click.IntRange(1, 1_000), default=5, show_default=True, help="How many."
)
def command(keep: bool, records: int) -> None:
    """Start a real Kinto over HTTP, the embedded queue, a worker, a real SMTP server and a local
    HTTP server that plays Slack; write records; show what arrived where, and how long it took.

    Exits 0 only if everything arrived. Uses free ports on loopback and a temporary directory.
    """
    from kinto_dispatch.demo.report import Report
    from kinto_dispatch.demo.stage import Stage

    with tempfile.TemporaryDirectory(prefix="kinto-dispatch-demo-") as directory:
        report = Report(records)
        with Stage(Path(directory), report) as stage:
            complete = stage.play()
            report.show()
            if keep:
                stage.keep()
    sys.exit(OK if complete else FAILED)
