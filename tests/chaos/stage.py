"""PostgreSQL and Valkey for runs that follow each other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.plan import Plan
from tests.chaos.servers import CarelessValkey, DurablePostgresql
from tests.chaos.settings import settings_for


MIGRATE_SECONDS = 60.0
MIGRATE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from kinto_dispatch.testing.kinto import migrate_database
migrate_database(json.load(sys.stdin))
"""


class Stage:
    """Both servers; each run gets an empty database and an empty queue on them."""

    def __init__(self, directory: Path) -> None:
        self.postgresql = DurablePostgresql(directory)
        self.valkey = CarelessValkey(_made(directory / "valkey"))
        self._directory = directory
        self._runs = 0

    def __enter__(self) -> Stage:
        try:
            self.postgresql.start()
            self.valkey.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop both servers."""
        self.valkey.close()
        self.postgresql.stop()

    def new_run(self, plan: Plan) -> tuple[Path, dict[str, str]]:
        """A directory for one run, and its settings, on a migrated database."""
        self._runs += 1
        directory = _made(self._directory / f"run-{self._runs}")
        self.valkey.flush()
        settings = settings_for(
            self.postgresql.create_database(), self.valkey.url, directory, plan.channels
        )
        # Not in this process, which would keep connections.
        subprocess.run(
            [sys.executable, "-c", MIGRATE],
            input=json.dumps(settings).encode(),
            check=True,
            timeout=MIGRATE_SECONDS,
        )
        return directory, settings


@contextlib.contextmanager
def stage(keep: Path | None = None) -> Iterator[Stage]:
    """A stage in a directory of its own, which is removed unless it is to be kept."""
    with contextlib.ExitStack() as stack:
        directory = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield stack.enter_context(Stage(_made(directory)))


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
