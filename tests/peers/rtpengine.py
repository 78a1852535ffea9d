"""
rtpengine as a media relay: Debian's daemon in userspace, without its kernel module, on loopback and private ports.

    async with Rtpengine.start() as daemon:
        relay = RtpengineRelay(RtpengineSettings([daemon.at], digits=daemon.digits))
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from dosvoces.errors import MediaError
from dosvoces.media import ng
from tests.far_ends import media_ports
from tests.peers.sipp import free_ports

HOST = "127.0.0.1"
START_LIMIT_S = 10.0


@dataclass(eq=False)
class Rtpengine:
    """A running rtpengine."""

    at: tuple[str, int]
    """Of its NG protocol."""
    digits: tuple[str, int]
    """Where it tells of keys."""
    ports: tuple[int, int]
    process: asyncio.subprocess.Process

    @classmethod
    @asynccontextmanager
    async def start(cls) -> "AsyncIterator[Rtpengine]":
        """The process is ended, by its own id, when the block is left."""
        control, digits = free_ports(2)
        at, to, ports = (HOST, control), (HOST, digits), media_ports()
        daemon = cls(at, to, ports, await _spawn(at, to, ports))
        try:
            await daemon.ready()
            yield daemon
        finally:
            await daemon.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        """Wait until it answers."""
        async with asyncio.timeout(START_LIMIT_S):
            while True:
                try:
                    return await ng.ping(*self.at)
                except MediaError:
                    assert self.process.returncode is None, "rtpengine ended at its start"
                    await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Idempotent."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def again(self) -> None:
        """Start it once more, at the same place; it knows nothing of what was."""
        await self.kill()
        self.process = await _spawn(self.at, self.digits, self.ports)
        await self.ready()


async def _spawn(at: tuple[str, int], digits: tuple[str, int], ports: tuple[int, int]) -> asyncio.subprocess.Process:
    arguments = {
        "config-file": "none",
        "table": -1,  # no kernel module
        "interface": HOST,
        "listen-ng": f"{at[0]}:{at[1]}",
        "dtmf-log-dest": f"{digits[0]}:{digits[1]}",
        "port-min": ports[0],
        "port-max": ports[1],
        "timeout": 3600,
        "num-threads": 1,
        "media-num-threads": 1,
        "log-level": 3,
    }
    return await asyncio.create_subprocess_exec(
        *("rtpengine", "--foreground", "--log-stderr"),
        *(f"--{name}={value}" for name, value in arguments.items()),
        stderr=asyncio.subprocess.DEVNULL,
    )
