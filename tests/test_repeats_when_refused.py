"""A repeat under its key is answered although nothing new is begun any more, by the whole service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.model import Side
from dosvoces.store.sql import open_do_not_call, open_roll
from tests.house import House, house, lead

OWN: dict[str, object] = {"name": "scripted", "carrier": "fake", "caller_id": "+34910000000"}
ASKED = {"first_number": "+34600000011", "second_number": "+34960000022", "email": "ana@example.com"}
MONDAY = datetime.fromisoformat("2026-11-23T20:00:00+01:00")
SETTINGS: dict[str, dict[str, Any]] = {
    "hours": {"numbers": {"calling_hours": ["ES mon-fri 09:00-21:00"]}},
    "list": {},
    "stop": {},
    "ceiling": {"limits": {"number_calls_per_day": 1}},
    # One conversation of 300 s on both lines fits, and another one no more once a second of it was used.
    "budget": {"limits": {"minutes_per_day": 10}, "dialing": {"talk_limit_s": 300}},
}


async def shut(door: str, url: str) -> None:
    """Set in the record at `url` what refuses the like of the first request."""
    if door == "list":
        numbers = open_do_not_call(url)
        await numbers.add([str(ASKED["second_number"])], note="", by="test")
        await numbers.close()
    elif door == "stop":
        roll = open_roll(url)
        await roll.stop_calls(by="test")
        await roll.close()


@pytest.mark.parametrize("path", ["/call", "/v1/connections"])
@pytest.mark.parametrize(
    ("door", "status"), [("hours", 400), ("list", 400), ("stop", 503), ("ceiling", 429), ("budget", 429)]
)
async def test_a_repeat_gets_its_answer_where_others_are_refused(
    tmp_path: Path, door: str, status: int, path: str
) -> None:
    body = lead() if path == "/call" else ASKED

    @asynccontextmanager
    async def served(at: datetime) -> AsyncIterator[tuple[House, FakeCarrier]]:
        carrier = FakeCarrier(lambda call: Script() if call.side is Side.A else Script(hangs_up_after_s=0.0))
        async with house(
            tmp_path, phone=None, carrier=carrier, trunks=[OWN], wall=lambda: at, **SETTINGS[door]
        ) as running:
            yield running, carrier

    async def ask(running: House, key: str) -> httpx.Response:
        return await running.client.post(path, json=body, headers={"Idempotency-Key": key})

    async with served(MONDAY) as (running, _):
        first = await ask(running, "first")
        assert first.status_code == (200 if path == "/call" else 202)
        await running.over(first)
        await shut(door, running.service.settings.database.address)
    async with served(MONDAY.replace(hour=22)) as (running, carrier):
        assert (await ask(running, "other")).status_code == status
        again = await ask(running, "first")
        assert (again.status_code, again.headers["location"]) == (first.status_code, first.headers["location"])
        assert again.headers["idempotent-replayed"] == "true"
        if path == "/call":
            assert again.text == first.text
        assert carrier.dialed == []
