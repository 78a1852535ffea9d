"""`dosvoces keys` and `dosvoces audit`, on a record in a file, and a key at work on a service."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dosvoces.cli import main
from dosvoces.cli.keys import duration, moment
from dosvoces.errors import DosvocesError
from dosvoces.keys import is_key
from dosvoces.testing import until
from tests.house import LIMIT_S, lead, process

NOW = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `dosvoces` stands; there is no record yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run(capsys, "keys", "list", "--all", "--json"))
    return found


def test_a_key_is_shown_once_and_kept_nowhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = run(
        capsys, "keys", "create", "web", "--scope", "call", "--network", "10.0.0.0/8", "--limit", "max_open=3"
    ).strip()
    assert is_key(key)
    assert key.startswith("dv_live_")
    (shown,) = listed(capsys)
    assert (shown["name"], shown["scopes"], shown["networks"], shown["limits"]) == (
        "web",
        ["call"],
        ["10.0.0.0/8"],
        {"max_open": 3},
    )
    assert key not in run(capsys, "keys", "list") + run(capsys, "audit")
    secret = key.removeprefix("dv_live_").encode()
    assert [file.name for file in folder.iterdir() if secret in file.read_bytes()] == []


def test_who_makes_the_first_key_is_told_that_all_need_one_now(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is a test key, made to try something beside live clients that send none."""
    told = []
    for name in ("staging", "web"):
        assert main(["keys", "create", name, "--test"]) == 0
        told.append("from now on every request needs a key" in capsys.readouterr().err)
    assert told == [True, False]


def test_rotating_leaves_both_valid_and_revoking_ends_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "keys", "create", "web", "--test", "--expires", "90d").strip()
    second = run(capsys, "keys", "rotate", "web", "--overlap", "1h").strip()
    assert (first[:8], second[:8], first == second) == ("dv_test_", "dv_test_", False)
    assert [key["state"] for key in listed(capsys)] == ["ending", "valid"]
    run(capsys, "keys", "revoke", first)
    assert [key["state"] for key in listed(capsys)] == ["revoked", "valid"]
    acts = json.loads(run(capsys, "audit", "--json"))
    assert [act["what"] for act in acts] == ["key.revoke", "key.rotate", "key.create"]
    assert acts[0]["who"].startswith("operator")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("create", "web"), "there is a key 'web' already"),
        (("create", " "), "a key needs a name"),
        (("create", "b", "--network", "10.0.0.1/8"), "is no network"),
        (("create", "b", "--expires", "soon"), "is no length of time"),
        (("create", "b", "--expires", "2020-01-01"), "is not in the future"),
        (("create", "b", "--limit", "a=3"), "there are calls_per_hour"),
        (("create", "b", "--limit", "max_open=b"), "is no limit"),
        (("revoke", "nobody"), "no valid key has the id or name 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    run(capsys, "keys", "create", "web")
    assert main(["keys", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_when_a_key_ends() -> None:
    assert [duration(text) for text in ("90d", "12h", "30m")] == [
        timedelta(days=90),
        timedelta(hours=12),
        timedelta(minutes=30),
    ]
    assert moment("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=UTC)
    assert moment("1h", NOW) == NOW + timedelta(hours=1)
    with pytest.raises(DosvocesError):
        duration("1000000d")


async def test_a_key_made_beside_a_running_service_is_needed_and_opens_it(tmp_path: Path) -> None:
    trial: dict[str, object] = {"name": "trial", "carrier": "fake"}
    async with process(tmp_path, None, [trial], dialing={"talk_limit_s": 1}) as service:
        key = (await service.command("keys", "create", "web")).strip()
        fields = [part for name, value in lead().items() for part in (f"--{name}", str(value))]
        told = await service.command("call", "--url", service.url, "--key", key, *fields)
        assert told.startswith("200 ")  # It may not read, so that nothing is followed.
        reader = (await service.command("keys", "create", "crm", "--scope", "call", "--scope", "read")).strip()
        again = await service.command("call", "--url", service.url, "--key", reader, *fields, "--url_anuncio", "again")
        assert again.startswith("200 ")
        assert again.splitlines()[-1] == "completed"

        async def noted() -> bool:
            return service.rows("SELECT 1 FROM api_key WHERE last_used_at IS NOT NULL") == [(1,), (1,)]

        await until(noted, limit_s=LIMIT_S)
        assert [line for line in service.lines if key[8:] in line] == []
