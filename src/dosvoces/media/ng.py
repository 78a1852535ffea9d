"""
One rtpengine as seen from here: its NG protocol over UDP, and whether it is alive.

A message is a cookie, a space and a bencoded dictionary (rtpengine, docs/ng_control_protocol.md). rtpengine remembers
the answer to each cookie for a while, so that a command that is sent again is not done twice. Knows nothing of
connections; `rtpengine.py` does.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from typing import Any

from dosvoces.errors import MediaError
from dosvoces.media.bencode import BencodeError, Value, decode, encode

REPEATS_S = (0.1, 0.2, 0.4, 0.8)  # pauses between sendings of a command; after the last one it has failed
PING_S = 0.5  # a daemon that was killed refuses the next ping, which tells
DEAD_S = 3.0  # one that says nothing for so long is left out, and its connections are lost
MAX_PENDING = 10_000  # commands without an answer; beyond it more are refused

_log = logging.getLogger(__name__)


class NgError(MediaError):
    """rtpengine answered that it can't, in its own words."""


class Node(asyncio.DatagramProtocol):
    """
    One daemon. `changed(node, up)` is called from the loop whenever it is found alive or dead; it begins as dead.

    An address that doesn't resolve at `open` is asked again with the pings.
    """

    def __init__(self, host: str, port: int, changed: Callable[["Node", bool], None]) -> None:
        self.host, self.port = host, port
        self.up = False
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._pending: dict[bytes, asyncio.Future[dict[str, Any]]] = {}
        self._heard_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        self.address = ""
        """The literal address that it answers from, once connected."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def open(self) -> None:
        """Ask it for the first time, and go on asking."""
        await self._look()
        self._watching = asyncio.create_task(self._watch(), name=f"rtpengine {self}")

    async def close(self) -> None:
        """Ask no more; what waits fails. Idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        self._changed, self.up = _nobody, False
        self._fall("the media relay is closed")
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def ask(self, command: str, **fields: Value) -> dict[str, Any]:
        """Send a command and return its answer; a `_` in a name is a `-` on the wire. Raises `MediaError`."""
        transport = self._transport
        if transport is None:
            raise MediaError(f"rtpengine {self} is not there")
        if len(self._pending) >= MAX_PENDING:
            raise MediaError(f"rtpengine {self} leaves {MAX_PENDING} commands unanswered")
        cookie = secrets.token_hex(8).encode()
        message = {name.replace("_", "-"): value for name, value in fields.items()}
        data = cookie + b" " + encode({"command": command, **message})
        answer = self._pending[cookie] = self._loop.create_future()
        try:
            for pause in REPEATS_S:
                transport.sendto(data)
                try:
                    async with asyncio.timeout(pause):
                        return _checked(await asyncio.shield(answer))
                except TimeoutError:
                    continue
            raise MediaError(f"rtpengine {self} did not answer {command!r}")
        finally:
            self._pending.pop(cookie, None)
            answer.cancel()

    def tell(self, command: str, **fields: Value) -> None:
        """Send a command once, whoever hears it: its answer is not waited for."""
        if self._transport is not None:
            message = {name.replace("_", "-"): value for name, value in fields.items()}
            self._transport.sendto(secrets.token_hex(8).encode() + b" " + encode({"command": command, **message}))

    # --- whether it is alive ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await self._look()

    async def _look(self) -> None:
        try:
            if self._transport is None:
                await self._connect()
            await self.ask("ping")
        except (MediaError, OSError) as error:
            if self.up and self._loop.time() - self._heard_at > DEAD_S:
                self._fall(str(error))

    async def _connect(self) -> None:
        # Connected: a closed port shows itself as an error, and nobody else is heard.
        transport, _ = await self._loop.create_datagram_endpoint(lambda: self, remote_addr=(self.host, self.port))
        self._transport = transport
        # A tone takes 50 kB, and rtpengine's answers come in bursts.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.address = str(transport.get_extra_info("peername")[0])

    def _rise(self) -> None:
        self._heard_at = self._loop.time()
        if not self.up:
            self.up = True
            _log.info("rtpengine %s answers", self)
            self._changed(self, True)

    def _fall(self, why: str) -> None:
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(MediaError(f"rtpengine {self} is gone: {why}"))
        if self.up:
            self.up = False
            _log.error("rtpengine %s is gone: %s", self, why)
            self._changed(self, False)

    # --- DatagramProtocol ---

    def datagram_received(self, data: bytes, addr: object) -> None:
        cookie, _, body = data.partition(b" ")
        answer = self._pending.get(cookie)
        if answer is None or answer.done():
            return
        try:
            decoded = decode(body)
        except BencodeError as error:
            answer.set_exception(MediaError(f"rtpengine {self} answers what is no NG protocol: {error}"))
            return
        if not isinstance(decoded, dict):
            answer.set_exception(MediaError(f"rtpengine {self} answers what is no NG protocol"))
            return
        answer.set_result(decoded)
        self._rise()

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, ConnectionRefusedError):
            self._fall("nobody listens there")


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("result") == "error":
        raise NgError(f"rtpengine: {answer.get('error-reason', 'it says no more')}")
    return answer


def _nobody(node: Node, up: bool) -> None:
    """Whom a closed node tells."""


async def ping(host: str, port: int) -> None:
    """Ask an rtpengine once whether it is there. Raises `MediaError`."""
    node = Node(host, port, _nobody)
    try:
        await node._connect()
        await node.ask("ping")
    except OSError as error:
        raise MediaError(f"rtpengine {node}: {error.strerror or error}") from error
    finally:
        await node.close()
