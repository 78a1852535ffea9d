"""
Run the simulator: `python -m tests.simulation [--seed N] [--connections M]`, and `--seed S --only K` to read one again.

Exits with 1 if an invariant was violated.
"""

import argparse
import sys

from tests.simulation.run import replay, simulate

SHOWN = 5  # violations with their whole trace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate connections from a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=100_000, help="rounded up to whole worlds of 20")
    parser.add_argument("--only", type=int, metavar="K", help="replay connection K of this seed and print its trace")
    parser.add_argument("--processes", type=int, help="all processors without")
    options = parser.parse_args()
    if options.only is not None:
        return _show(options.seed, options.only)
    tally = simulate(options.seed, options.connections, processes=options.processes)
    print(tally)
    for connection in list(dict.fromkeys(found.connection or 0 for found in tally.broken))[:SHOWN]:
        print(f"\n--seed {options.seed} --only {connection}")
        _show(options.seed, connection)
    return 1 if tally.broken else 0


def _show(seed: int, connection: int) -> int:
    lines, broken = replay(seed, connection)
    print("\n".join(lines))
    for found in broken:
        print(f"VIOLATED {found.invariant}: {found.what}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
