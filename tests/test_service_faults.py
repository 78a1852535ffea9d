"""
The whole service while its record fails, judged by what the phones saw: who talks goes on talking, nobody is dialled
without a record, requests are answered 503 and taken again by themselves when the record is back.
"""

# ruff: noqa: ASYNC240  (What a test does to the record may hold up the test.)

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from dosvoces.phone import PhoneBehaviour, PhoneEventKind
from dosvoces.testing import until
from tests.house import ANSWERS, FIRST, SECOND, House, Phones, Sections, house_and_phones
from tests.postgres import Cluster

ANSWERED, ENDED, RINGING = PhoneEventKind.ANSWERED, PhoneEventKind.ENDED, PhoneEventKind.RINGING
FileFault = Callable[[Path], AbstractAsyncContextManager[None]]
ServerFault = Callable[[Cluster], AbstractAsyncContextManager[None]]
OTHERS = {"firstnumber": "+34600000033", "secondnumber": "+34960000044"}
ANSWER_LIMIT_S = 4.5
"""A request must have its 503 by then: 2.5 s for the first one to notice, the rest for a busy machine."""
RECOVERY_LIMIT_S = 20.0


async def lived_through(running: House, phones: Phones, fault: AbstractAsyncContextManager[None]) -> None:
    """A call that stands when the fault begins goes on, and ends well, and all of it is in the record."""
    answer = await running.post(call_interval=0)
    assert answer.status_code == 200
    await phones.when(ANSWERED, SECOND)
    async with fault:
        for _ in range(3):
            async with asyncio.timeout(ANSWER_LIMIT_S):
                refused = await running.post(**OTHERS)
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) > 0
        assert [number for number in dialled(phones) if number in OTHERS.values()] == []
        assert ended(phones) == []
        phones.call(FIRST).hang_up()
        await phones.when(ENDED, SECOND)  # Who is left is released at once, whatever the record does.
    await taken_again(running)
    record = await running.over(answer)
    assert record.outcome == "completed"
    events = [entry.event for entry in await running.journal(record)]
    assert [name for name in ("answered", "joined", "ended") if name not in events] == []
    # Each call that the phones saw has its intent in the record, and nobody was rung twice.
    assert sorted(dialled(phones)) == sorted({FIRST, SECOND})
    again = await running.post(call_interval=0)
    assert again.status_code == 200, again.text
    await running.journalled("joined")
    phones.call(FIRST).hang_up()
    assert (await running.over(again)).outcome == "completed"
    assert await running.service.store.unfinished() == []


def dialled(phones: Phones) -> list[str]:
    return [event.call.number for _, event in phones.seen if event.kind is RINGING]


def ended(phones: Phones) -> list[str]:
    return [event.call.number for _, event in phones.seen if event.kind is ENDED]


async def taken_again(running: House) -> None:
    async def ready() -> bool:
        return await running.service.ready() == []

    await until(ready, limit_s=RECOVERY_LIMIT_S)


# --- SQLite ---


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


@asynccontextmanager
async def lost(path: Path) -> AsyncIterator[None]:
    path.rename(path.with_name("away.db"))
    yield
    path.with_name("away.db").rename(path)


@pytest.mark.parametrize("fault", [locked, lost])
async def test_a_call_outlives_a_file_that_is(fault: FileFault, tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, phones):
        await lived_through(running, phones, fault(tmp_path / "record.db"))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MiB for the record alone."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system wants root")
    folder = Path(tempfile.mkdtemp(prefix="dosvoces-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@asynccontextmanager
async def full(folder: Path) -> AsyncIterator[None]:
    ballast = folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(folder).free < 4096
    yield
    ballast.unlink()


async def test_a_call_outlives_a_full_disk(small_disk: Path) -> None:
    async with house_and_phones(small_disk, ANSWERS, ANSWERS) as (running, phones):
        await lived_through(running, phones, full(small_disk))


# --- PostgreSQL ---


@asynccontextmanager
async def killed(cluster: Cluster) -> AsyncIterator[None]:
    cluster.kill()
    yield
    await cluster.started()


@asynccontextmanager
async def stopped_at_once(cluster: Cluster) -> AsyncIterator[None]:
    cluster.stop(signal.SIGQUIT)
    yield
    await cluster.started()


@asynccontextmanager
async def paused(cluster: Cluster) -> AsyncIterator[None]:
    cluster.pause()
    yield
    cluster.resume()


PATIENT: Sections = {"fence_s": 60.0, "dead_s": 120.0}
"""The fault lasts for less: a node that can't beat for `fence_s` hangs up its calls, which is another rule's matter."""


@pytest.mark.parametrize("fault", [killed, stopped_at_once, paused])
async def test_a_call_outlives_a_server_that_is(fault: ServerFault, tmp_path: Path, postgres_cluster: Cluster) -> None:
    database: Sections = {"url": postgres_cluster.url(postgres_cluster.new_database())}
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS, database=database, node=PATIENT) as (running, phones):
        await lived_through(running, phones, fault(postgres_cluster))


async def test_a_server_that_dies_under_load_loses_and_doubles_nothing(
    tmp_path: Path, postgres_cluster: Cluster
) -> None:
    """Every request ends in an answer; every number that rang is in the record, once per attempt."""
    database: Sections = {"url": postgres_cluster.url(postgres_cluster.new_database())}
    brief = PhoneBehaviour(answer_after_s=0.0, hangup_after_s=0.3)
    async with house_and_phones(tmp_path, brief, brief, database=database, node=PATIENT) as (running, phones):
        answers: list[int] = []

        async def caller() -> None:
            while len(answers) < 150:
                answers.append((await running.post(call_interval=0)).status_code)
                await asyncio.sleep(0.05)

        load = [asyncio.create_task(caller()) for _ in range(8)]
        for _ in range(2):
            await asyncio.sleep(0.7)
            postgres_cluster.kill()
            await asyncio.sleep(0.5)
            await postgres_cluster.started()
            await taken_again(running)
        await asyncio.gather(*load)
        await taken_again(running)

        async def over() -> bool:
            return await running.service.store.unfinished() == []

        await until(over, limit_s=RECOVERY_LIMIT_S)
        assert set(answers) <= {200, 500, 503}
        assert answers.count(200) > 0
        assert 503 in answers
        records = await running.service.store.connections(limit=1000)
        intents = sum(leg.dialed_at is not None for record in records for leg in record.legs)
        assert len(dialled(phones)) <= intents
        assert len([record for record in records if record.joined_at is not None]) > 0
