"""
Load, faults, and a check of what came of it.

    python -m tests.chaos [--seconds 120] [--seed 7] [--folder build/chaos] [sqlite] [postgresql]
    python -m tests.chaos --check build/chaos

The first leaves its logs in the folder and checks them, the second checks them again. Status 1: a promise was broken.
"""

import argparse
import asyncio
import json
import secrets
import sys
from pathlib import Path

from tests.chaos.checker import check
from tests.chaos.evidence import TERMS, read
from tests.chaos.plan import Plan
from tests.chaos.report import as_json, as_text
from tests.chaos.run import SITES, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill and freeze services under load.")
    parser.add_argument("sites", nargs="*", metavar="site", help=f"of {', '.join(SITES)}; one of each without")
    parser.add_argument("--seconds", type=float, default=120, help="of chaos; what was begun is then seen through")
    parser.add_argument("--seed", type=int, help="of all choices; a new one without")
    parser.add_argument("--folder", type=Path, default=Path("build/chaos"), help="for the logs")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="check the logs in FOLDER again, and run nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.sites) - set(SITES)):
        parser.error(f"no site is called {', '.join(unknown)}; there are {', '.join(SITES)}")
    if options.check:
        return report(sorted(terms.parent for terms in options.check.glob(f"*/{TERMS}")), options.check, {})
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    plan = Plan(length_s=options.seconds, seed=seed)
    folders = asyncio.run(run(options.folder.resolve(), plan, options.sites or list(SITES), print))
    return report(folders, options.folder, plan.shown())


def report(folders: list[Path], folder: Path, plan: dict[str, object]) -> int:
    """Check each site's logs; print the tables, and leave them as JSON in `folder`."""
    reports = {place.name: check(read(place)) for place in folders}
    if not reports:
        print(f"no logs of a run in {folder}", file=sys.stderr)
        return 2
    print(as_text(reports))
    (folder / "report.json").write_text(json.dumps(as_json(reports, plan), indent=1), "utf-8")
    broken = sum(len(each.violations) for each in reports.values())
    print(f"\n{'nothing was broken' if not broken else f'{broken} promises were broken'}; {folder / 'report.json'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
