"""
Attacks on a running service: SIPVicious scans it, and garbage floods it while a call is set up and talks.

`FLOOD_S` says how long the flood lasts (10 s), `FLOOD_PER_S` how dense it is (10,000 datagrams a second).
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil

from dosvoces.phone import PhoneBehaviour
from dosvoces.testing import until
from tests.house import FIRST, HOST, SECOND, Phones, house_and_phones, lead, process
from tests.ports import free_port

STRANGER = "127.0.0.66"
WITNESS = "127.0.0.67"
FLOOD_S = float(os.environ.get("FLOOD_S", "10"))
FLOOD_PER_S = int(os.environ.get("FLOOD_PER_S", "10000"))
FLOOD_SHARE = 0.98  # of the datagrams asked for, that must have gone out
RSS_LIMIT = 20 * 2**20  # bytes that the service may grow by
TALK_S = 1.0


class Witness(asyncio.DatagramProtocol):
    """Stands between a scanner and the service, a stranger to the latter; counts both ways."""

    def __init__(self, service: tuple[str, int]) -> None:
        self.service = service
        self.scanner: tuple[str, int] | None = None
        self.forwarded = 0
        self.answers: list[bytes] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr == self.service:
            self.answers.append(data)
            if self.scanner:
                self.transport.sendto(data, self.scanner)
        else:
            self.scanner = addr
            self.forwarded += 1
            self.transport.sendto(data, self.service)


@asynccontextmanager
async def witness(service: tuple[str, int]) -> AsyncIterator[tuple[Witness, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Witness(service), local_addr=(WITNESS, 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def run(*command: str, folder: Path) -> str:
    """What a program wrote, both ways; it gets 30 s."""
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        written, _ = await asyncio.wait_for(running.communicate(), 30)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return written.decode("utf-8", "replace")


SCANS = {
    "svmap OPTIONS": ("svmap", "-m", "OPTIONS"),
    "svmap INVITE": ("svmap", "-m", "INVITE"),
    "svmap REGISTER": ("svmap", "-m", "REGISTER"),
    "svwar REGISTER": ("svwar", "--force", "-e100-130", "-m", "REGISTER"),
    "svwar INVITE": ("svwar", "--force", "-e100-130", "-m", "INVITE"),
    "svwar OPTIONS": ("svwar", "--force", "-e100-130", "-m", "OPTIONS"),
}


async def test_a_scanner_gets_no_answer(tmp_path: Path) -> None:
    """A call is up meanwhile, so that there is something to find."""
    talks = PhoneBehaviour(answer_after_s=0.0)
    async with house_and_phones(tmp_path, talks, talks) as (house, phones):
        answer = await house.post()
        assert answer.status_code == 200
        agent = house.service.carrier.agent  # type: ignore[attr-defined]
        service = agent.local

        async def scan(name: str) -> int:
            async with witness(service) as (seen, port):
                said = await run(*SCANS[name], "-b", STRANGER, "-p", str(port), WITNESS, folder=tmp_path)
                assert seen.forwarded > 0, f"{name} sent nothing: {said}"
                return len(seen.answers)

        found = dict(zip(SCANS, await asyncio.gather(*map(scan, SCANS)), strict=True))
        assert found == dict.fromkeys(SCANS, 0)
        assert agent.open_calls == 2
        phones.call(FIRST).hang_up()
        assert (await house.over(answer)).outcome == "completed"


async def flood(source: str, port: int, kind: str) -> dict[str, float]:
    """Half of what is to come, from one address; what went out and came back."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.peers.flood", source, str(port), str(FLOOD_PER_S // 2), str(FLOOD_S), kind),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        written, _ = await asyncio.wait_for(running.communicate(), FLOOD_S + 20)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    result: dict[str, float] = json.loads(written)
    return result


def memory(pid: int) -> int:
    """Resident bytes of a process and of those that it started."""
    service = psutil.Process(pid)
    return sum(int(each.memory_info().rss) for each in (service, *service.children(recursive=True)))


async def a_call(client: httpx.AsyncClient, phones: Phones) -> float:
    """Two phones joined, each heard by the other, hung up by the second; how long the request took."""
    begin = time.monotonic()
    answer = await client.post("/call", json=lead())
    took_s = time.monotonic() - begin
    assert (answer.status_code, answer.text) == (200, "Data received successfully")
    await phones.quiet()
    heard = {number: phones.call(number).heard for number in (FIRST, SECOND)}
    assert heard[FIRST].dominant(heard[FIRST].between(0.3, TALK_S)) == 1000, heard[FIRST].describe()
    assert heard[SECOND].dominant(heard[SECOND].between(0.3, TALK_S)) == 440, heard[SECOND].describe()
    return took_s


async def test_a_flood_of_garbage_leaves_calls_alone(tmp_path: Path) -> None:
    """
    Half from a stranger, with sound requests among it, half under the trunk's own address, which is parsed.

    Calls are made one after the other as long as it lasts. The senders make up for a late turn, so the full rate is
    kept; only what falls due after a sender's last turn, some hundredths of a second, may be missing.
    """
    port = free_port()
    numbers = {
        FIRST: PhoneBehaviour(answer_after_s=0.0, tone_hz=440),
        SECOND: PhoneBehaviour(answer_after_s=0.0, tone_hz=1000, hangup_after_s=TALK_S),
    }
    async with (
        Phones.open(numbers) as phones,
        process(tmp_path, phones.phone, sip={"bind": f"{HOST}:{port}"}) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=10) as client,
    ):
        quiet_s = await a_call(client, phones)  # what is loaded at the first call isn't the flood's
        before = memory(serving.process.pid)
        floods = asyncio.gather(flood(STRANGER, port, "scan"), flood(HOST, port, "garbage"))
        set_up_s = []
        while not floods.done():
            set_up_s.append(await a_call(client, phones))
        grown = memory(serving.process.pid) - before
        results = await floods

        async def all_over() -> bool:
            return not serving.rows("SELECT 1 FROM connection WHERE outcome IS NULL")

        await until(all_over, limit_s=5)
        outcomes = serving.rows("SELECT outcome FROM connection")
    assert [result["answers"] for result in results] == [0, 0]
    assert sum(result["sent"] for result in results) >= FLOOD_PER_S * FLOOD_S * FLOOD_SHARE, results
    assert outcomes == [("completed",)] * (1 + len(set_up_s))
    assert max(set_up_s) < quiet_s + 1.0, (quiet_s, set_up_s)
    assert grown < RSS_LIMIT, f"{grown / 2**20:.1f} MiB"
    if os.environ.get("FLOOD_TELL"):
        sys.stderr.write(
            f"\n{results}\nset-up {quiet_s:.3f} s, in the flood {set_up_s}; grown {grown / 2**20:.1f} MiB\n"
        )
