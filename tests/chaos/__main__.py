"""Kills everything while clients write, and compares sets: one JSON object on standard output.

Exit code 0 if nothing was wrong and enough was done to prove something. Otherwise everything that
the run was judged by stays on disk, and the last line says where.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run once and print the report."""
    from tests.chaos.page import put_into, summary, tables
    from tests.chaos.plan import FULL_SECONDS, plan_for
    from tests.chaos.run import Run
    from tests.chaos.stage import stage

    options = _options(FULL_SECONDS)
    _say(f"seed {options.seed}, {options.seconds:g} s of faults")
    place = options.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    has_passed = False
    try:
        with stage(place) as servers:
            report = Run(plan_for(options.seconds, options.seed), servers).play()
        print(tables(report) if options.markdown else json.dumps(report, indent=2))
        if options.into:
            put_into(options.into, report)
        _say(summary(report))
        has_passed = report["passed"] and report["valid"]
    finally:
        if has_passed and not options.keep:
            shutil.rmtree(place)
        else:
            _say(f"evidence of seed {options.seed}: {place}")
    return 0 if has_passed else 1


def _options(full_seconds: float) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=full_seconds, help="of faults")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(10**6),
        help="the same faults at the same times",
    )
    parser.add_argument("--keep", type=Path, help="leave the evidence in this directory")
    parser.add_argument("--markdown", action="store_true", help="print tables instead of JSON")
    parser.add_argument("--into", type=Path, help="put the tables into this page as well")
    return parser.parse_args()


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
