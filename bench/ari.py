"""
Asterisk 22 doing the same work, driven over its REST interface (ARI) by a client as lean as we could make it.

`python -m bench.ari '{…}'` takes what `bench.engine` takes and prints what it prints, with Asterisk and the driver in
place of the engine and its media worker. The Asterisk is fresh, with no log of calls and a filter on its events.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvloop
from websockets.asyncio.client import connect

from bench.processes import cpu_s, rss_kib, spread
from tests.peers.asterisk import Asterisk

APP = "bench"
KEY = "YXJpOmFyaS1zZWNyZXQ="  # ari:ari-secret, as tests/peers/asterisk/etc/ari.conf has it
EVENTS = ("StasisStart", "StasisEnd", "ChannelEnteredBridge", "ChannelDestroyed")
RTP_PORTS = (10000, 31999)  # below those that the system gives to the phones
ANSWER_LIMIT_S = 30.0
SETTLE_LIMIT_S = 30.0
QUIET_S = 1.0


class Rest:
    """Requests over kept connections; a new one is opened when all are waiting for an answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __call__(self, method: str, path: str, body: str = "") -> int:
        """The status of the answer."""
        head = f"{method} /ari/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {KEY}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(head.encode() + body.encode())
        async with asyncio.timeout(ANSWER_LIMIT_S):
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            found = answer.find(b"content-length:")
            if found >= 0:
                await reader.readexactly(int(answer[found + 15 : answer.index(b"\r", found)]))
        self._free.append((reader, writer))
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        for _reader, writer in self._free:
            writer.close()


@dataclass(slots=True)
class Connection:
    """What is waited for; set by events, which come in any order."""

    first: "asyncio.Future[None]"
    second: "asyncio.Future[None]"
    joined: "asyncio.Future[None]"
    hung_up: "asyncio.Future[None]"
    over: "asyncio.Future[None]"
    entered: int = 0


@dataclass(slots=True)
class Driver:
    """Joins numbers by ARI."""

    rest: Rest
    first_port: int
    second_port: int
    open: dict[str, Connection] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)
    joined: dict[int, float] = field(default_factory=dict)
    completed: int = 0

    async def connect(self, number: int) -> None:
        """A dialled, answered; B dialled, answered; both in a bridge; the one who is left is hung up."""
        self.asked[number] = time.perf_counter()
        future = asyncio.get_running_loop().create_future
        c = self.open[str(number)] = Connection(future(), future(), future(), future(), future())
        a, b, bridge = f"a-{number}", f"b-{number}", f"bridges/br-{number}"
        try:
            await self._dial(a, f"+346{number:08d}", self.first_port)
            await c.first
            await asyncio.gather(
                self._dial(b, f"+349{number:08d}", self.second_port, f"&originator={a}"), self._bridge(bridge, a)
            )
            await c.second
            await self.rest("POST", f"{bridge}/addChannel?channel={b}")
            await c.joined
            self.joined[number] = time.perf_counter()
            await c.hung_up
            await asyncio.gather(self.rest("DELETE", f"channels/{a}"), self.rest("DELETE", bridge))
            await c.over
            self.completed += 1
        finally:
            del self.open[str(number)]

    async def _dial(self, channel: str, number: str, port: int, more: str = "") -> None:
        endpoint = quote(f"PJSIP/anyuri/sip:{number}@127.0.0.1:{port}")
        await self.rest("POST", f"channels?endpoint={endpoint}&app={APP}&channelId={channel}&timeout=30{more}")

    async def _bridge(self, bridge: str, first: str) -> None:
        await self.rest("POST", f"bridges?type=mixing&bridgeId={bridge.rpartition('/')[2]}")
        await self.rest("POST", f"{bridge}/addChannel?channel={first}")

    async def listen(self, socket: Any) -> None:
        """Take the events of the application until it ends."""
        async for text in socket:
            event = json.loads(text)
            kind = event["type"]
            if "channel" not in event or (c := self.open.get((name := event["channel"]["id"])[2:])) is None:
                continue
            if kind == "StasisStart":
                _set(c.first if name[0] == "a" else c.second)
            elif kind == "ChannelEnteredBridge":
                c.entered += 1
                if c.entered == 2:
                    _set(c.joined)
            elif kind == "StasisEnd" and name[0] == "b":
                _set(c.hung_up)
            elif kind == "ChannelDestroyed" and name[0] == "a":
                _set(c.over)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


