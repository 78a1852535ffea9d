"""`dosvoces widget`, and the examples of `docs/howto/widget.md`: their tokens are ours."""

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import playwright
import pytest

from dosvoces.cli import main
from dosvoces.web.tokens import check_time, read
from tests.house import as_toml

SECRET = "0123456789abcdef" * 2
FILE = f"{SECRET}\n"
"""As `openssl rand -hex 32 > widget.secret` leaves it; a key is without the line's end."""
PAGE = "https://www.example.com"
NODE = Path(playwright.__file__).parent / "driver" / "node"
"""That which playwright brings."""
HOWTO = (Path(__file__).parent.parent / "docs" / "howto" / "widget.md").read_text("utf-8")


@pytest.fixture
def config(tmp_path: Path) -> str:
    widget = {"secret": SECRET, "origins": [PAGE], "controller": "Casas Claras", "privacy_url": f"{PAGE}/privacy"}
    file = tmp_path / "dosvoces.toml"
    file.write_text(as_toml({"widget": widget}), "utf-8")
    return str(file)


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?call_?token.*?)```", HOWTO, re.DOTALL | re.IGNORECASE)
    assert found is not None
    return found[1]


def check(token: str) -> dict[str, Any]:
    offer = read(token, [SECRET.encode()])
    check_time(offer, datetime.now(UTC))
    assert offer.origin == PAGE
    return {name: offer.members[name] for name in ("agent", "email", "lead")}


EXPECTED = {"agent": "+34960000022", "email": "ana@example.com", "lead": {"city": "Alcalá"}}


def test_a_token_for_a_trial(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    lead = json.dumps(EXPECTED["lead"])
    made = ["--agent", "+34960000022", "--email", "ana@example.com", "--lead", lead]
    assert main(["--config", config, "widget", "token", *made]) == 0
    assert check(capsys.readouterr().out.strip()) == EXPECTED
    assert main(["--config", config, "widget", "token", *made, "--origin", "https://other.example"]) == 1
    assert "not in [widget] origins" in capsys.readouterr().err


def test_the_consents_are_shown_with_their_versions(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", config, "widget", "consents", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["locale"] for each in found] == ["ca", "en", "es", "fr", "pt"]
    assert all("Casas Claras" in each["text"] and each["version"].startswith(each["locale"]) for each in found)


def test_without_a_secret_there_is_no_widget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.toml").write_text("", "utf-8")
    assert main(["--config", str(tmp_path / "empty.toml"), "widget", "consents"]) == 2
    assert "[widget] secret" in capsys.readouterr().err


def test_half_a_widget_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "half.toml"
    file.write_text(as_toml({"widget": {"secret": SECRET}}), "utf-8")
    assert main(["--config", str(file), "widget", "consents"]) == 2
    assert "needs `origins`, `controller` and `privacy_url`" in capsys.readouterr().err
    file.write_text(as_toml({"widget": {"secret": "short"}}), "utf-8")
    assert main(["--config", str(file), "widget", "consents"]) == 2
    told = capsys.readouterr().err
    assert "at least 32 random characters" in told
    assert "short" not in told


def test_the_python_example_makes_a_token() -> None:
    names: dict[str, Any] = {}
    exec(example("python"), names)
    assert check(names["call_token"](FILE, PAGE, *EXPECTED.values())) == EXPECTED


def test_the_node_example_makes_a_token(tmp_path: Path) -> None:
    script = tmp_path / "token.mjs"
    arguments = ", ".join(json.dumps(each) for each in (FILE, PAGE, *EXPECTED.values()))
    script.write_text(f"{example('javascript')}\nconsole.log(callToken({arguments}));", "utf-8")
    made = subprocess.run([str(NODE), str(script)], capture_output=True, text=True, check=True, timeout=60)
    assert check(made.stdout.strip()) == EXPECTED
