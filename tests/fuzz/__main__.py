"""
Fuzz the parsers for as long as asked, then tell what was reached.

    python -m tests.fuzz [--seconds 60] [--corpus build/fuzz] [target ...]

With atheris (libFuzzer, guided by coverage) where that is installed, else at random from the time as seed. Each target
runs in a process of its own. What libFuzzer found worth keeping stays in the corpus folder for the next run, and so
does an input that broke something, as `crash-…`. Coverage is measured afterwards by feeding the corpus again.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import dosvoces
from tests.fuzz.random_inputs import inputs
from tests.fuzz.targets import TARGETS, Target

PACKAGE = Path(dosvoces.__file__).resolve().parent
REPLAYED = 2_000  # random inputs whose coverage is measured, besides the corpus


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers, tell the coverage.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all without")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--replay", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.child:
        (name,) = options.targets
        _at_random(TARGETS[name], options.seconds, options.corpus / name)
        return 0
    if options.replay:
        (name,) = options.targets
        _replay(TARGETS[name], options.corpus / name)
        return 0
    return _all(options.targets or list(TARGETS), options.seconds, options.corpus)


def _all(names: list[str], seconds: int, corpus: Path) -> int:
    broken = []
    for name in names:
        print(f"{name}: {seconds} s", flush=True)
        program = ["tests.fuzz.guided"] if importlib.util.find_spec("atheris") else ["tests.fuzz", "--child"]
        options = ["--seconds", str(seconds), "--corpus", str(corpus), name]
        command = [sys.executable, "-m", *program, *options]
        folder = corpus / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{name}.log").open("wb") as log:
            if subprocess.run(command, stdout=log, stderr=log).returncode:
                broken.append(name)
                print(f"  BROKEN: the log is {log.name}, the input beside it")
    print(f"\n{'target':<9} {'file':<24} {'lines':>6} {'branches':>9}")
    for name in names:
        for file, lines, branches in _reached(TARGETS[name], corpus):
            print(f"{name:<9} {file:<24} {lines:>5.0f}% {branches:>8.0f}%")
    return 1 if broken else 0


def _at_random(target: Target, seconds: int, folder: Path) -> None:
    seed = time.time_ns()
    print(f"at random from seed {seed}; atheris is not installed")
    until = time.monotonic() + seconds
    for count, data in enumerate(inputs(target, seed)):
        if count % 64 == 0 and time.monotonic() > until:
            print(f"{count} inputs")
            return
        try:
            target.fuzz_one(data)
        except BaseException:
            (folder.parent / f"crash-{target.name}-{seed}-{count}").write_bytes(data)
            raise


def _replay(target: Target, folder: Path) -> None:
    """Feed what was kept and some random inputs, for the coverage."""
    kept = [path.read_bytes() for path in sorted(folder.iterdir())]
    for data in (*kept, *islice(inputs(target, 1), REPLAYED)):
        target.fuzz_one(data)


def _reached(target: Target, corpus: Path) -> list[tuple[str, float, float]]:
    """Per file the share of lines and branches, in percent."""
    data, report = corpus / f"{target.name}.coverage", corpus / f"{target.name}.json"
    run = [sys.executable, "-m", "coverage"]
    options = ["--branch", f"--data-file={data}"]
    child = ["-m", "tests.fuzz", "--replay", "--corpus", str(corpus), target.name]
    subprocess.run([*run, "run", *options, *child], check=True)
    subprocess.run([*run, "json", "--quiet", f"--data-file={data}", "-o", str(report)], check=True)
    files = json.loads(report.read_text())["files"]
    found = []
    for file in target.files:
        summary = next(each for path, each in files.items() if Path(path).resolve() == PACKAGE / file)["summary"]
        lines = 100 * summary["covered_lines"] / max(summary["num_statements"], 1)
        branches = 100 * summary["covered_branches"] / max(summary["num_branches"], 1)
        found.append((file, lines, branches))
    return found


if __name__ == "__main__":
    sys.exit(main())
