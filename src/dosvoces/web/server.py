"""
Puts the HTTP application on a socket, inside the loop that is already running.

uvicorn with its signal handlers, access log and banner off: `app` decides when to stop, structlog what is said.
"""

import asyncio
import contextlib
import os
import re
import socket
from asyncio import AbstractEventLoop, Future, TimerHandle, Transport
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dosvoces.errors import SettingsError
from dosvoces.web.answers import message
from dosvoces.web.problems import OVERLOADED, problem
from dosvoces.web.streams import TRANSPORT
from dosvoces.web.turns import Turns

HEAD_TIMEOUT_S = 10.0
"""From the connection, or a request's first byte, to the end of its headers."""
MAX_HEAD_BYTES = 32 * 1024
KEEP_ALIVE_S = 75
UNHEARD_S = 1.0
"""How long, at the end, a client that has connected may take to send its request and be told to go elsewhere."""
BACKLOG = 4096

_SOON = (b"retry-after", b"1")
_OVERLOADED = {
    b"/call": message(503, "Too many requests at once; nothing was done", _SOON),
    b"/v1/connections": problem(OVERLOADED, "", _SOON),
}
"""By the path: what makes calls. All else (health, looking, hanging up) is never refused for want of time."""
_OVERLOADED_BYTES = {path: reply.as_bytes() for path, reply in _OVERLOADED.items()}
_CALL_OVERLOADED = _OVERLOADED_BYTES[b"/call"]
_CALL_LINE = b"POST /call HTTP/1.1\r\n"
_NOT_PLAIN = re.compile(rb"\n(?:idempotency-key|transfer-encoding|expect|upgrade|connection(?!: *keep-alive\r))", re.I)
_LENGTH = re.compile(rb"\ncontent-length: *(\d{1,6})\r", re.I)

_BUSY = message(503, "Too many connections; nothing was done", (b"retry-after", b"5"), (b"connection", b"close"))
_BUSY_BYTES = _BUSY.as_bytes()

_HEAD_TOO_LARGE = message(431, "The request's headers are too large", (b"connection", b"close"))


async def _head_too_large(scope: Scope, receive: Receive, send: Send) -> None:
    await _HEAD_TOO_LARGE.send(send)


