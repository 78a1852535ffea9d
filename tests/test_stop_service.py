"""All calls stopped, numbers that are never called, and hours: at the door of the whole service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.cli import main
from dosvoces.keys import Scope
from dosvoces.model import Side
from dosvoces.store.keys import Act
from dosvoces.store.sql import open_do_not_call, open_keys, open_roll
from dosvoces.testing import until
from tests.house import LIMIT_S, House, house
from tests.keys import make_key

OWN: dict[str, object] = {"name": "scripted", "carrier": "fake", "caller_id": "+34910000000"}
ASKED = {"first_number": "+34600000011", "second_number": "+34960000022", "email": "ana@example.com"}


@asynccontextmanager
async def running_house(folder: Path, **numbers: object) -> AsyncIterator[tuple[House, FakeCarrier]]:
    carrier = FakeCarrier(lambda call: Script())
    async with house(folder, phone=None, carrier=carrier, trunks=[OWN], numbers=numbers) as running:
        yield running, carrier


async def ready(running: House) -> bool:
    return (await running.client.get("/readyz")).status_code == 200


async def test_stopping_all_calls_hangs_up_and_refuses_until_they_are_resumed(tmp_path: Path) -> None:
    async with running_house(tmp_path) as (running, carrier):
        assert (await running.post()).status_code == 200
        assert len(carrier.live_legs) == 2
        roll = open_roll(running.service.settings.database.address)
        assert await roll.stop_calls(by="operator ana")
        assert not await roll.stop_calls(by="operator ben")

        async def silent() -> bool:
            return carrier.live_legs == []

        await until(silent, limit_s=LIMIT_S)
        record = await running.newest()
        assert record is not None
        await running.service.switchboard.ended(record.id)
        assert (await running.record(record.id)).ended_by == "operator ana"
        refused = await running.post()
        assert (refused.status_code, refused.json()["Message"]) == (503, "all calls are stopped; nothing was done")
        assert "retry-after" in refused.headers
        problems = (await running.client.get("/readyz")).json()["problems"]
        assert problems == ["all calls are stopped (by operator ana): dosvoces resume-calls takes new ones"]
    # It outlives the service.
    async with running_house(tmp_path) as (running, carrier):
        assert (await running.post()).status_code == 503
        assert carrier.dialed == []
        assert await roll.resume_calls(by="operator ana")
        assert not await roll.resume_calls(by="operator ana")
        await until(lambda: ready(running), limit_s=LIMIT_S)
        assert (await running.post()).status_code == 200
        keys = open_keys(running.service.settings.database.address)
        acts = await keys.acts(limit=9)
        await keys.close()
        assert [(act.who, act.what) for act in acts] == [
            ("operator ana", "calls.resume"),
            ("operator ana", "calls.stop"),
        ]
    await roll.close()


async def test_nobody_is_dialled_once_the_stop_is_in_the_record(tmp_path: Path) -> None:
    """Also by a node that hasn't seen it yet."""
    async with running_house(tmp_path) as (running, carrier):
        store, roll = running.service.store, open_roll(running.service.settings.database.address)
        posting = asyncio.create_task(running.post(call_interval=2))
        await running.journalled("answered")
        await roll.stop_calls(by="x")
        assert (await posting).status_code == 500
        assert [call.side for call in carrier.dialed] == [Side.A]
        assert [dial.side for dial in await store.dials((await store.connections())[0].id)] == [Side.A]
        await roll.close()


async def test_an_admin_key_stops_calls_and_no_other(tmp_path: Path) -> None:
    async with running_house(tmp_path) as (running, _):
        keys = open_keys(running.service.settings.database.address)
        admin = {"Authorization": f"Bearer {await make_key(keys, 'admin', Scope.ADMIN)}"}
        other = {"Authorization": f"Bearer {await make_key(keys, 'other')}"}
        refused = await running.client.post("/v1/stop", headers=other)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await running.client.post("/v1/stop", headers=admin)).status_code == 204
        await until(lambda: stopped(running), limit_s=LIMIT_S)
        assert (await running.client.delete("/v1/stop", headers=other)).status_code == 403
        assert (await running.client.delete("/v1/stop", headers=admin)).status_code == 204
        await until(lambda: ready(running), limit_s=LIMIT_S)
        assert [act.what for act in await keys.acts(limit=2)] == ["calls.resume", "calls.stop"]
        await keys.close()


async def stopped(running: House) -> bool:
    return not await ready(running)


