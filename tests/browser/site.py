"""A site of its own for a browser: one page under a strict Content-Security-Policy, and a server that makes tokens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

HOST = "127.0.0.1"


@dataclass
class Site:
    """`page` and `token` are asked for with each request."""

    origin: str = ""
    page: str = ""
    policy: str = ""
    token: Callable[[], str] = str

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Site"]:
        site = cls()
        server = await asyncio.start_server(site._serve, HOST, 0)
        site.origin = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        try:
            yield site
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split(" ", 2)
        if (method, path) == ("POST", "/token"):
            status, kind, body = "200 OK", "text/plain", self.token()
        elif path == "/":
            status, kind, body = "200 OK", "text/html; charset=utf-8", self.page
        else:
            status, kind, body = "404 Not Found", "text/plain", ""
        data = body.encode()
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(data)}",
            f"Content-Security-Policy: {self.policy}",
            "Connection: close",
            "",
            "",
        ]
        writer.write("\r\n".join(lines).encode("latin-1") + data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