async def _served_after(turn: Future[None], app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await turn
    await app(scope, receive, send)


async def _overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    await _OVERLOADED[scope["path"].encode("ascii")].send(send)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await _BUSY.send(send)


class HttpServer:
    """
    Serves `app` on one TCP socket between `start` and `stop`.

    `port` 0 asks the system for one; `address` tells which it gave. While the process doesn't keep up, and while `full`
    says that there is no room for one more beside so many who wait, requests that would make calls are refused before
    their body is read. While `crowded` says so, none begins.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        max_clients: int = 1000,
        full: Callable[[int], bool] = lambda waiting: False,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._host = host
        self._port = port
        self._turns = Turns(crowded)
        self._full = full
        self._config = uvicorn.Config(
            cast(Any, app),
            http=cast(Any, partial(_Protocol, self._must_shed, self._turns)),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=max_clients,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    def _must_shed(self) -> bool:
        # Who waits for a turn may want a place: to be told only then that there is none would take as long.
        return self._full(self._turns.waiting) or self._turns.too_many()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; valid between `start` and `stop`."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Listen. Raises `SettingsError` if the address can't be had."""
        self._socket = await _listen(self._host, self._port)
        self._server = _Server(self._config)
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task

    async def stop(self, *, grace_s: float = 5.0) -> None:
        """Take no more requests, give those under way `grace_s` to finish, close; idempotent."""
        if self._server is None or self._task is None:
            return
        self._config.timeout_graceful_shutdown = cast(int, grace_s)
        self._server.leave()
        await self._task
        self._server = self._task = self._socket = None


async def _listen(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise SettingsError(
            f"http.host is {host!r}, which is not an address of this machine ({error.strerror}); "
            "set it to 127.0.0.1, 0.0.0.0 or ::"
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Can't listen for HTTP on {host}:{port}: {os.strerror(error.errno or 0)}; "
            "stop what uses it, or set another http.port (above 1024) or http.host"
        ) from error
    return listener


def _path(target: bytes) -> bytes:
    """What a request's target names: `/call?from=crm`, `http://host/call` and `/c%61ll` are `/call` as well."""
    if target in _OVERLOADED:  # As nearly all write it: the others' way takes longer.
        return target
    try:
        return unquote_to_bytes(httptools.parse_url(target).path or b"")
    except httptools.HttpParserInvalidURLError:
        return target


def _is_plain(data: bytes) -> bool:
    """Whether that is one whole request, with nothing in its head that would change how it is answered."""
    end = data.find(b"\r\n\r\n")
    head, body = data[: end + 1], data[end + 4 :]
    if end < 0 or _NOT_PLAIN.search(head):
        return False
    lengths = _LENGTH.findall(head)
    return len(lengths) == 1 and int(lengths[0]) == len(body)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, saying when it listens, and waking once a second, not ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # Renews the Date header.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """
        As uvicorn's, but who has connected and was not heard yet is answered first.

        Closing a connection with a request in it unread resets it (RFC 9112 §9.6): its client could not know that
        nothing was done, and must not repeat it.
        """
        await asyncio.sleep(0)  # Who waits to be accepted is.
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        limit = loop.time() + UNHEARD_S
        while self._unheard() and loop.time() < limit:  # noqa: ASYNC110  # uvicorn tells nobody
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _unheard(self) -> bool:
        """Whether somebody has connected and has sent no whole request yet."""
        return any(cast(_Protocol, each).cycle is None for each in self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


class _Answered:
    """In the place of a cycle of uvicorn's: the request is answered, what is left of its body is dropped."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED = _Answered()


class _Protocol(HttpToolsProtocol):
    """
    uvicorn's protocol, with limits it doesn't have: on the time and the size of a request's head (a client that sends
    a header a minute must not hold a connection), and a refusal in our own words when there are too many clients.
    """

    def __init__(
        self,
        must_shed: Callable[[], bool],
        turns: Turns,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._must_shed = must_shed
        self._turns = turns
        self._between = True
        """Whether the parser has seen its last message whole, and no byte of the next."""
        self._serving = self.app
        self._max_clients = self.limit_concurrency or 0
        self.limit_concurrency = None
        self._head_bytes = 0
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Told apart on arrival: a crowd at the door must not turn away those that are inside.
        self._one_too_many = len(self.connections) > self._max_clients
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if data.startswith(_CALL_LINE) and self._between and self._refuse_unparsed(data):
            return
        idle = self.timeout_keep_alive_task
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head(b"431 Request Header Fields Too Large")
        elif idle is not None and self.timeout_keep_alive_task is None and self._nothing_under_way():
            # An empty line, or more of a body that nobody reads: it doesn't put the end off.
            self.timeout_keep_alive_task = self.loop.call_at(idle.when(), self.timeout_keep_alive_handler)

    def _nothing_under_way(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._between = False
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]
        if self._head_timer is None:
            self._await_head()

    def on_message_complete(self) -> None:
        self._between = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._head_complete()
        if self._one_too_many:
            self.app = cast(Any, _busy)
        elif len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self.app = cast(Any, _head_too_large)
        elif self.parser.get_method() != b"POST" or (path := _path(self.url)) not in _OVERLOADED:
            self.app = self._serving
        elif self._has_key() or not self._must_shed():
            self._serve_in_turn()
        elif self._in_turn() and self.parser.should_keep_alive():
            return self._refuse_cheaply(path)
        else:
            self._turns.refused()
            self.app = cast(Any, _overloaded)
        super().on_headers_complete()

    def _serve_in_turn(self) -> None:
        turn = self._turns.take()
        self.app = self._serving if turn is None else cast(Any, partial(_served_after, turn, self._serving))

    def _has_key(self) -> bool:
        """Whether this may be a repeat that has its answer already, which is never refused."""
        return any(name == b"idempotency-key" for name, _ in self.headers)

    def _in_turn(self) -> bool:
        """Whether the next answer on this connection is this request's, and there is room to write it."""
        return self._nothing_under_way() and not self.flow.write_paused and not self._one_too_many

    def _refuse_cheaply(self, path: bytes) -> None:
        """Without a task, a cycle or the application: a refusal must cost a small part of what it saves."""
        self._turns.refused()
        self.transport.write(_OVERLOADED_BYTES[path])
        self.cycle = cast(Any, _ANSWERED)
        self._keep_alive()

    def _refuse_unparsed(self, data: bytes) -> bool:
        """Not even the parser is asked: it would take as long as all the rest. Whether it was possible."""
        if self._one_too_many and _is_plain(data):
            self._head_complete()
            self.transport.write(_BUSY_BYTES)
            self.transport.close()
        elif self._must_shed() and self._in_turn() and _is_plain(data):
            self._head_complete()
            self._unset_keepalive_if_required()
            self._turns.refused()
            self.transport.write(_CALL_OVERLOADED)
            self._keep_alive()
        else:
            return False
        return True

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, self.timeout_keep_alive_handler)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse_head, b"408 Request Timeout")

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self, status: bytes) -> None:
        self._head_complete()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
