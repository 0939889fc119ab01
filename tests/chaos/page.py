"""The figures of a run in words and tables, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.plan import FULL_SECONDS


BEGIN = "<!-- what a run reached: python -m tests.chaos --into docs/reliability.md -->"
END = "<!-- so far -->"


def summary(report: Mapping[str, Any]) -> str:
    """What matters, for somebody who looks at a terminal."""
    repeats = report["duplicated"]
    lines = [
        f"{'passed' if report['passed'] and report['valid'] else 'FAILED'}, seed {report['seed']}:"
        f" {report['delivered']} deliveries of {report['acknowledged']} acknowledged writes under"
        f" {sum(report['faults'].values())} faults; lost {report['lost']}, unexpected"
        f" {report['unexpected']}, wrongly dead-lettered {report['wrongly_dead_lettered']},"
        f" repeated {repeats['rest']} ({repeats['share']:.2%}), and {repeats['fed_again']} that"
        " the queue had forgotten"
    ]
    lines += [f"  wrong: {what}" for what in report["wrong"]]
    lines += [f"  not valid: {what}" for what in report["missing"]]
    return "\n".join(lines)


def tables(report: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n".join(_lines(report))


def put_into(page: Path, report: Mapping[str, Any]) -> None:
    """Replace what stands between the two marks of a page. Raises ``ValueError`` where the page
    does not have them."""
    text = page.read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r}; put them in.")
    page.write_text(f"{before}{BEGIN}\n\n{tables(report)}\n\n{END}{after}")


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    full = "A full run" if report["seconds_of_faults"] >= FULL_SECONDS else "A short run"
    verdict = "passed" if report["passed"] and report["valid"] else "did not pass"
    yield f"{full}, `make chaos{_arguments(report)}`, {verdict}:"
    yield ""
    yield "| | reached | promised |"
    yield "|---|---|---|"
    for row in _account(report):
        yield "| " + " | ".join(row) + " |"
    yield ""
    yield "| fault | times | until anything was delivered | until something new was |"
    yield "|---|---|---|---|"
    for kind, count in report["faults"].items():
        resumed, recovered = (
            _seconds(report[name].get(kind, {})) for name in ("resumed_after", "recovered_after")
        )
        yield f"| `{kind}` | {count} | {resumed} | {recovered} |"
    yield ""
    yield "Times are medians in seconds after the return of a server, and the longest."


def _arguments(report: Mapping[str, Any]) -> str:
    seconds = report["seconds_of_faults"]
    short = f" SECONDS={seconds:g}" if seconds != FULL_SECONDS else ""
    return f"{short} SEED={report['seed']}"


def _account(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    repeats, control, waited = report["duplicated"], report["control"], report["waited"]
    yield "operations attempted", f"{report['attempted']:,}", ""
    yield "acknowledged", f"{report['acknowledged']:,}", "at least half"
    yield (
        "of unknown fate, of which were stored and delivered",
        f"{report['unknown']:,}, {report['recovered']:,}",
        "all that were stored",
    )
    yield "deliveries", f"{report['delivered']:,}", "20,000 in a full run"
    yield "**lost**", f"**{report['lost']}**", "0"
    yield "**unexpected**", f"**{report['unexpected']}**", "0"
    yield "**wrongly dead-lettered**", f"**{report['wrongly_dead_lettered']}**", "0"
    yield (
        "repeated after a fault, of all that was accepted",
        f"{repeats['rest']:,} ({repeats['share']:.2%})",
        "under 0.5 % in a full run",
    )
    yield (
        "the same, of deliveries counted once",
        f"{repeats['share_of_deliveries']:.2%}",
        "",
    )
    yield "repeated without a fault near", f"{repeats['unexplained']}", "0"
    yield "repeated since the queue had forgotten", f"{repeats['fed_again']:,}", "no bound"
    yield (
        "without faults: deliveries, repeated",
        f"{control.get('delivered', 0):,}, {control.get('duplicated', {}).get('total', 0)}",
        "0 repeated",
    )
    yield (
        "from the answer to a write to its delivery: median, p99, longest",
        ", ".join(f"{waited[name]:g} s" for name in ("median", "p99", "most")),
        "",
    )


def _seconds(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.2f}, {spread['most']:.2f}" if spread else ""