@asynccontextmanager
async def driving(folder: Path, first_port: int, second_port: int) -> AsyncIterator[tuple[Driver, Asterisk]]:
    """A fresh Asterisk and a driver that hears its events."""
    async with Asterisk.start(folder, rtp_ports=RTP_PORTS) as asterisk:
        rest = Rest(asterisk.http_port)
        driver = Driver(rest, first_port, second_port)
        url = f"ws://127.0.0.1:{asterisk.http_port}/ari/events?app={APP}&api_key=ari:ari-secret"
        async with connect(url, compression=None, max_queue=None) as socket:
            listening = asyncio.create_task(driver.listen(socket))
            wanted = json.dumps({"allowed": [{"type": kind} for kind in EVENTS]})
            status = await rest("PUT", f"applications/{APP}/eventFilter", wanted)
            assert status == 200, status
            yield driver, asterisk
            listening.cancel()
        rest.close()


async def _offer(driver: Driver, *, rate: float, total: int) -> float:
    started, pending = time.perf_counter(), set()
    for number in range(1, total + 1):
        delay = started + number / rate - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(driver.connect(number))
        pending.add(task)
        task.add_done_callback(pending.discard)
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Use:
    asterisk_s: float
    driver_s: float
    asterisk_kib: int
    driver_kib: int

    @classmethod
    def now(cls, pid: int) -> "_Use":
        return cls(cpu_s(pid), time.process_time(), rss_kib(pid), rss_kib(os.getpid()))


async def run(
    *, first_port: int, second_port: int, rate: float, seconds: float, hold_s: float, moments: bool = False
) -> dict[str, Any]:
    """As `bench.engine.run`."""
    total = round(rate * seconds)
    with tempfile.TemporaryDirectory() as folder:
        async with driving(Path(folder), first_port, second_port) as (driver, asterisk):
            before = _Use.now(asterisk.pid)
            offered_s = await _offer(driver, rate=rate, total=total)
            await asyncio.sleep(min(QUIET_S, hold_s / 2))
            open_now, peak = len(driver.open), _Use.now(asterisk.pid)
            with suppress(TimeoutError):
                async with asyncio.timeout(hold_s + SETTLE_LIMIT_S):
                    while driver.open:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            left_open, after = len(driver.open), _Use.now(asterisk.pid)
    done, joined = max(1, driver.completed), driver.joined
    return {
        "rate": rate,
        "offered_per_s": round(total / offered_s, 1),
        "connections": total,
        "completed": driver.completed,
        "joined": len(joined),
        "left_open": left_open,
        "setup_ms": spread([(at - driver.asked[number]) * 1000 for number, at in joined.items()]),
        "cpu_ms_per_connection": {
            "asterisk": round((after.asterisk_s - before.asterisk_s) * 1000 / done, 3),
            "driver": round((after.driver_s - before.driver_s) * 1000 / done, 3),
        },
        "open_when_memory_was_read": open_now,
        "kib_per_open_connection": {
            "asterisk": round((peak.asterisk_kib - before.asterisk_kib) / max(1, open_now), 1),
            "driver": round((peak.driver_kib - before.driver_kib) / max(1, open_now), 1),
        },
        **({"moments": _moments(driver)} if moments else {}),
    }


def _moments(driver: Driver) -> dict[str, dict[str, float]]:
    return {str(number): {"asked": driver.asked[number], "joined": at} for number, at in driver.joined.items()}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(**json.loads(sys.argv[1])))))
