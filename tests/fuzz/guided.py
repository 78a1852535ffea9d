"""
One target under atheris, which is libFuzzer guided by the branches of our own modules.

A program of its own: atheris rewrites modules as they are imported, so that it must come before all of them.
"""

import argparse
import importlib
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    options = parser.parse_args()
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["dosvoces"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[options.target]
    folder = options.corpus / target.name
    for number, data in enumerate(target.seeds):
        (folder / f"seed-{number:03}").write_bytes(data)
    crash = f"-artifact_prefix={options.corpus}/crash-{target.name}-"
    limits = [f"-max_total_time={options.seconds}", "-max_len=8192", "-rss_limit_mb=1024", "-timeout=10", crash]
    atheris.Setup([sys.argv[0], *limits, str(folder)], target.fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
