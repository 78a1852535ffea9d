"""The pinned requirements satisfy pyproject.toml, have hashes, and don't say where they are downloaded from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUN = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
DEV = [*RUN, *PROJECT["project"]["optional-dependencies"]["dev"]]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize(("name", "wanted"), [("run.txt", RUN), ("dev.txt", DEV)])
def test_the_pins_satisfy_the_project(name: str, wanted: list[str]) -> None:
    """`make lock` pins them anew."""
    found = pins(name)
    unmet = [text for text in wanted if not _met(Requirement(text), found)]
    assert unmet == []


def _met(wanted: Requirement, found: dict[str, str]) -> bool:
    version = found.get(canonicalize_name(wanted.name))
    return version is not None and wanted.specifier.contains(version)


def test_the_tests_run_on_what_is_shipped() -> None:
    dev = pins("dev.txt")
    assert {name: dev.get(name) for name in pins("run.txt")} == pins("run.txt")


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_every_pin_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert "--" not in text.replace("--hash=sha256:", "")
