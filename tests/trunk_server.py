"""A trunk on loopback that answers REGISTER and OPTIONS as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request, compose, parse

HOST = "127.0.0.1"
NONCE = "n1"
REALM = "trunk"


class TrunkServer(asyncio.DatagramProtocol):
    """What it received is in `requests`, by arrival."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.account: Credentials | None = None
        """Whose REGISTER is taken; `None`: anyone's, unchallenged."""
        self.min_expires_s = 0
        self.grant_s: int | None = None
        """What is granted, whatever was asked for."""
        self.register_code = 200
        self.options_code = 200
        self.silent = False
        self.sees: Callable[[int], int] = lambda port: port
        """The port that `rport` says, by that which the request came from."""
        self.bound: dict[str, int] = {}
        """The last granted time by Contact."""
        self._came = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int = 0) -> AsyncIterator["TrunkServer"]:
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(cls, local_addr=(HOST, port))
        try:
            yield server
        finally:
            transport.close()

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    async def came(self, method: str, count: int) -> list[Request]:
        """Wait for that many requests, repeats included."""
        async with asyncio.timeout(5):
            while len(self.of(method)) < count:
                self._came.clear()
                await self._came.wait()
        return self.of(method)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        self.requests.append(request)
        self._came.set()
        if not self.silent:
            code, headers = self._register(request) if request.method == "REGISTER" else (self.options_code, [])
            self._transport.sendto(self._reply(request, addr, code, headers), addr)

    def _register(self, request: Request) -> tuple[int, list[tuple[str, str]]]:
        if self.register_code != 200:
            return self.register_code, []
        if self.account is not None and not check(
            request.header("authorization"), self.account, method="REGISTER", realm=REALM, nonce=NONCE
        ):
            return 401, [("WWW-Authenticate", f'Digest realm="{REALM}", nonce="{NONCE}", qop="auth", algorithm=MD5')]
        contact, *old = request.values("contact") or [""]
        for gone in old:
            assert gone.endswith(";expires=0")
            self.bound.pop(gone.removesuffix(";expires=0"), None)
        if not contact:
            return 200, [("Contact", f"{known};expires={left_s}") for known, left_s in self.bound.items()]
        asked_s = int(request.header("expires"))
        if 0 < asked_s < self.min_expires_s:
            return 423, [("Min-Expires", str(self.min_expires_s))]
        granted_s = asked_s if self.grant_s is None or asked_s == 0 else self.grant_s
        self.bound[contact] = granted_s
        return 200, [("Contact", f"{contact};expires={granted_s}")]

    def _reply(self, request: Request, addr: tuple[str, int], code: int, headers: list[tuple[str, str]]) -> bytes:
        via = request.header("via").replace(";rport;", f";rport={self.sees(addr[1])};received=203.0.113.7;")
        lines = [("Via", via), ("From", request.header("from")), ("To", f"{request.header('to')};tag=t")]
        lines += [("Call-ID", request.header("call-id")), ("CSeq", request.header("cseq")), *headers]
        return compose(f"SIP/2.0 {code} said", lines)