async def test_without_keys_nobody_stops_calls_by_the_api(tmp_path: Path) -> None:
    async with running_house(tmp_path) as (running, _):
        assert (await running.client.post("/v1/stop")).status_code == 403


@pytest.mark.parametrize(("listed", "field"), [("+34600000011", "firstnumber"), ("+34960000022", "secondnumber")])
async def test_a_number_on_the_list_is_never_called(tmp_path: Path, listed: str, field: str) -> None:
    async with running_house(tmp_path) as (running, carrier):
        numbers = open_do_not_call(running.service.settings.database.address)
        assert await numbers.add([listed, "+34600000099"], note="asked for it", by="test") == 2
        assert await numbers.add([listed], note="again", by="test") == 0

        async def refused() -> bool:
            return (await running.post()).status_code == 400

        # A list that begins is known within a second; nobody is dialled before that, either.
        await until(refused, limit_s=LIMIT_S)
        assert all(call.number.e164 != listed or call.side is Side.A for call in carrier.dialed)
        dialled = len(carrier.dialed)
        answer = await running.post()
        shown = await running.client.post("/v1/connections", json=ASKED)
        (error,) = answer.json()["Errors"]
        assert (error["field"], error["code"]) == (field, "do_not_call")
        assert answer.json()["Message"].startswith("Missing arguments firstnumber: +34600000011, secondnumber")
        assert (shown.status_code, shown.json()["errors"][0]["code"]) == (400, "do_not_call")
        assert len(carrier.dialed) == dialled
        assert await numbers.remove(listed, by="test")
        assert not await numbers.remove(listed, by="test")
        assert (await running.post()).status_code == 200
        keys = open_keys(running.service.settings.database.address)
        acts = await keys.acts(limit=9)
        assert (acts[0].what, acts[0].subject) == ("dnc.remove", f"{listed[:6]}•••{listed[-3:]}")
        assert all(isinstance(act, Act) and listed not in f"{act}" for act in acts)
        await keys.close()
        await numbers.close()


async def test_a_connection_for_later_is_for_an_hour_in_which_people_are_called(tmp_path: Path) -> None:
    hours = ["ES mon-fri 09:00-21:00"]
    sunday = datetime.fromisoformat("2026-11-22T12:00:00+01:00")
    carrier = FakeCarrier()
    async with house(
        tmp_path, phone=None, carrier=carrier, trunks=[OWN], wall=lambda: sunday, numbers={"calling_hours": hours}
    ) as running:
        refused = await running.client.post("/v1/connections", json=ASKED)
        night = await running.client.post("/v1/connections", json={**ASKED, "schedule_at": "2026-11-23T07:00:00+01:00"})
        taken = await running.client.post("/v1/connections", json={**ASKED, "schedule_at": "2026-11-23T10:00:00+01:00"})
        assert [answer.status_code for answer in (refused, night, taken)] == [400, 400, 202]
        (error,) = refused.json()["errors"]
        assert (error["field"], error["code"]) == ("policy", "quiet_hours")
        assert "2026-11-23T09:00+00:00" in error["message"]
        assert carrier.dialed == []


def test_the_list_at_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOSVOCES_DATABASE__URL", f"sqlite:///{tmp_path}/record.db")
    assert main(["keys", "create", "x"]) == 0  # Makes the record.
    file = tmp_path / "robinson.csv"
    file.write_text("number;since\n+34 600 000 001;2025\n# them\n0034600000002\n\n", "utf-8")
    assert main(["dnc", "import", str(file)]) == 0
    assert main(["dnc", "add", "+34600000002", "+34600000003", "--note", "by phone"]) == 0
    assert main(["dnc", "remove", "+34600000001"]) == 0
    assert main(["dnc", "remove", "+34600000001"]) == 1
    capsys.readouterr()
    assert main(["dnc", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [(line.split()[0], line.rpartition("  ")[2].strip()) for line in sorted(lines)] == [
        ("+34600000002", "robinson.csv"),
        ("+34600000003", "by phone"),
    ]
    assert main(["number", "+34600000003", "+34600000001"]) == 1
    told = capsys.readouterr().out
    assert "+34600000003 is on the do-not-call list" in told
    assert "+34600000001 would be called" in told
    file.write_text("+34600000004\n600000005\n", "utf-8")
    assert main(["dnc", "import", str(file)]) == 1
    assert "line 2" in capsys.readouterr().err
    assert main(["stop-calls"]) == main(["nodes"]) == main(["resume-calls"]) == 0
    assert "ALL CALLS ARE STOPPED" in capsys.readouterr().out
