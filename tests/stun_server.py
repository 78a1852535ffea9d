"""A STUN server on loopback, and how its messages are put together."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

from dosvoces.sip import stun
from dosvoces.sip.api import Address

HOST = "127.0.0.1"
ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")


def answer(*attributes: tuple[int, bytes], kind: int = 0x0101, transaction: bytes = ID) -> bytes:
    body = b"".join(struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4) for name, value in attributes)
    return struct.pack("!HHI", kind, len(body), stun.MAGIC) + transaction + body


def xored(host: bytes, port: int) -> bytes:
    return struct.pack("!BBH", 0, 1, port ^ 0x2112) + bytes(
        a ^ b for a, b in zip(host, b"\x21\x12\xa4\x42", strict=True)
    )


class StunServer(asyncio.DatagramProtocol):
    """A STUN server that says what it is told to say."""

    def __init__(self) -> None:
        self.says: Address | None = ("203.0.113.7", 40_000)
        self.asked = asyncio.Event()
        self.from_port = 0
        self._transport: asyncio.DatagramTransport

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator["StunServer"]:
        made = cls()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: made, (HOST, 0))
        made._transport = transport
        try:
            yield made
        finally:
            transport.close()

    @property
    def address(self) -> Address:
        host, port = self._transport.get_extra_info("sockname")
        return host, port

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.from_port = addr[1]
        self.asked.set()
        if self.says is not None:
            host = bytes(int(part) for part in self.says[0].split("."))
            self._transport.sendto(answer((0x20, xored(host, self.says[1])), transaction=b"x" * 12), addr)
            self._transport.sendto(answer((0x20, xored(host, self.says[1])), transaction=data[8:20]), addr)
