"""
A client that costs next to nothing: it offers requests at a rate, open loop, over kept connections.

Streams and tasks for each request would cost this process as much as a refusal costs the service, and both share the
machine's cores.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import cast

from bench.call import request

TICK_S = 0.002
ANSWER_LIMIT_S = 60.0


class Flood:
    """Requests on their way, and what became of those that are over."""

    def __init__(self, port: int, numbers: Iterator[int]) -> None:
        self._port = port
        self._numbers = numbers
        self._free: list[_Line] = []
        self._lines: set[_Line] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.waiting = 0
        self._idle = asyncio.Event()
        self.answer_ms: dict[int, list[float]] = {}
        """By status; 0 for a connection that was refused or cut."""

    @property
    def statuses(self) -> dict[str, int]:
        return {str(status): len(times) for status, times in sorted(self.answer_ms.items())}

    async def open(self, lines: int) -> None:
        """
        Have so many connections open before anything is sent: to open them keeps this process busy, too.

        To be called shortly before: a service closes one that asks for nothing.
        """
        while len(self._free) < lines:
            self._free.append(await self._connect())

    async def offer(self, *, rate: float, seconds: float) -> float:
        """Send `rate` requests a second for `seconds`, whatever becomes of them; returns how many a second it was."""
        started = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) < started + seconds:
            for _ in range(int((now - started) * rate) - sent):
                self._send()
                sent += 1
            await asyncio.sleep(TICK_S)
        offered = sent / (time.perf_counter() - started)
        await self._all_answered()
        return offered

    async def keep_busy(self, *, at_once: int, seconds: float) -> float:
        """Keep `at_once` requests on their way for `seconds`; returns how many a second were answered."""
        started, answered = time.perf_counter(), sum(map(len, self.answer_ms.values()))
        while time.perf_counter() < started + seconds:
            for _ in range(at_once - self.waiting):
                self._send()
            await asyncio.sleep(TICK_S)
        await self._all_answered()
        return (sum(map(len, self.answer_ms.values())) - answered) / (time.perf_counter() - started)

    async def _all_answered(self) -> None:
        self._idle.clear()
        if self.waiting:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await self._idle.wait()

    def close(self) -> None:
        for line in list(self._lines):
            line.transport.close()

    def _send(self) -> None:
        self.waiting += 1
        if self._free:
            self._free.pop().send(request(next(self._numbers)))
        else:
            task = asyncio.create_task(self._open(request(next(self._numbers))))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, asked: bytes) -> None:
        started = time.perf_counter()
        try:
            line = await self._connect()
        except OSError:
            self.over(started, 0)
            return
        line.send(asked, started)

    async def _connect(self) -> "_Line":
        _, line = await asyncio.get_running_loop().create_connection(lambda: _Line(self), "127.0.0.1", self._port)
        self._lines.add(line)
        return line

    def over(self, started: float, status: int) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._idle.set()
        self.answer_ms.setdefault(status, []).append((time.perf_counter() - started) * 1000)

    def free(self, line: "_Line") -> None:
        self._free.append(line)

    def gone(self, line: "_Line") -> None:
        self._lines.discard(line)
        if line in self._free:
            self._free.remove(line)


class _Line(asyncio.Protocol):
    """One connection: a request at a time. An answer of this service fits one segment but for its body's end."""

    transport: asyncio.Transport

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._started: float | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none of asyncio's classes

    def send(self, asked: bytes, started: float | None = None) -> None:
        self._started = time.perf_counter() if started is None else started
        self._got = b""
        self.transport.write(asked)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]) if found else 1
        if len(body) < length or self._started is None:
            return
        started, self._started = self._started, None
        self._flood.over(started, int(head[9:12]))
        if b"connection: close" in head.lower():
            self.transport.close()
        else:
            self._flood.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._flood.gone(self)
        if self._started is not None:
            self._flood.over(self._started, 0)
            self._started = None
