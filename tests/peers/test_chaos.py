"""
A short chaos run: two hundred kills, at every named crash point on both kinds of record, and nothing may be broken.

`make chaos` runs longer and leaves its logs; `tests/test_chaos_checker.py` shows what the checker would find.
"""

from pathlib import Path

import pytest

from dosvoces.crashpoints import POINTS
from tests.chaos.checker import check
from tests.chaos.evidence import read
from tests.chaos.plan import Plan
from tests.chaos.report import as_text
from tests.chaos.run import run

pytestmark = pytest.mark.long

SITES = ("sqlite", "sqlite", "postgresql")
KILLS = 200
SHORT = Plan(
    length_s=30,
    at_most_s=600,
    kills=KILLS,
    seed=7,
    clients=4,
    pause_s=0.2,
    calm_s=0.7,
    armed_s=3.0,
    random_share=0.05,
    late_share=0.3,
    media_share=0.6,
    freeze_share=0.03,
    database_calm_s=15.0,
    patience_s=5.0,
    up_limit_s=10.0,  # Also where much else runs on this machine; `make chaos` holds it to five.
)


async def test_two_hundred_kills_break_no_promise(tmp_path: Path) -> None:
    folders = await run(tmp_path, SHORT, SITES, said=lambda _: None)
    reports = {folder.name: check(read(folder)) for folder in folders}
    seen = as_text(reports)
    assert [violation for report in reports.values() for violation in report.violations] == [], seen
    assert sum(report.figures["kills"] for report in reports.values()) >= KILLS, seen
    for kind in set(SITES):
        faults = {fault for name, report in reports.items() if name.endswith(kind) for fault in report.faults}
        assert [point for point in POINTS if f"killed {point}" not in faults] == [], seen
