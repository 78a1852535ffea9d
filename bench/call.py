"""The whole of `POST /call`: a real service process, a real SMTP server, SIPp phones; this process is the client."""

import asyncio
import json
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.phones import phones
from bench.processes import PYTHON, children, cpu_s, free_port, percentile, rss_kib, running, until_listening

ANSWER_LIMIT_S = 30.0

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
ports = "20000-39999"
[dialing]
max_connections = 4000
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
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.statuses: Counter[int] = Counter()
        self.answer_ms: list[float] = []

    async def post(self, number: int) -> None:
        """One request; its status and the time to its answer are kept."""
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
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        started = time.perf_counter()
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        async with asyncio.timeout(ANSWER_LIMIT_S):
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
        self.answer_ms.append((time.perf_counter() - started) * 1000)
        self.statuses[int(answer.split(b" ", 2)[1])] += 1
        self._free.append((reader, writer))

    def close(self) -> None:
        for _reader, writer in self._free:
            writer.close()


async def run(folder: Path, *, rate: float, seconds: float, hold_s: float) -> dict[str, Any]:
    """Post `rate` requests a second for `seconds` (open loop), wait until the calls are over, and say what it took."""
    async with AsyncExitStack() as stack:
        lines = await stack.enter_async_context(phones(folder, hold_s=hold_s))
        smtp, http = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        sip = free_port(socket.SOCK_DGRAM)
        log = folder / "smtp.log"
        sink = await stack.enter_async_context(running(PYTHON, "-m", "bench.smtp_sink", str(smtp), log=log))
        await until_listening(smtp, sink, log)
        config, log = folder / "dosvoces.toml", folder / "service.log"
        config.write_text(
            _SETTINGS.format(
                http=http, smtp=smtp, sip=sip, first=lines.first_port, second=lines.second_port, folder=folder
            )
        )
        command = (str(Path(PYTHON).with_name("dosvoces")), "--config", str(config), "serve")
        service = await stack.enter_async_context(running(*command, log=log))
        await until_listening(http, service, log)
        client = Client(http)
        stack.callback(client.close)
        await client.post(0)  # What is made at the first request is made now.
        client.answer_ms.clear()
        worker = children(service.pid)
        before = _usage(service.pid, worker)
        started, pending = time.perf_counter(), set()
        total = round(rate * seconds)
        for number in range(1, total + 1):
            delay = started + number / rate - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(client.post(number))
            pending.add(task)
            task.add_done_callback(pending.discard)
        offered_s = time.perf_counter() - started
        await asyncio.gather(*pending, return_exceptions=True)
        await asyncio.sleep(hold_s + 0.5)
        after = _usage(service.pid, worker)
        return {
            "rate": rate,
            "offered_per_s": round(total / offered_s, 1),
            "statuses": {str(status): count for status, count in client.statuses.items()},
            "request_to_answer_ms": {
                name: round(percentile(client.answer_ms, share), 2)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            },
            "cpu_ms_per_connection": {
                part: round((after[part] - before[part]) * 1000 / total, 3) for part in ("service", "media_worker")
            },
            "rss_mib": {"service": rss_kib(service.pid) // 1024, "media_worker": sum(map(rss_kib, worker)) // 1024},
            "log": log.read_text(errors="replace")[-500:],
        }


def _usage(pid: int, worker: list[int]) -> dict[str, float]:
    return {"service": cpu_s(pid), "media_worker": sum(cpu_s(child) for child in worker)}
