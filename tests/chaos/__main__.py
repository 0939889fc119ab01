"""``python -m tests.chaos [--seconds N] [--seed N] [--keep DIRECTORY]``: one JSON object on
standard output; exit code 0 if nothing was wrong and the run was valid."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path


def main() -> int:
    """Run once and print the report."""
    from tests.chaos.plan import FULL_SECONDS, plan_for
    from tests.chaos.run import Run
    from tests.chaos.stage import stage

    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=FULL_SECONDS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--keep", type=Path, help="keep logs and ledger in this directory")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s of faults", file=sys.stderr, flush=True)
    with stage(options.keep) as place:
        report = Run(plan_for(options.seconds, options.seed), place).play()
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] and report["valid"] else 1


if __name__ == "__main__":
    sys.exit(main())
