"""The `MediaRelay` of our own: media workers in processes of their own, started, watched and spoken to from asyncio."""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field

from dosvoces.errors import MediaError, NotAllowed
from dosvoces.media import (
    Address,
    Digit,
    Format,
    Headers,
    Heard,
    Lost,
    MediaRelay,
    RelayEvent,
    RtpHeader,
    Silent,
    Srtp,
    Statistics,
)
from dosvoces.media.process import WorkerProcess
from dosvoces.media.wire import Message
from dosvoces.model import ConnectionId, Side

FIRST_BACKOFF_S = 0.05
LONGEST_BACKOFF_S = 5.0
STEADY_S = 10.0  # a worker that lived so long starts again without a longer pause than the first
STOCK = 8  # connections whose ports are open before they are asked for: an allocation then waits for nobody
LOW_STOCK = 4
PATIENCE_S = 1.0  # how long `allocate` waits for a worker that is being started again

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Where the workers listen, and what SDP says of it."""

    bind_host: str = "0.0.0.0"
    """A literal address of ours; of IPv4 or IPv6, and so is all media."""
    advertised_host: str = "127.0.0.1"
    """The literal address that the parties send to."""
    port_range: tuple[int, int] = (20000, 29999)
    """Lowest and highest port, inclusive; each connection takes four."""
    workers: int = 1
    """Processes; each has its share of the ports."""
    rest_s: float = 30.0
    """How long a port is not given again after its connection is over."""
    silence_s: float = 30.0
    """How long a side that should send may be quiet before that is told; 0: for ever."""
    headers: int = 0
    """How many RTP headers of each connection are kept and told at its release; never the audio."""

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.bind_host else socket.AF_INET

    def try_address(self) -> None:
        """Raises `MediaError` if no port can be had there: each call would fail by it, and after its mail."""
        try:
            with socket.socket(self.family, socket.SOCK_DGRAM) as trial:
                trial.bind((self.bind_host, 0))
        except OSError as error:
            raise MediaError(
                f"media can't be received at {self.bind_host}: {error.strerror}; "
                "[media] address must be one of this machine's, or 0.0.0.0"
            ) from error


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one worker, whichever process fills it."""

    index: int
    process: WorkerProcess | None = None
    calls: "dict[ConnectionId, _Call]" = field(default_factory=dict)
    resting: deque[float] = field(default_factory=deque)
    """When the ports of each connection that is over may be given again."""
    stock: deque[tuple[int, int]] = field(default_factory=deque)
    """Ports that the worker holds ready for the next connections."""
    stocking: asyncio.Task[None] | None = None
    allocating: int = 0
    """Connections that are on their way to it."""
    backoff_s: float = FIRST_BACKOFF_S
    started_at: float = 0.0
    restart: asyncio.Task[None] | None = None

    def room(self, now: float) -> int:
        """Connections that it can have, those that it has included."""
        while self.resting and self.resting[0] <= now:
            self.resting.popleft()
        return 0 if self.process is None else max(len(self.calls), self.process.most - len(self.resting))


@dataclass(slots=True, eq=False)
class _Call:
    """A connection that a worker has."""

    slot: _Slot
    ports: tuple[int, int]
    formats: dict[Side, Format] = field(default_factory=dict)


