"""Attacks one of the targets, or all in turn. Exit code 1 if something was found: then the last
line says how to see it again."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import traceback

from tests.fuzz.engine import Finding, Target, fuzz, run_once
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run as asked for."""
    logging.disable(logging.CRITICAL)
    options = _options()
    targets = list(TARGETS.values()) if options.target == "all" else [TARGETS[options.target]]
    if options.input is not None:
        print(run_once(targets[0], bytes.fromhex(options.input)))
        return 0
    found = [_attack(target, options.seconds, options.seed) for target in targets]
    return int(any(found))


def _attack(target: Target, seconds: float, seed: int) -> bool:
    report = fuzz(target, seconds, seed)
    print(
        f"{target.name}: {report.runs:,} inputs, {report.answers} kinds of answers, seed {seed}",
        flush=True,
    )
    if report.finding:
        _show(target, report.finding)
    return report.finding is not None


def _show(target: Target, finding: Finding) -> None:
    for line in "".join(traceback.format_exception(finding.error)).splitlines():
        print(line[:300], file=sys.stderr)
    print(f"python -m tests.fuzz {target.name} --input {finding.data.hex()}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--input", metavar="HEX", help="run this input only")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
