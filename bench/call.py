"""The whole of `POST /call`: a real service process, a real SMTP server, SIPp phones; this process is the client."""

import asyncio
import json
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.phones import phones
from bench.processes import PYTHON, children, cpu_s, free_port, rss_kib, running, spread, until_listening

ANSWER_LIMIT_S = 30.0
SETTLE_S = 0.5  # from the last hang-up until the record has it

_SETTINGS = """
[http]
port = {http}
[database]
url = "sqlite:///{folder}/record.db"
[mail]
url = "smtp://127.0.0.1:{smtp}?tls=none"
from = "Dosvoces <leads@example.com>"
[sip]
bind = "127.0.0.1:{sip}"
[media]
ports = "10000-59999"
[dialing]
max_connections = {max_connections}
[log]
level = "warning"
[[trunks]]
name = "first"
proxy = "sip:127.0.0.1:{first};transport=udp"
prefixes = ["+346"]
[[trunks]]
name = "second"
proxy = "sip:127.0.0.1:{second};transport=udp"
prefixes = ["+349"]
"""


class Client:
    """Posts over kept connections; a new one is opened when all are waiting for an answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.statuses: Counter[int] = Counter()
        self.answer_ms: list[float] = []
        self.asked: dict[int, float] = {}
        """When each request began to be sent."""

    async def post(self, number: int) -> None:
        """One request; its status and the time to its answer are kept."""
        asked = request(number)
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self.port)
        started = self.asked[number] = time.perf_counter()
        writer.write(asked)
        async with asyncio.timeout(ANSWER_LIMIT_S):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
        self.answer_ms.append((time.perf_counter() - started) * 1000)
        self.statuses[int(answer.split(b" ", 2)[1])] += 1
        self._free.append((reader, writer))

    async def offer(self, *, rate: float, total: int) -> float:
        """Post `total` requests, `rate` a second whatever becomes of them; returns the seconds that it took to post."""
        started, pending = time.perf_counter(), set()
        for number in range(1, total + 1):
            delay = started + number / rate - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(self.post(number))
            pending.add(task)
            task.add_done_callback(pending.discard)
        offered_s = time.perf_counter() - started
        await asyncio.gather(*pending, return_exceptions=True)
        return offered_s

    def close(self) -> None:
        for _reader, writer in self._free:
            writer.close()


def request(number: int) -> bytes:
    body = json.dumps(
        {
            "firstnumber": f"+346{number:08d}",
            "secondnumber": f"+3496{number:07d}",
            "email": "agente@example.com",
            "nombre_propiedad": "Ático en Ruzafa",
            "nombre_comercializador": "Comercializador",
            "url_anuncio": "https://example.com/piso/123",
            "ciudad_propiedad": "Valencia",
            "m2_vivienda": "123",
            "precio_vivienda": "456000",
            "call_interval": 0,
        }
    ).encode()
    head = "POST /call HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True, slots=True)
class Use:
    """What the processes have used so far, in CPU seconds and KiB."""

    service_cpu_s: float
    worker_cpu_s: float
    service_kib: int
    worker_kib: int


class Service:
    """The running service, warm, and a client of it."""

    def __init__(self, pid: int, folder: Path, client: Client) -> None:
        self._pid = pid
        self._workers = children(pid)
        self._record = folder / "record.db"
        self.client = client

    def use(self) -> Use:
        return Use(
            cpu_s(self._pid), sum(map(cpu_s, self._workers)), rss_kib(self._pid), sum(map(rss_kib, self._workers))
        )

    def setup_ms(self) -> tuple[list[float], Counter[str]]:
        """From the record: request to join of each connection but the first, which warmed it up; and the outcomes."""
        with closing(sqlite3.connect(f"file:{self._record}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT created_at, joined_at, outcome FROM connection ORDER BY id").fetchall()[1:]
        times = [
            (datetime.fromisoformat(joined) - datetime.fromisoformat(created)).total_seconds() * 1000
            for created, joined, _ in rows
            if joined is not None
        ]
        return times, Counter(str(outcome) for _, _, outcome in rows)

    def joined(self, since: datetime, until: datetime) -> int:
        """How many were joined in that time, by the record."""
        within = "joined_at >= ? AND joined_at < ?"
        with closing(sqlite3.connect(f"file:{self._record}?mode=ro", uri=True)) as db:
            edges = [moment.isoformat(timespec="microseconds") for moment in (since, until)]
            (count,) = db.execute(f"SELECT count(*) FROM connection WHERE {within}", edges).fetchone()
        return int(count)


@asynccontextmanager
async def service(
    folder: Path, *, first_port: int, second_port: int, max_connections: int = 10_000
) -> AsyncIterator[Service]:
    """A service process that calls these phones, with an SMTP server of its own; it has made one call."""
    async with AsyncExitStack() as stack:
        smtp, http = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        log = folder / "smtp.log"
        sink = await stack.enter_async_context(running(PYTHON, "-m", "bench.smtp_sink", str(smtp), log=log))
        await until_listening(smtp, sink, log)
        config, log = folder / "dosvoces.toml", folder / "service.log"
        sip = free_port(socket.SOCK_DGRAM)
        places = {"http": http, "smtp": smtp, "sip": sip, "first": first_port, "second": second_port}
        config.write_text(_SETTINGS.format(**places, folder=folder, max_connections=max_connections))
        command = (str(Path(PYTHON).with_name("dosvoces")), "--config", str(config), "serve")
        process = await stack.enter_async_context(running(*command, log=log))
        await until_listening(http, process, log)
        client = Client(http)
        stack.callback(client.close)
        await client.post(0)  # What is made at the first request is made now.
        client.answer_ms.clear()
        client.statuses.clear()
        yield Service(process.pid, folder, client)


async def run(folder: Path, *, rate: float, seconds: float, hold_s: float) -> dict[str, Any]:
    """Post `rate` requests a second for `seconds` (open loop), wait until the calls are over, and say what it took."""
    async with (
        phones(folder, hold_s=hold_s) as lines,
        service(folder, first_port=lines.first_port, second_port=lines.second_port) as served,
    ):
        total, before = round(rate * seconds), served.use()
        offered_s = await served.client.offer(rate=rate, total=total)
        peak = served.use()
        await asyncio.sleep(hold_s + SETTLE_S)
        after = served.use()
        setup_ms, outcomes = served.setup_ms()
        return {
            "rate": rate,
            "offered_per_s": round(total / offered_s, 1),
            "connections": total,
            "completed": outcomes["completed"],
            "joined": len(setup_ms),
            "statuses": {str(status): count for status, count in served.client.statuses.items()},
            "outcomes": dict(outcomes),
            "setup_ms": spread(setup_ms),
            "request_to_answer_ms": spread(served.client.answer_ms),
            "cpu_ms_per_connection": {
                "service": round((after.service_cpu_s - before.service_cpu_s) * 1000 / total, 3),
                "media_worker": round((after.worker_cpu_s - before.worker_cpu_s) * 1000 / total, 3),
            },
            "rss_mib": {
                "service_idle": round(before.service_kib / 1024, 1),
                "service": round(peak.service_kib / 1024, 1),
                "media_worker_idle": round(before.worker_kib / 1024, 1),
                "media_worker": round(peak.worker_kib / 1024, 1),
            },
            "log": (folder / "service.log").read_text(errors="replace")[-500:],
        }
