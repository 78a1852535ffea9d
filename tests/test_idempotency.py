"""A client that repeats its request, with the phones as witnesses: whatever comes between, nobody is rung twice."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from dosvoces.phone import PhoneBehaviour
from dosvoces.testing import until
from tests.house import ANSWERS, FIRST, LIMIT_S, SECOND, Phones, house_and_phones, lead, process
from tests.test_trial_runs import a_made_key

LATE = PhoneBehaviour(answer_after_s=0.6)
PATIENCE_S = 0.2
"""Of a client that gives up before its call is made."""
KEY = {"Idempotency-Key": '"order 17"'}


async def rung(phones: Phones) -> list[str]:
    return sorted(call.number for call in phones.phone.calls)


@pytest.mark.parametrize("headers", [{}, KEY])
async def test_a_client_that_gives_up_and_retries_rings_nobody_twice(tmp_path: Path, headers: dict[str, str]) -> None:
    async with house_and_phones(tmp_path, LATE, ANSWERS, http={"coalesce": True}) as (house, phones):

        async def asked(patience_s: float) -> httpx.Response:
            timeout = httpx.Timeout(LIMIT_S, read=patience_s)
            return await house.client.post("/call", json=lead(), headers=headers, timeout=timeout)

        for number in range(3):
            if number == 0 or not headers:
                with pytest.raises(httpx.ReadTimeout):
                    await asked(PATIENCE_S if number == 0 else 0.02)
            else:
                assert (await asked(LIMIT_S)).status_code == 409

        async def answered() -> bool:
            return (await asked(LIMIT_S)).status_code != 409

        await until(answered, limit_s=LIMIT_S)
        last = await asked(LIMIT_S)
        assert (last.status_code, last.text) == (200, "Data received successfully")
        assert last.headers["idempotent-replayed"] == "true"
        assert await rung(phones) == sorted([FIRST, SECOND])
        newest = await house.newest()
        assert newest is not None
        assert last.headers["location"] == f"/v1/connections/{newest.id}"
        assert len(await house.service.store.connections()) == 1
        assert len(await house.service.store.mails()) == 1


async def test_fifty_at_once_ring_nobody_twice(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS, http={"coalesce": True}) as (house, phones):
        posts = [house.client.post("/call", json=lead()) for _ in range(50)]
        keyed = [house.client.post("/call", json=lead(call_interval=1), headers=KEY) for _ in range(50)]
        answers = await asyncio.gather(*posts, *keyed)
        assert [answer.status_code for answer in answers[:50]] == [200] * 50
        assert sum("idempotent-replayed" not in answer.headers for answer in answers[:50]) == 1
        statuses = [answer.status_code for answer in answers[50:]]
        assert statuses.count(200) >= 1
        assert set(statuses) <= {200, 409}
        new = [a for a in answers[50:] if a.status_code == 200 and "idempotent-replayed" not in a.headers]
        assert len(new) == 1
        assert await rung(phones) == sorted([FIRST, SECOND] * 2)


async def test_one_client_does_not_get_the_call_of_another(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS, http={"coalesce": True}) as (house, phones):
        url = house.service.settings.database.address
        website, office = [await a_made_key(url, name, test=False) for name in ("website", "office")]
        await asyncio.sleep(1.0)  # What the door knew before, that there are no keys, holds for that long.
        made = [await house.client.post("/call", json=lead(), headers=key) for key in (website, office, website)]
        assert [answer.status_code for answer in made] == [200] * 3
        assert ["idempotent-replayed" in answer.headers for answer in made] == [False, False, True]
        first, other, repeat = (answer.headers["location"] for answer in made)
        assert (first == repeat, first == other) == (True, False)
        assert await rung(phones) == sorted([FIRST, SECOND] * 2)


@pytest.mark.parametrize(
    "point",
    ["k02_request_recorded", "k08_first_about_to_be_intended", "k09_first_intended", "k12_first_180_received"],
)
async def test_a_repeat_after_a_kill_rings_nobody_twice(tmp_path: Path, point: str) -> None:
    """Before the intent to dial it is begun anew, with the same mail; after it, nobody is dialled again."""
    dialled = point >= "k09"
    rang = point >= "k10"
    async with Phones.open({FIRST: LATE, SECOND: ANSWERS}) as phones:
        async with process(tmp_path, phones.phone, crash_at=point) as serving:
            async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client:
                with pytest.raises(httpx.TransportError):
                    await client.post("/call", json=lead(), headers=KEY)
            assert await serving.ended() == -signal.SIGKILL
        async with process(tmp_path, phones.phone) as serving:
            async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client:

                async def settled() -> bool:
                    return (await client.post("/call", json=lead(), headers=KEY)).status_code != 409

                await until(settled, limit_s=2 * LIMIT_S)
                answers = [await client.post("/call", json=lead(), headers=KEY) for _ in range(2)]
            assert [answer.headers["idempotent-replayed"] for answer in answers] == ["true", "true"]
            assert {answer.status_code for answer in answers} == {500 if dialled else 200}
            if dialled:
                assert answers[0].json() == {
                    "Message": f"Could not make call to {FIRST}: "
                    "the service stopped meanwhile, and nobody is called twice"
                }
            assert await rung(phones) == ([FIRST] if rang else [] if dialled else sorted([FIRST, SECOND]))
            rows = serving.rows("SELECT outcome, resumes IS NOT NULL, idempotency_key FROM connection ORDER BY id")
            if dialled:
                assert rows == [("interrupted", 0, "order 17")]
            else:
                assert rows[0] == ("interrupted", 0, None)
                assert rows[1][1:] == (1, "order 17")
                assert len(rows) == 2
            # However often it was handed over, it was the same mail.
            assert serving.rows("SELECT count(*) FROM mail") == [(1,)]
            serving.signal(signal.SIGTERM)
            assert await serving.ended() == 0
        await phones.quiet()
