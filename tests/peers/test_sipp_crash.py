"""The service is killed during a call; the next one hangs up who was left on a line, as real phones see it."""

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx

from dosvoces.model import Side
from tests.house import as_toml
from tests.peers.sipp import FINISH_LIMIT_S, PROBE_S, START_LIMIT_S, SippPhone, until
from tests.peers.trial import FIRST, SECOND, settings_values

LEAD = {"firstnumber": FIRST, "secondnumber": SECOND, "email": "ana@example.com"}


@asynccontextmanager
async def serving(folder: Path, values: Mapping[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """`dosvoces serve` in a process of its own, killed (SIGKILL) when the block is left."""
    config = folder / "dosvoces.toml"
    config.write_text(as_toml(values), "utf-8")
    with (folder / "log.txt").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / "dosvoces"), "serve", "--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={name: value for name, value in os.environ.items() if not name.startswith("DOSVOCES_")},
        )
    url = f"http://{values['http']['host']}:{values['http']['port']}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await answering(client)
            yield client
    finally:
        process.kill()
        await process.wait()


async def answering(client: httpx.AsyncClient) -> None:
    """Return when its HTTP port answers."""
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            try:
                await client.get("/healthz")
                return
            except httpx.TransportError:
                await asyncio.sleep(PROBE_S)


async def outcome(client: httpx.AsyncClient, where: str) -> str:
    """It is settled when the far ends have confirmed."""
    async with asyncio.timeout(FINISH_LIMIT_S):
        while True:
            if (record := (await client.get(where)).json())["outcome"]:
                return str(record["outcome"])
            await asyncio.sleep(PROBE_S)


def dialogs_on_disk(folder: Path) -> int:
    """Legs that the record says how to hang up."""
    with closing(sqlite3.connect(f"file:{folder}/record.db?mode=ro", uri=True)) as db:
        ((count,),) = db.execute("SELECT count(*) FROM journal WHERE event = 'dialog'")
        return int(count)


async def test_killed_service_leaves_nobody_on_a_line(tmp_path: Path) -> None:
    """Killed while both talk."""
    async with (
        SippPhone.start(tmp_path, "abandoned", name="phone-a") as a,
        SippPhone.start(tmp_path, "abandoned", name="phone-b") as b,
    ):
        values = settings_values(tmp_path, {Side.A: a.port, Side.B: b.port})
        async with serving(tmp_path, values) as client:
            where = (await client.post("/call", json=LEAD)).headers["location"]
            await until(lambda: dialogs_on_disk(tmp_path) == 2, "the second answer in the record")
        async with serving(tmp_path, values) as client:
            await asyncio.gather(a.finished(), b.finished())
            assert await outcome(client, where) == "interrupted"
        for phone in (a, b):
            assert [len({m.branch for m in phone.received(method)}) for method in ("INVITE", "BYE")] == [1, 1]
