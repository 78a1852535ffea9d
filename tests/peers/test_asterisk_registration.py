"""Registering at Asterisk 22: what it knows of us, how long, and what it says when it doesn't."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dosvoces.carriers.dns import Dns
from dosvoces.carriers.trunks import Trunk, Trunks
from dosvoces.carriers.upkeep import Upkeep
from dosvoces.sip.agent import Agent
from tests.peers.asterisk import PASSWORD, Asterisk
from tests.peers.sipp import HOST


@asynccontextmanager
async def registering(carrier: Asterisk, password: str = PASSWORD, expires_s: int = 600) -> AsyncIterator[list[str]]:
    """Yields what is wrong with the trunk once it has tried."""
    trunk = Trunk(
        "main",
        HOST,
        carrier.sip_port,
        username="carrier",
        password=password,
        register=True,
        register_expires_s=expires_s,
        options_interval_s=30,
    )
    trunks = Trunks([trunk], lambda most: most)
    upkeep = Upkeep(trunks, Dns(), families=("A",))
    await upkeep.look()
    agent = await Agent.open(bind=(HOST, 0), peers=upkeep.hosts())
    try:
        await upkeep.start(agent)
        yield trunks.problems([], asyncio.get_running_loop().time())
    finally:
        await upkeep.close()
        await agent.close()


async def known(carrier: Asterisk) -> int:
    """How many contacts Asterisk has for our account."""
    return (await carrier.command("pjsip show contacts")).count("carrier/sip:dosvoces@")


async def test_asterisk_knows_us_and_is_told_when_we_go(tmp_path: Path) -> None:
    async with Asterisk.start(tmp_path) as carrier:
        async with registering(carrier) as problems:
            assert (problems, await known(carrier)) == ([], 1)
        assert await known(carrier) == 0


async def test_asterisk_wants_ten_seconds_at_least(tmp_path: Path) -> None:
    """Its `minimum_expiration`: what asks for less gets 423 with Min-Expires."""
    async with Asterisk.start(tmp_path) as carrier, registering(carrier, expires_s=5) as problems:
        shown = await carrier.command("pjsip show contacts")
        assert (problems, await known(carrier)) == ([], 1), shown


async def test_asterisk_refuses_a_wrong_password(tmp_path: Path) -> None:
    async with Asterisk.start(tmp_path) as carrier, registering(carrier, password="wrong") as problems:
        assert problems == ["no trunk is up", "trunk main is not registered: 401 Unauthorized"]
        assert await known(carrier) == 0
