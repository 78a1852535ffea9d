"""Ceilings at the door of the whole service: what is beyond them is neither mailed nor dialled, and the client told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces import telemetry
from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.model import Side
from dosvoces.store.sql import open_keys
from tests.house import House, house, lead
from tests.keys import make_key

OWN: dict[str, object] = {"name": "scripted", "carrier": "fake", "caller_id": "+34910000000"}
AT_ONCE = 250


@asynccontextmanager
async def limited(folder: Path, **limits: object) -> AsyncIterator[tuple[House, FakeCarrier]]:
    carrier = FakeCarrier(lambda call: Script() if call.side is Side.A else Script(hangs_up_after_s=0.0))
    sections: dict[str, Any] = {"limits": limits, "dialing": {"max_connections": 2000}}
    async with house(folder, phone=None, carrier=carrier, trunks=[OWN], **sections) as running:
        yield running, carrier


def request(number: int, **fields: object) -> dict[str, object]:
    return lead(firstnumber=f"+346{number:08d}", secondnumber=f"+349{number:08d}", **fields)


async def test_of_many_requests_at_once_exactly_ten_are_dialled(tmp_path: Path) -> None:
    async with limited(tmp_path, calls_per_day=10) as (running, carrier):
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=running.service.http_url, timeout=60, limits=limits) as client:
            answers = await asyncio.gather(*(client.post("/call", json=request(n)) for n in range(AT_ONCE)))
        told = Counter(answer.status_code for answer in answers)
        # A slow machine sheds some of them before they are looked at.
        assert (told[200], told[429] + told[503]) == (10, AT_ONCE - 10)
        assert told[429] > 0
        assert len({call.connection_id for call in carrier.dialed}) == 10
        assert len(carrier.dialed) == 20
        assert len(await running.service.store.mails(limit=100)) == 10


async def test_a_refusal_says_what_is_reached_and_when_to_ask_again(tmp_path: Path) -> None:
    async with limited(tmp_path, number_calls_per_day=1) as (running, carrier):
        assert (await running.post()).status_code == 200
        refused = await running.post()
        shown = await running.client.post(
            "/v1/connections", json={"first_number": "+34600000011", "second_number": "+34960000099", "email": "a@b.es"}
        )
        assert (refused.status_code, shown.status_code) == (429, 429)
        words = "+34600•••011 has had 1 calls this day (UTC), as many as [limits] number_calls_per_day allows"
        assert words in refused.json()["Message"] or "+34960" in refused.json()["Message"]
        assert (shown.json()["code"], shown.json()["detail"]) == ("too_many", words)
        assert 0 < int(refused.headers["retry-after"]) <= 86400
        assert 0 < int(shown.headers["retry-after"]) <= 86400
        # Others' ceilings are nobody's business.
        assert "ratelimit" not in refused.headers
        assert len(carrier.dialed) == 2


@pytest.mark.parametrize("path", ["/call", "/v1/connections"])
async def test_headers_tell_how_a_key_and_its_address_stand(tmp_path: Path, path: str) -> None:
    async with limited(tmp_path, key_calls_per_hour=2, source_calls_per_day=50) as (running, _):
        keys = open_keys(running.service.settings.database.address)
        mine = await make_key(keys, "mine")
        more = await make_key(keys, "more", limits={"calls_per_hour": 3})
        await keys.close()

        async def ask(key: str, number: int) -> httpx.Response:
            names = {"firstnumber": "first_number", "secondnumber": "second_number", "call_interval": "interval"}
            asked = {names.get(name, name): value for name, value in request(number).items()}
            body = request(number) if path == "/call" else asked
            return await running.client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})

        answers = [await ask(mine, n) for n in (1, 2, 3)] + [await ask(more, n) for n in (4, 5, 6, 7)]
        taken = 200 if path == "/call" else 202
        assert [answer.status_code for answer in answers] == [taken, taken, 429, taken, taken, taken, 429]
        policies = {answer.headers["ratelimit-policy"] for answer in answers[:3]}
        assert policies == {'"key-hour";q=2;w=3600, "source-day";q=50;w=86400'}
        left = [[part.split(";")[1] for part in answer.headers["ratelimit"].split(", ")] for answer in answers]
        assert left == [
            ["r=1", "r=49"],
            ["r=0", "r=48"],
            ["r=0", "r=48"],
            ["r=2", "r=47"],
            ["r=1", "r=46"],
            ["r=0", "r=45"],
            ["r=0", "r=45"],
        ]


async def test_a_repeat_is_answered_although_its_ceiling_is_reached(tmp_path: Path) -> None:
    async with limited(tmp_path, number_calls_per_hour=1) as (running, carrier):
        headers = {"Idempotency-Key": "k"}
        first = await running.client.post("/call", json=lead(), headers=headers)
        again = await running.client.post("/call", json=lead(), headers=headers)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.headers["idempotent-replayed"] == "true"
        assert len(carrier.dialed) == 2


async def test_an_operator_is_told_when_half_of_a_ceiling_is_used_up(tmp_path: Path) -> None:
    async with limited(tmp_path, calls_per_hour=4) as (running, _):
        labels = {"ceiling": "calls-hour", "percent": "50"}

        def told() -> float:
            return telemetry.REGISTRY.get_sample_value("dosvoces_ceiling_alarms_total", labels) or 0.0

        before = told()
        for number in (1, 2, 3):
            assert (await running.client.post("/call", json=request(number))).status_code == 200
        assert told() - before == 1.0


async def test_without_ceilings_nothing_is_counted_nor_told(tmp_path: Path) -> None:
    async with limited(tmp_path) as (running, _):
        answer = await running.post()
        assert answer.status_code == 200
        assert "ratelimit" not in answer.headers
        assert "ratelimit-policy" not in answer.headers