class WorkerRelay(MediaRelay):
    """Spreads connections over its workers; a connection stays with the worker that it began with."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._report: Callable[[RelayEvent], None] = _unheard
        self._slots = [_Slot(index) for index in range(settings.workers)]
        self._calls: dict[ConnectionId, _Call] = {}
        self._allocating: set[ConnectionId] = set()
        self._up = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether a worker is up to take a connection."""
        return self._up.is_set()

    @property
    def worker_pids(self) -> list[int]:
        """The processes that run now, for whoever measures them."""
        return [slot.process.pid for slot in self._slots if slot.process is not None]

    @property
    def connections(self) -> int:
        """How many are allocated now."""
        return len(self._calls)

    async def start(self, report: Callable[[RelayEvent], None]) -> None:
        self._report = report
        self._settings.try_address()
        try:
            for slot in self._slots:
                await self._fill(slot, resting=[])
        except MediaError:
            await self.close()
            raise

    async def allocate(self, connection_id: ConnectionId, *, country: str) -> dict[Side, Address]:
        if connection_id in self._calls or connection_id in self._allocating:
            raise NotAllowed(f"connection {connection_id} has its media ports already")
        self._allocating.add(connection_id)
        try:
            process, slot = await self._least_loaded()
            slot.allocating += 1
            try:
                a, b = await self._ports(slot, process)
            finally:
                slot.allocating -= 1
        finally:
            self._allocating.discard(connection_id)
        process.send_later("allocate", connection_id, country, a)
        self._calls[connection_id] = slot.calls[connection_id] = _Call(slot, (a, b))
        host = self._settings.advertised_host
        return {Side.A: Address(host, a), Side.B: Address(host, b)}

    def connect(
        self,
        connection_id: ConnectionId,
        side: Side,
        remote: Address | None,
        format: Format,
        *,
        plays_from: Address | None = None,
        sends: bool = True,
        srtp: Srtp | None = None,
        rtcp_port: int | None = None,
    ) -> None:
        if call := self._calls.get(connection_id):
            host, port = self._place(remote)
            call.formats[side] = format
            keys = None if srtp is None else (srtp.suite, srtp.local_key.hex(), srtp.remote_key.hex())
            self._send(
                *(call, "connect", connection_id, side, host, port, astuple(format), sends, rtcp_port, keys),
                *self._place(plays_from),
            )

    def play_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._send(call, "play", connection_id, side)

    def stop_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._send(call, "stop", connection_id, side)

    def play_warning(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._send(call, "warn", connection_id, side)

    async def join(self, connection_id: ConnectionId) -> None:
        call = self._calls.get(connection_id)
        if call is None or call.slot.process is None:
            raise MediaError(f"the media relay has no connection {connection_id}")
        codecs = {(format.name, format.clock_rate) for format in call.formats.values()}
        if len(codecs) > 1:
            raise MediaError(
                f"the sides of {connection_id} are coded differently, and nothing here transcodes", permanent=True
            )
        await call.slot.process.ask("join", connection_id)

    async def release(self, connection_id: ConnectionId) -> dict[Side, Statistics]:
        call = self._calls.pop(connection_id, None)
        if call is None:
            return {}
        call.slot.calls.pop(connection_id, None)
        call.slot.resting.append(asyncio.get_running_loop().time() + self._settings.rest_s)
        try:
            assert call.slot.process is not None, "a worker that is gone has no calls"
            a, b = await call.slot.process.ask("release", connection_id)
        except MediaError as error:
            # The worker died or froze meanwhile; what it knew is lost, and its end frees the ports.
            _log.warning("no statistics of connection %s: %s", connection_id, error)
            return {}
        return {Side.A: Statistics(*a), Side.B: Statistics(*b)}

    def capacity(self) -> int:
        now = asyncio.get_running_loop().time()
        return sum(slot.room(now) for slot in self._slots)

    def problems(self) -> list[str]:
        return [] if self.ready else ["no media worker runs; one is being started again"]

    async def close(self) -> None:
        self._closing.set()
        self._up.clear()
        self._calls.clear()
        for slot in self._slots:
            slot.calls.clear()
            if slot.restart is not None:
                await slot.restart  # never cancelled: a process half started or not waited for would be left behind
            if slot.process is not None:
                process, slot.process = slot.process, None
                await process.stop()
            if slot.stocking is not None:
                await asyncio.wait([slot.stocking])

    def _send(self, call: _Call, name: str, *arguments: object) -> None:
        if call.slot.process is not None:
            call.slot.process.send(name, *arguments)

    def _place(self, address: Address | None) -> tuple[str | None, int]:
        return (None, 0) if address is None else (self._as_the_kernel_writes(address.host), address.port)

    def _as_the_kernel_writes(self, host: str) -> str:
        """Raises `MediaError` on what is no literal address of our family."""
        family = self._settings.family
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, host))
        except OSError as error:
            raise MediaError(f"media can't go to {host!r}: no address of the family of media.address") from error

    async def _least_loaded(self) -> tuple[WorkerProcess, _Slot]:
        if not self._up.is_set() and not self._closing.is_set():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._up.wait()
            except TimeoutError as error:
                raise MediaError("no media worker is up") from error
        up = [(len(slot.calls) + slot.allocating, slot.index, slot) for slot in self._slots if slot.process is not None]
        if not up:
            raise MediaError("no media worker is up")
        slot = min(up)[2]
        assert slot.process is not None
        return slot.process, slot

    async def _ports(self, slot: _Slot, process: WorkerProcess) -> tuple[int, int]:
        """The first port of either side. Raises `MediaError`."""
        while not slot.stock:
            # Shielded: when a caller is cancelled, what the worker opened for it is the next one's.
            await asyncio.shield(self._restock(slot, process))
            if slot.process is not process:
                raise MediaError("the media worker is gone")
        ports = slot.stock.popleft()
        if len(slot.stock) < LOW_STOCK:
            self._restock(slot, process)
        return ports

    def _restock(self, slot: _Slot, process: WorkerProcess) -> asyncio.Task[None]:
        if slot.stocking is None or slot.stocking.done():
            slot.stocking = asyncio.create_task(self._reserve(slot, process))
            slot.stocking.add_done_callback(_heed)
        return slot.stocking

    async def _reserve(self, slot: _Slot, process: WorkerProcess) -> None:
        found = await process.ask("reserve", STOCK - len(slot.stock))
        if slot.process is process:
            slot.stock.extend((a, b) for a, b in found)

    # Workers that come and go

    async def _fill(self, slot: _Slot, resting: list[int]) -> None:
        loop = asyncio.get_running_loop()
        process = WorkerProcess(self._heard, lambda why: self._worker_ended(slot, why))
        low, high = self._settings.port_range
        await process.start(
            *(self._settings.bind_host, low, high, slot.index, len(self._slots), resting),
            *(self._settings.rest_s, self._settings.silence_s, self._settings.headers),
        )
        slot.process, slot.started_at = process, loop.time()
        self._up.set()

    def _worker_ended(self, slot: _Slot, why: str) -> None:
        process, slot.process = slot.process, None
        if process is None or self._closing.is_set():
            return
        _log.error("media worker %d is gone (%s): %d connections lost", process.pid, why, len(slot.calls))
        lost, slot.calls = slot.calls, {}
        slot.stock.clear()
        if all(other.process is None for other in self._slots):
            self._up.clear()
        if asyncio.get_running_loop().time() - slot.started_at > STEADY_S:
            slot.backoff_s = FIRST_BACKOFF_S
        ports = [port for call in lost.values() for port in call.ports]
        slot.resting.extend(len(lost) * [asyncio.get_running_loop().time() + self._settings.rest_s])
        slot.restart = asyncio.create_task(self._refill(slot, process, ports))
        for connection_id in lost:
            del self._calls[connection_id]
        for connection_id in lost:
            self._report(Lost(connection_id, f"the media worker is gone: {why}"))

    async def _refill(self, slot: _Slot, dead: WorkerProcess, resting: list[int]) -> None:
        await dead.stop()
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(slot.backoff_s):
                    await self._closing.wait()
                return
            except TimeoutError:
                slot.backoff_s = min(2 * slot.backoff_s, LONGEST_BACKOFF_S)
            try:
                await self._fill(slot, resting)
            except MediaError as error:
                _log.error("the media worker can't be started again: %s", error)
            else:
                _log.info("a media worker is up again")
                return

    def _heard(self, message: Message) -> None:
        match message:
            case ["digit", str(connection_id), str(side), str(digit), int(duration_ms)]:
                if connection_id in self._calls:
                    self._report(Digit(ConnectionId(connection_id), Side(side), digit, duration_ms))
            case ["heard", str(connection_id), str(side), str(host), int(port)]:
                if connection_id in self._calls:
                    self._report(Heard(ConnectionId(connection_id), Side(side), Address(host, port)))
            case ["silent", str(connection_id), str(side), int() | float() as for_s]:
                if connection_id in self._calls:
                    self._report(Silent(ConnectionId(connection_id), Side(side), float(for_s)))
            case ["headers", str(connection_id), int(a), int(b), list(rows)]:
                self._report(Headers(ConnectionId(connection_id), tuple(self._headers(rows, {"a": a, "b": b}))))
            case _:
                _log.error("the media worker said what the relay does not know: %r", message[:1])

    def _headers(self, rows: list[Message], ports: dict[str, int]) -> Iterator[RtpHeader]:
        for at_us, side, ours, size, host, port, header in rows:
            here = Address(self._settings.advertised_host, ports[side])
            yield RtpHeader(at_us, Side(side), ours, size, here, Address(host, port), bytes.fromhex(header))


def _unheard(event: RelayEvent) -> None:
    """Whom a relay reports to before it is started."""


def _heed(stocking: asyncio.Task[None]) -> None:
    """Whoever waits for ports is told why there are none; a stock that is only low says nothing."""
    if not stocking.cancelled():
        stocking.exception()
