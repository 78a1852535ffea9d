"""The named moments at which the service can be made to die, and that they cost nothing while none is named."""

import re
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

from dosvoces import crashpoints
from dosvoces.errors import SettingsError
from dosvoces.settings import load

SOURCE = Path(crashpoints.__file__).parent
DOCS = SOURCE.parent.parent / "docs" / "reliability.md"

PASSES = """
from dosvoces.crashpoints import reached
for passed in range(1, 6):
    print(passed, flush=True)
    reached("k09_first_intended")
    reached("k21_joined")
"""


def passing(crash_at: str) -> tuple[int, str]:
    """How a process ended that passes two points five times, and how far it had come."""
    ran = subprocess.run(
        [sys.executable, "-c", PASSES],
        env={crashpoints.VARIABLE: crash_at},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return ran.returncode, ran.stdout.split()[-1]


@pytest.mark.parametrize(
    ("crash_at", "expected"),
    [
        ("k21_joined", (-9, "1")),
        ("k21_joined:3", (-9, "3")),
        ("k09_first_intended:6", (0, "5")),
        ("k22_one_bye_sent", (0, "5")),
        ("", (0, "5")),
    ],
)
def test_the_process_dies_where_and_when_it_is_told(crash_at: str, expected: tuple[int, str]) -> None:
    assert passing(crash_at) == expected


@pytest.mark.parametrize("wrong", ["k99", "joined", "k21_joined:", "k21_joined:0", "k21_joined:x", "k21_joined:-1", ""])
def test_a_point_that_there_is_not_is_told_with_the_settings(wrong: str) -> None:
    if wrong == "k21_joined:":
        assert crashpoints.wanted(wrong) == ("k21_joined", 1)
        return
    with pytest.raises(SettingsError, match="k01_request_read"):
        load(environ={crashpoints.VARIABLE: wrong})


def test_every_point_is_somewhere_in_the_code_and_every_one_in_the_code_is_named() -> None:
    used = {
        name
        for path in SOURCE.rglob("*.py")
        if path.name != "crashpoints.py"
        for name in re.findall(r'"(k\d\d_\w+)"', path.read_text("utf-8"))
    }
    assert used == set(crashpoints.POINTS)


def test_the_documentation_lists_them_all() -> None:
    listed = re.findall(r"^\| `(k\d\d_\w+)` \|", DOCS.read_text("utf-8"), re.MULTILINE)
    assert listed == list(crashpoints.POINTS)


def test_a_point_costs_next_to_nothing_while_none_is_named() -> None:
    assert not crashpoints.armed()
    each = min(timeit.repeat(lambda: crashpoints.reached("k21_joined"), number=10_000, repeat=5)) / 10_000
    assert each < 5e-6
