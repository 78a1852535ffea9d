"""How many connections the open files carry; and a service with few of them, which makes no half calls."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from dosvoces.open_files import BESIDE, PER_CONNECTION, clients_within, connections_within
from tests.house import ANSWERS, LIMIT_S, RINGS, Phones, lead, process

FEW = BESIDE + 5 * PER_CONNECTION + 1


@pytest.mark.parametrize(
    ("files", "connections"), [(0, 0), (BESIDE + PER_CONNECTION - 1, 0), (BESIDE + PER_CONNECTION, 1), (FEW, 5)]
)
def test_files_carry_so_many_connections(files: int, connections: int) -> None:
    assert connections_within(files) == connections


def test_there_is_always_room_for_a_client_to_be_refused() -> None:
    assert [clients_within(0, 100), clients_within(BESIDE + 300, 100)] == [1, 100]


async def test_with_few_open_files_the_calls_that_fit_are_made_and_the_rest_refused_before_the_mail(
    tmp_path: Path,
) -> None:
    firsts = [f"+3460000010{n}" for n in range(8)]
    seconds = [f"+3496000020{n}" for n in range(8)]
    numbers = dict.fromkeys(firsts, ANSWERS) | dict.fromkeys(seconds, RINGS)
    async with (
        Phones.open(numbers) as phones,
        process(tmp_path, phones.phone, wrapper=("prlimit", f"--nofile={FEW}:{FEW}")) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
    ):
        pairs = zip(firsts, seconds, strict=True)
        asked = [client.post("/call", json=lead(firstnumber=a, secondnumber=b)) for a, b in pairs]
        answers = await asyncio.gather(*asked)
        assert Counter(answer.status_code for answer in answers) == {200: 5, 503: 3}
        rung = {number for number, answer in zip(firsts, answers, strict=True) if answer.status_code == 200}
        assert {call.number for call in phones.phone.calls} & set(firsts) == rung
        assert serving.rows("SELECT count(*) FROM connection") == serving.rows("SELECT count(*) FROM mail") == [(5,)]
        assert sum('"fewer connections than set"' in line for line in serving.lines) == 1
