"""
The media worker: a process of its own that moves RTP, so that neither the database nor a slow page can hurt a voice.

Run as `python -m dosvoces.media.worker FD`, where FD is its end of the control socket (`wire.py`); `process.py` starts
it and nothing else does. One thread, one `epoll`. It ends when the control socket ends. It knows no SIP and keeps no
record.
"""

import gc
import math
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from dosvoces.errors import MediaError
from dosvoces.media import Digit, Format, Heard, Silent, Srtp, Statistics
from dosvoces.media.gate import RtcpGate, SecureGate, Send, sealing
from dosvoces.media.headers import HeaderRing, ReceiveInto
from dosvoces.media.incoming import MAX_PACKET
from dosvoces.media.ports import PortPair, PortPool
from dosvoces.media.session import Line, Session
from dosvoces.media.source import SocketAddress, SourceLock
from dosvoces.media.tones import FRAME_MS
from dosvoces.media.wire import MAX_MESSAGE, Message, decode, encode
from dosvoces.model import ConnectionId, Side

TICK_S = FRAME_MS / 1000  # one frame of tone
DESCRIPTORS_PER_CONNECTION = 4  # RTP and RTCP of two sides, until they have rested
OTHER_DESCRIPTORS = 16
SETTLE_S = 0.2  # how often lost ends of key presses, due reports and rested ports are looked for
MAX_EVENTS = 512  # sockets served before the clock is looked at again
GATHER_MS = 1  # how long packets gather; it takes a third off their cost and adds 0.7 ms to a voice
PLENTY = 256  # sockets ready at once; so many need not gather
MAX_COMMANDS = 64  # commands served before packets are again
MAX_LATE_TICKS = 5  # frames of tone made up for after a stall; beyond it the tone goes on later
MAX_OUTBOX = 10_000  # messages the server has not read; beyond it what is told is lost
MAX_TROUBLES = 20  # tracebacks told to the server

_FIGURES = tuple(field.name for field in fields(Statistics))  # `astuple` would copy each of them deeply

_Socket = tuple[
    SourceLock | SecureGate | RtcpGate,
    Line | SecureGate | RtcpGate,
    Callable[[bytearray], tuple[int, Any]],
    Callable[[bytearray, int, float], SocketAddress | None],
    Send,
]
"""
What a readable socket means: its lock and line, `recvfrom_into`, `Incoming.receive`, the other side's `sendto`.

Where it isn't plain RTP, a gate is both lock and line.
"""


class Call:
    """A session with its sockets."""

    __slots__ = ("headers", "ports", "senders", "session")

    def __init__(self, session: Session, ports: dict[Side, PortPair], headers: HeaderRing | None) -> None:
        self.headers = headers
        self.session = session
        self.ports = ports
        self.senders: dict[Side, Send] = {}
        """How a packet goes to a side: as it is, or encrypted."""


