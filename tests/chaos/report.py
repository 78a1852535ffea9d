"""The report of a run, for people and for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.chaos.checker import Report

SHOWN = 20
"""Violations written out; the JSON has all."""
PROMISES = {
    "lost": "requests accepted",
    "dialled twice": "calls to phones",
    "left up": "calls to phones",
    "pointless second call": "calls to phones",
    "false final state": "requests accepted",
    "mail doubled": "mails taken",
    "false answer": "requests",
    "false webhook": "webhooks",
    "strangers": "calls to phones",
    "ended by itself": "kills",
}
"""Out of how many each kind of violation is."""


def as_json(reports: Mapping[str, Report], plan: Mapping[str, object]) -> dict[str, Any]:
    return {
        "plan": plan,
        "sites": {name: asdict(report) | {"broken": report.broken} for name, report in reports.items()},
    }


def as_text(reports: Mapping[str, Report]) -> str:
    """Tables: what was done, what came of it, what was broken and what the sample says of that."""
    names = list(reports)
    figures = _table({name: report.figures for name, report in reports.items()}, names, add=False)
    parts = [
        _headed("what happened", figures),
        _headed("answers", _table({name: report.answers for name, report in reports.items()}, names)),
        _headed("final states", _table({name: report.outcomes for name, report in reports.items()}, names)),
        _headed("faults", _table({name: report.faults for name, report in reports.items()}, names)),
        _headed("broken promises", _broken(list(reports.values()))),
    ]
    wrong = [
        f"{name}: {each.kind}: request {each.request}: {each.what}"
        for name in names
        for each in reports[name].violations
    ]
    if wrong:
        parts.append("\n".join([*wrong[:SHOWN], *([f"… and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else [])]))
    return "\n\n".join(parts)


def _broken(reports: Sequence[Report]) -> list[str]:
    lines = []
    for kind, of in PROMISES.items():
        broken = sum(report.broken[kind] for report in reports)
        count = int(sum(report.figures[of] for report in reports))
        lines.append(f"  {kind:<22} {broken:>6} of {count:>7} {of}{_bound(broken, count)}")
    return lines


def _bound(broken: int, count: int) -> str:
    """The rule of three: none in n says, at 95 %, less than 3 in n."""
    return f"; below {3 / count:.2%} at 95 %" if not broken and count else ""


def _table(columns: Mapping[str, Mapping[str, int | float]], names: Sequence[str], *, add: bool = True) -> list[str]:
    rows = list(dict.fromkeys(row for name in names for row in columns[name]))
    width = max((len(row) for row in rows), default=0)
    heads = [*names, *(["all"] if add and len(names) > 1 else [])]
    lines = [f"  {'':<{width}} " + " ".join(f"{head:>14}" for head in heads)]
    for row in rows if not add else sorted(rows):
        values = [columns[name].get(row, 0) for name in names]
        shown = [*values, *([sum(values)] if len(heads) > len(names) else [])]
        lines.append(f"  {row:<{width}} " + " ".join(f"{value:>14}" for value in shown))
    return lines


def _headed(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *lines])
