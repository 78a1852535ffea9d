"""
`python -m bench`: what Dosvoces costs and how fast it is, as a table and as JSON.

A benchmark, never a test: nothing fails because a figure is poor. Every part is a process of its own, on the loopback,
and ends whatever it started.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import against
from bench.parts import PARTS
from bench.processes import measured
from bench.table import show

PART_LIMIT_S = 240.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, for a look; without it five or more")
    parser.add_argument("--only", metavar="PART,…", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there, not to standard output")
    parser.add_argument("--against", choices=["asterisk"], help="measure it and us in turn, and print the ratios")
    arguments = parser.parse_args()
    known = against.PARTS if arguments.against else PARTS
    arguments.parts = arguments.only.split(",") if arguments.only else list(known)
    if unknown := set(arguments.parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return arguments


async def _measure(parts: list[str], *, quick: bool, console: Console) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for part in parts:
        console.print(f"measuring: {part} …")
        try:
            results[part] = await measured("bench.parts", {"part": part, "quick": quick}, limit_s=PART_LIMIT_S)
        except (RuntimeError, TimeoutError) as error:
            console.print(f"  not measured: {error or 'it took too long'}", markup=False)
    return results


def _machine() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def main() -> int:
    arguments = _arguments()
    if arguments.against:
        return against.main(arguments.parts, quick=arguments.quick, json_file=arguments.json)
    # The table is for people and goes to standard error: `make bench > figures.json` keeps what programs read.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 100)
    machine = _machine()
    console.print(f"{machine['cores']} cores, load {machine['load'][0]}, Python {machine['python']}", highlight=False)
    results = asyncio.run(_measure(arguments.parts, quick=arguments.quick, console=console))
    figures = {"machine": machine, "quick": arguments.quick, **results}
    if arguments.json is None:
        print(json.dumps(figures), flush=True)
    else:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(results, console)
    return 0 if len(results) == len(arguments.parts) else 1


if __name__ == "__main__":
    sys.exit(main())