class Worker:
    """The loop and the commands."""

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control = control
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._calls: dict[ConnectionId, Call] = {}
        self._sockets: dict[int, _Socket] = {}
        self._ringing: dict[ConnectionId, Call] = {}
        self._reserved: dict[int, dict[Side, PortPair]] = {}
        """Open and not yet of any connection, by the first side's port."""
        self._orders: deque[Message] = deque()
        self._outbox: deque[bytes] = deque()
        self._blocked = False  # the server doesn't read; `_attend` goes on when it does
        self._pool = PortPool("", [])
        self._next_tick = self._next_settle = 0.0
        self._silence_s = math.inf
        self._headers = 0  # kept of each connection
        self._troubles = 0
        self._over = False
        self._commands: dict[str, Callable[..., None]] = {
            "start": self._start,
            "reserve": self._reserve,
            "allocate": self._allocate,
            "connect": self._connect,
            "play": self._play,
            "warn": self._warn,
            "stop": self._stop,
            "join": self._join,
            "release": self._release,
            "ping": self._done,
        }

    def run(self) -> None:
        """Serve until the server is gone."""
        while not self._over:
            try:
                self._serve()
            except Exception:  # The loop's edge: one packet that shows a fault of ours must not end all calls.
                self._trouble(traceback.format_exc())

    def _serve(self) -> None:
        poll, sockets, clock = self._epoll.poll, self._sockets, time.monotonic
        packet = bytearray(MAX_PACKET)
        view = memoryview(packet)
        control = self._control.fileno()
        commands = select.poll()
        commands.register(control, select.POLLIN)
        gather, before = commands.poll, 0.0
        self._obey()  # what came together with an order that met a fault
        while not self._over:
            ready = poll(self._wait(clock()), MAX_EVENTS)
            now = clock()
            for fd, _ in ready:
                if fd == control:
                    continue
                # One packet a turn: no line starves another, and no call is spent on learning that a socket is empty.
                lock, line, receive_into, receive, send = sockets[fd]
                try:
                    size, source = receive_into(packet)
                except OSError:
                    continue  # an ICMP error of an earlier packet, or a bad checksum: nothing to read
                if source == lock.source or line.admit(packet, size, source):
                    destination = receive(packet, size, now)
                    if destination is not None:
                        try:
                            send(view[:size], destination)
                        except OSError:
                            continue  # no route, or the buffer is full: a packet lost, as on any network
            if now >= self._next_tick and self._ringing:
                self._tick(now)
            if now >= self._next_settle:
                self._settle(now)
            for fd, events in ready:
                if fd == control:
                    self._attend(events)
            # Waking up costs as much as moving a packet. When packets come fast, they are let gather for a moment,
            # which only a command cuts short; a lone packet never waits.
            if len(ready) < PLENTY and (len(ready) > 1 or now - before < GATHER_MS / 1000):
                gather(GATHER_MS)
            before = now

    # Time

    def _wait(self, now: float) -> float:
        """Seconds until something is due; -1: nothing ever."""
        due = self._next_settle if self._calls or self._pool.resting else -1.0
        if self._ringing:
            due = min(due, self._next_tick)
        return due if due < 0 else max(0.0, due - now)

    def _tick(self, now: float) -> None:
        """Play the next frame of every tone, on a clock that doesn't drift."""
        if now - self._next_tick > MAX_LATE_TICKS * TICK_S:
            self._next_tick = now
        while self._next_tick <= now:
            for call in self._ringing.values():
                for side, line in call.session.lines.items():
                    packet = line.out.tone_packet(self._next_tick)
                    if packet is not None and line.out.destination is not None:
                        try:
                            call.senders[side](packet, line.out.destination)
                        except OSError:
                            continue
            self._next_tick += TICK_S

    def _settle(self, now: float) -> None:
        for call in self._calls.values():
            call.session.settle(now)
            for side, line in call.session.lines.items():
                if line.reports.due <= now:
                    _send_rtcp(call.ports[side], line.report(now))
        self._pool.wake(now)
        self._next_settle = now + SETTLE_S

    # Commands

    def _attend(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if not events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            return
        for _ in range(MAX_COMMANDS):
            try:
                data = self._control.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._over = True
                return
            self._orders.extend(decode(data))
            self._obey()

    def _obey(self) -> None:
        while self._orders:
            name, *arguments = self._orders.popleft()
            self._commands[name](*arguments)

    def _start(
        self,
        host: str,
        low: int,
        high: int,
        index: int,
        count: int,
        resting: list[int],
        rest_s: float,
        silence_s: float,
        headers: int,
    ) -> None:
        self._silence_s = silence_s or math.inf
        self._headers = headers
        ports = list(range(low + low % 2, high, 2))[index::count]
        self._pool = PortPool(host, ports, rest_s=rest_s)
        self._pool.avoid(resting, time.monotonic())
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._tell("ready", min(len(ports) // 2, (descriptors - OTHER_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION))

    def _reserve(self, number: int, count: int) -> None:
        """Open ports for so many connections, or for as many as there is room for."""
        now = time.monotonic()
        found: list[tuple[int, int]] = []
        try:
            for _ in range(count):
                ports = self._open(now)
                found.append((ports[Side.A].port, ports[Side.B].port))
                self._reserved[ports[Side.A].port] = ports
        except MediaError as error:
            if not found:
                self._tell("failed", number, str(error))
                return
        self._done(number, *found)

    def _open(self, now: float) -> dict[Side, PortPair]:
        first = self._pool.open(now)
        try:
            return {Side.A: first, Side.B: self._pool.open(now)}
        except MediaError:
            self._pool.give_back(first)
            raise

    def _allocate(self, id: ConnectionId, country: str, first_port: int) -> None:
        now = time.monotonic()
        ports = self._reserved.pop(first_port)
        if not self._calls:
            self._next_settle = now + SETTLE_S
        session = Session(id, country, self._report, _entropy, silence_s=self._silence_s)
        call = Call(session, ports, HeaderRing(self._headers) if self._headers else None)
        self._calls[id] = call
        self._wire(call)
        for pair in ports.values():
            for opened in (pair.rtp, pair.rtcp):
                self._epoll.register(opened.fileno(), select.EPOLLIN)

    def _wire(self, call: Call) -> None:
        """Say what each socket of the call means; to be said again when the encryption of a side changes."""
        lines = call.session.lines
        for side, pair in call.ports.items():
            shield = lines[side].shield
            send: Send = pair.rtp.sendto if call.headers is None else call.headers.sending(side, pair.rtp.sendto)
            call.senders[side] = send if shield is None else sealing(shield, send)
        for side, pair in call.ports.items():
            line, send = lines[side], call.senders[side.other]
            receive_into: ReceiveInto = pair.rtp.recvfrom_into
            if call.headers is not None:
                receive_into = call.headers.receiving(side, receive_into)
            receive = line.incoming.receive
            if line.shield is None:
                self._sockets[pair.rtp.fileno()] = (line.lock, line, receive_into, receive, send)
            else:
                gate = SecureGate(line, send, time.monotonic)
                self._sockets[pair.rtp.fileno()] = (gate, gate, receive_into, receive, send)
            reports = RtcpGate(line, time.monotonic)
            self._sockets[pair.rtcp.fileno()] = (reports, reports, pair.rtcp.recvfrom_into, receive, send)

    def _connect(
        self,
        id: ConnectionId,
        side: str,
        host: str | None,
        port: int,
        coded: list[Any],
        sends: bool,
        rtcp_port: int | None,
        keys: tuple[str, str, str] | None,
        playing_host: str | None,
        playing_port: int,
    ) -> None:
        if call := self._calls.get(id):
            remote = None if host is None else (host, port)
            plays_from = None if playing_host is None else (playing_host, playing_port)
            coded[-1] = tuple(coded[-1])  # JSON has lists alone
            format = Format(*coded)
            srtp = None if keys is None else Srtp(keys[0], bytes.fromhex(keys[1]), bytes.fromhex(keys[2]))
            before = call.session.lines[Side(side)].shield
            call.session.connect(
                *(Side(side), remote, format),
                plays_from=plays_from,
                sends=sends,
                srtp=srtp,
                rtcp_port=rtcp_port,
            )
            if call.session.lines[Side(side)].shield is not before:
                self._wire(call)
            self._watch_ringing(id, call)

    def _play(self, id: ConnectionId, side: str) -> None:
        if call := self._calls.get(id):
            call.session.play_ringing(Side(side))
            self._start_ticking(id, call)

    def _warn(self, id: ConnectionId, side: str) -> None:
        if call := self._calls.get(id):
            call.session.play_warning(Side(side))
            self._start_ticking(id, call)

    def _start_ticking(self, id: ConnectionId, call: Call) -> None:
        if not self._ringing:
            self._next_tick = time.monotonic()
        self._watch_ringing(id, call)

    def _stop(self, id: ConnectionId, side: str) -> None:
        if call := self._calls.get(id):
            call.session.stop_ringing(Side(side))
            self._watch_ringing(id, call)

    def _join(self, number: int, id: ConnectionId) -> None:
        call = self._calls.get(id)
        if call is None:
            self._tell("failed", number, f"the worker has no connection {id}")
            return
        call.session.join()
        self._watch_ringing(id, call)
        self._done(number)

    def _release(self, number: int, id: ConnectionId) -> None:
        call = self._calls.pop(id, None)
        if call is None:
            self._tell("failed", number, f"the worker has no connection {id}")
            return
        self._ringing.pop(id, None)
        now = time.monotonic()
        for side, pair in call.ports.items():
            _send_rtcp(pair, call.session.lines[side].goodbye(now))
            for opened in (pair.rtp, pair.rtcp):
                self._epoll.unregister(opened.fileno())
                del self._sockets[opened.fileno()]
            self._pool.rest(pair, now)
        for portion in call.headers.messages() if call.headers is not None else []:
            self._tell("headers", id, call.ports[Side.A].port, call.ports[Side.B].port, portion)
        sides = call.session.end()
        self._done(number, *([getattr(sides[side], name) for name in _FIGURES] for side in Side))

    def _watch_ringing(self, id: ConnectionId, call: Call) -> None:
        if any(line.out.ringing for line in call.session.lines.values()):
            self._ringing[id] = call
        else:
            self._ringing.pop(id, None)

    # What the server is told

    def _report(self, event: Digit | Heard | Silent) -> None:
        match event:
            case Digit():
                self._tell("digit", event.connection_id, event.side, event.digit, event.duration_ms)
            case Heard():
                self._tell("heard", event.connection_id, event.side, event.source.host, event.source.port)
            case Silent():
                self._tell("silent", event.connection_id, event.side, event.for_s)

    def _done(self, number: int, *result: object) -> None:
        self._tell("done", number, *result)

    def _trouble(self, text: str) -> None:
        self._troubles += 1
        if self._troubles <= MAX_TROUBLES:
            self._tell("trouble", text[-4000:])

    def _tell(self, *message: object) -> None:
        if len(self._outbox) < MAX_OUTBOX:
            self._outbox.append(encode(*message))
        self._flush()

    def _flush(self) -> None:
        blocked = False
        try:
            while self._outbox:
                self._control.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            blocked = True
        except OSError:
            self._over = True
        if blocked is not self._blocked:
            self._blocked = blocked
            self._epoll.modify(self._control.fileno(), select.EPOLLIN | (select.EPOLLOUT if blocked else 0))


def _send_rtcp(pair: PortPair, packet: tuple[bytes, SocketAddress] | None) -> None:
    if packet is not None:
        try:
            pair.rtcp.sendto(*packet)
        except OSError:
            pass  # nobody there, or no room: the next report tells as much


def _entropy(bits: int) -> int:
    return int.from_bytes(os.urandom(bits // 8))


def main() -> None:
    """Be a worker. The one argument is the control socket's descriptor."""
    # Ctrl-C and a service manager's SIGTERM go to the whole group; the server decides when calls end, not the signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # a session leaves no cycles (tested), and a full collection stops every voice for milliseconds
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
