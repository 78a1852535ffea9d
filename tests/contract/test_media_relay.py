"""The contract of `MediaRelay`, clause by clause, with real sockets and every relay we have."""

import asyncio
import cmath
import itertools
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import psutil
import pytest

from dosvoces.errors import MediaError, NotAllowed
from dosvoces.media import Address, Digit, Format, Heard, Lost, MediaRelay, RelayEvent, Silent, Statistics, g711, rtp
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.media.rtp import Packet, TelephoneEvent
from dosvoces.media.rtpengine import RtpengineRelay, RtpengineSettings
from dosvoces.model import ConnectionId, Side
from tests.peers.rtpengine import Rtpengine
from tests.ports import free_range, own_range

HOST = "127.0.0.1"
STRANGER_HOST = "127.0.0.2"
ID = ConnectionId("01j0000000000000000000000a")
PCMA = Format("PCMA", 8, dtmf_payload_type=101)
LIMIT_S = 5.0

T = TypeVar("T")


async def within(waiting: Awaitable[T]) -> T:
    """`waiting`, which must be over soon."""
    async with asyncio.timeout(LIMIT_S):
        return await waiting


class Party(asyncio.DatagramProtocol):
    """A phone's RTP socket: says numbered packets, keeps what it hears."""

    def __init__(self, payload_type: int = 8) -> None:
        self.payload_type = payload_type
        self.heard: asyncio.Queue[Packet] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport | None = None
        self.to = Address(HOST, 0)
        self.sequence, self.timestamp, self.ssrc = 65530, 0xFFFFFF00, 77

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.put_nowait(rtp.parse(data))

    @property
    def at(self) -> Address:
        assert self.transport is not None
        return Address(*self.transport.get_extra_info("sockname")[:2])

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.sendto(data, (self.to.host, self.to.port))

    def say(self, payload: bytes, *, lost: bool = False) -> None:
        """One packet of 20 ms; a lost one leaves only its gap."""
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.timestamp = (self.timestamp + 160) & 0xFFFFFFFF
        if not lost:
            self.send(rtp.build(Packet(self.payload_type, self.sequence, self.timestamp, self.ssrc, payload)))

    async def next(self) -> Packet:
        return await within(self.heard.get())


@dataclass(frozen=True)
class Variations:
    """Which of the contract's variations a relay makes use of, by their names there."""

    its_own_streams: bool = False
    no_learning: bool = False
    no_reading_of_packets: bool = False
    looked_at: bool = False
    not_ours_to_start: bool = False


async def _nothing() -> None:
    """A worker is replaced by the relay itself."""


class Bench:
    """A started relay, its events and its parties."""

    def __init__(
        self,
        relay: MediaRelay,
        pids: Callable[[], list[int]],
        varies: Variations,
        replace: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        """`pids`: of the processes that move the media; `replace`: what the keeper of a dead one does."""
        self.relay = relay
        self.worker_pids = pids
        self.varies = varies
        self.replace = replace
        self.events: asyncio.Queue[RelayEvent] = asyncio.Queue()
        self.parties: list[Party] = []

    async def party(self, payload_type: int = 8, host: str = HOST) -> Party:
        party = Party(payload_type)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: party, local_addr=(host, 0))
        self.parties.append(party)
        return party

    async def connected(self, a: Format = PCMA, b: Format = PCMA, country: str = "ES") -> tuple[Party, Party]:
        """Both parties, each connected to its side; not joined."""
        ports = await self.relay.allocate(ID, country=country)
        parties = await self.party(a.payload_type), await self.party(b.payload_type)
        for side, party, format in zip(Side, parties, (a, b), strict=True):
            party.to = ports[side]
            self.relay.connect(ID, side, party.at, format)
        return parties

    async def joined(self, a: Format = PCMA, b: Format = PCMA) -> tuple[Party, Party]:
        parties = await self.connected(a, b)
        await self.relay.join(ID)
        return parties

    async def event(self) -> RelayEvent:
        return await within(self.events.get())


SILENCE_S = 1.0

Open = Callable[[float], AbstractAsyncContextManager[Bench]]
"""Opens a bench whose relay takes so many seconds for silence."""


@asynccontextmanager
async def worker_bench(silence_s: float) -> AsyncIterator[Bench]:
    relay = WorkerRelay(MediaSettings(HOST, HOST, own_range(400), silence_s=silence_s))
    async with started(Bench(relay, lambda: relay.worker_pids, Variations())) as bench:
        yield bench


@asynccontextmanager
async def rtpengine_bench(silence_s: float) -> AsyncIterator[Bench]:
    async with Rtpengine.start() as daemon:
        relay = RtpengineRelay(RtpengineSettings([daemon.at], digits=daemon.digits, silence_s=silence_s))
        async with started(Bench(relay, lambda: [daemon.pid], Variations(*[True] * 5), daemon.again)) as bench:
            yield bench


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    await bench.relay.start(bench.events.put_nowait)
    try:
        yield bench
    finally:
        await bench.relay.close()
        for party in bench.parties:
            assert party.transport is not None
            party.transport.close()
        await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop


RELAYS = {"worker": worker_bench, "rtpengine": rtpengine_bench}


@pytest.fixture(params=list(RELAYS.values()), ids=list(RELAYS))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    open_bench: Open = request.param
    async with open_bench(30.0) as bench:
        yield bench


only_worker = pytest.mark.parametrize("bench", [worker_bench], ids=["worker"], indirect=True)
"""For what concerns our own processes alone."""


def follows(before: Packet, after: Packet) -> bool:
    """Whether `after` is the next packet of the stream of `before`, with the same SSRC and a later timestamp."""
    return (
        after.ssrc == before.ssrc
        and after.sequence == (before.sequence + 1) & 0xFFFF
        and 0 < (after.timestamp - before.timestamp) & 0xFFFFFFFF < 8000
    )


async def test_one_allocation(bench: Bench) -> None:
    assert bench.relay.problems() == []
    ports = await bench.relay.allocate(ID, country="ES")
    assert [side for side, at in ports.items() if at.host == HOST and at.port % 2 == 0] == [Side.A, Side.B]
    assert ports[Side.A] != ports[Side.B]
    with pytest.raises(NotAllowed):
        await bench.relay.allocate(ID, country="ES")


async def test_silent_until_told(bench: Bench) -> None:
    """Nothing is sent to a side before `connect`, even if it rings, is joined, and its own media has come."""
    ports = await bench.relay.allocate(ID, country="ES")
    a, b = await bench.party(), await bench.party()
    a.to, b.to = ports[Side.A], ports[Side.B]
    bench.relay.connect(ID, Side.A, a.at, PCMA)
    bench.relay.play_ringing(ID, Side.B)
    await bench.relay.join(ID)
    a.say(b"x" * 160)
    b.say(b"y" * 160)
    assert await bench.event() == Heard(ID, Side.A, a.at)
    statistics = await bench.relay.release(ID)
    assert statistics == {Side.A: Statistics(packets_received=1), Side.B: Statistics(packets_refused=1)}
    assert a.heard.empty()
    assert b.heard.empty()


async def test_source_lock(bench: Bench) -> None:
    """A stranger's packets are refused, counted and reach nobody; so are another port's once the source is locked."""
    a, b = await bench.joined()
    a.say(b"first")
    assert (await b.next()).payload == b"first"
    for host in (STRANGER_HOST, HOST):
        stranger = await bench.party(host=host)
        stranger.to = a.to
        for _ in range(10):
            stranger.say(b"stranger")
    a.say(b"second")
    assert (await b.next()).payload == b"second"
    statistics = await bench.relay.release(ID)
    assert statistics[Side.A].packets_received == 2
    assert statistics[Side.A].packets_refused == 20
    assert statistics[Side.B].packets_sent == 2


async def test_source_lock_learns_a_nat_once(bench: Bench) -> None:
    """The party signalled a port that it doesn't send from: it is heard, and answered where it is."""
    _, b = await bench.joined()
    natted = await bench.party()
    natted.to = bench.parties[0].to
    natted.say(b"hello")
    if bench.varies.no_learning:
        bench.parties[0].say(b"signalled")
        assert (await b.next()).payload == b"signalled"
        return
    assert (await b.next()).payload == b"hello"
    assert await bench.event() == Heard(ID, Side.A, natted.at)
    b.say(b"welcome")
    assert (await natted.next()).payload == b"welcome"


async def test_ringing_is_the_country_s_tone(bench: Bench) -> None:
    a, b = await bench.connected(country="GB")
    bench.relay.play_ringing(ID, Side.A)
    heard = [await a.next() for _ in range(22)]
    assert all(follows(one, other) for one, other in itertools.pairwise(heard))
    assert {(p.payload_type, len(p.payload)) for p in heard} == {(8, 160)}
    assert {(q.timestamp - p.timestamp) & 0xFFFFFFFF for p, q in itertools.pairwise(heard)} == {160}
    samples = g711.decode("PCMA", b"".join(p.payload for p in heard))
    assert [level_dbm0(samples[400:2000], f) for f in (400, 450)] == [pytest.approx(-16, abs=0.5)] * 2
    assert level_dbm0(samples[400:2000], 425) < -40
    assert set(heard[21].payload) == {g711.SILENCE["PCMA"]}, "after 0.4 s it pauses"
    assert b.heard.empty()


def level_dbm0(samples: list[int], frequency: int) -> float:
    turn = -2j * math.pi * frequency / g711.SAMPLE_RATE
    amplitude = 2 * abs(sum(s * cmath.exp(turn * i) for i, s in enumerate(samples))) / len(samples)
    return 20 * math.log10(max(amplitude, 1e-9) / 32767) + 3.14


async def test_ringing_goes_on_where_its_hearer_moves(bench: Bench) -> None:
    a, _ = await bench.connected()
    bench.relay.play_ringing(ID, Side.A)
    await a.next()
    elsewhere = await bench.party()
    bench.relay.connect(ID, Side.A, elsewhere.at, PCMA)
    assert len((await elsewhere.next()).payload) == 160


async def test_ringing_stops_when_told(bench: Bench) -> None:
    a, _ = await bench.connected()
    bench.relay.play_ringing(ID, Side.A)
    await a.next()
    bench.relay.stop_ringing(ID, Side.A)
    await bench.relay.join(ID)  # answered after the stop: from here on nothing more is sent
    sent = a.heard.qsize() + 1
    await asyncio.sleep(0.1)  # five frames of a tone that goes on
    heard = a.heard.qsize() + 1
    assert heard - sent <= 2, "those that are still under way on the loopback"
    statistics = await bench.relay.release(ID)
    assert statistics[Side.A].packets_sent == (0 if bench.varies.looked_at else heard)


async def test_warning_takes_the_place_of_the_other_party(bench: Bench) -> None:
    a, b = await bench.connected()
    await bench.relay.join(ID)
    b.say(b"hello")
    assert (await a.next()).payload == b"hello"
    bench.relay.play_warning(ID, Side.A)
    bench.relay.play_warning(ID, Side.B)
    for party in (a, b):
        heard = [await party.next() for _ in range(54)]
        b.say(b"not heard")
        assert {len(packet.payload) for packet in heard} == {160}
        samples = g711.decode("PCMA", b"".join(packet.payload for packet in heard))
        # 340 ms of each tone with 20 ms between them.
        for number, frequency in enumerate((950, 1400, 1800)):
            assert level_dbm0(samples[number * 2880 + 400 :][:1600], frequency) == pytest.approx(-13, abs=0.5)


async def test_join_within_one_packet_time(bench: Bench) -> None:
    """A hears the tone and then B, at once and in one stream; B hears A."""
    a, b = await bench.connected()
    bench.relay.play_ringing(ID, Side.A)
    tone = await a.next()
    await bench.relay.join(ID)
    while not a.heard.empty():
        tone = await a.next()
    loop = asyncio.get_running_loop()
    said_at = loop.time()
    b.say(b"B" * 160)
    a.say(b"A" * 160)
    voice = await a.next()
    while voice.payload != b"B" * 160:  # a tone's packet that was under way when we looked
        tone, voice = voice, await a.next()
    assert (await b.next()).payload == b"A" * 160
    assert loop.time() - said_at < 0.5, "generous to a busy machine; the bench measures it"
    if not bench.varies.its_own_streams:
        assert follows(tone, voice)
        assert voice.marker


async def test_join_of_what_can_t_be_joined_is_told(bench: Bench) -> None:
    with pytest.raises(MediaError):
        await bench.relay.join(ID)
    await bench.connected(PCMA, Format("PCMU", 0))
    with pytest.raises(MediaError, match="coded differently"):
        await bench.relay.join(ID)


async def test_payload_types_differ_per_leg(bench: Bench) -> None:
    a, b = await bench.connected(PCMA, Format("PCMA", 98, dtmf_payload_type=101))
    if bench.varies.no_reading_of_packets:
        with pytest.raises(MediaError, match="number their codec 8 and 98"):
            await bench.relay.join(ID)
        return
    await bench.relay.join(ID)
    a.say(b"A" * 160)
    b.say(b"B" * 160)
    heard = [(p.payload_type, p.payload) for p in (await a.next(), await b.next())]
    assert heard == [(8, b"B" * 160), (98, b"A" * 160)]


@only_worker
async def test_what_is_passed_on_is_never_decoded(bench: Bench) -> None:
    a, b = await bench.joined(Format("opus", 111, 48000, 110), Format("opus", 96, 48000, 101))
    a.say(b"opus of A")
    b.say(b"opus of B")
    assert [(p.payload_type, p.payload) for p in (await a.next(), await b.next())] == [
        (111, b"opus of B"),
        (96, b"opus of A"),
    ]


async def test_a_digit_is_reported_once(bench: Bench) -> None:
    event_type = 101 if bench.varies.no_reading_of_packets else 96
    a, b = await bench.joined(PCMA, Format("PCMA", 8, dtmf_payload_type=event_type))
    a.say(b"x" * 160)
    assert await bench.event() == Heard(ID, Side.A, a.at)
    timestamp = a.timestamp + 160
    for number, units in enumerate([160, 320, 480, 480, 480]):
        a.sequence = (a.sequence + 1) & 0xFFFF
        event = rtp.build_event(TelephoneEvent(11, number >= 2, units))
        a.send(rtp.build(Packet(101, a.sequence, timestamp & 0xFFFFFFFF, a.ssrc, event, marker=number == 0)))
    assert await bench.event() == Digit(ID, Side.A, "#", 60)
    heard = [await b.next() for _ in range(6)]
    assert [p.payload_type for p in heard] == [8, *[event_type] * 5]
    await bench.relay.release(ID)
    assert bench.events.empty()


async def test_hold(bench: Bench) -> None:
    a, b = await bench.joined()
    a.say(b"before")
    before = await b.next()
    bench.relay.connect(ID, Side.B, None, PCMA)
    await bench.relay.join(ID)  # joined already; its answer shows that the hold has been done
    for _ in range(5):
        a.say(b"unheard")
        b.say(b"music")
        assert (await a.next()).payload == b"music", "who holds may play"
    bench.relay.connect(ID, Side.B, b.at, PCMA)
    await bench.relay.join(ID)
    a.say(b"after")
    after = await b.next()
    assert after.payload == b"after"
    assert bench.varies.its_own_streams or follows(before, after)


async def test_hold_plays_from_elsewhere(bench: Bench) -> None:
    """Hold music often comes from a machine of its own."""
    a, b = await bench.joined()
    b.say(b"before")
    assert (await a.next()).payload == b"before"
    player = await bench.party(host=STRANGER_HOST)
    player.to = b.to
    bench.relay.connect(ID, Side.B, None, PCMA, plays_from=player.at)
    await bench.relay.join(ID)
    for _ in range(3):
        a.say(b"unheard")
        b.say(b"no longer its address")
        player.say(b"music")
        assert (await a.next()).payload == b"music"
    bench.relay.connect(ID, Side.B, b.at, PCMA)
    await bench.relay.join(ID)
    b.say(b"after")
    assert (await a.next()).payload == b"after"
    a.say(b"after")
    assert (await b.next()).payload == b"after"
    assert player.heard.empty()


async def test_statistics_count_what_was_lost(bench: Bench) -> None:
    a, b = await bench.joined()
    for number in range(50):
        a.say(b"x" * 160, lost=number % 10 == 5)
    for _ in range(45):
        await b.next()
    if not bench.varies.no_reading_of_packets:
        a.send(b"not RTP")
    b.say(b"y" * 160)
    await a.next()
    statistics = await bench.relay.release(ID)
    unread = bench.varies.no_reading_of_packets
    assert {side: (s.packets_received, s.packets_sent, s.packets_lost) for side, s in statistics.items()} == {
        Side.A: (45, 1, 0 if unread else 5),
        Side.B: (1, 45, 0),
    }
    assert statistics[Side.A].packets_refused == (0 if unread else 1)


async def test_release_is_final_and_idempotent(bench: Bench) -> None:
    a, b = await bench.joined()
    a.say(b"x" * 160)
    await b.next()
    assert (await bench.relay.release(ID))[Side.A].packets_received == 1
    assert await bench.relay.release(ID) == {}, "nothing is known"
    a.say(b"late")
    bench.relay.connect(ID, Side.A, a.at, PCMA)
    bench.relay.play_ringing(ID, Side.A)
    bench.relay.stop_ringing(ID, Side.A)
    with pytest.raises(MediaError):
        await bench.relay.join(ID)
    ports = await bench.relay.allocate(ID, country="ES")
    assert not {at.port for at in ports.values()} & {a.to.port, b.to.port}
    loop = asyncio.get_running_loop()
    with pytest.raises(OSError, match="in use"):
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, a.to.port))
    assert b.heard.empty()


async def test_loss_is_told(bench: Bench) -> None:
    """Each connection of a worker that died gets exactly one `Lost`; another worker takes its place."""
    a, _ = await bench.joined()
    other = ConnectionId("01j0000000000000000000000b")
    await bench.relay.allocate(other, country="ES")
    (pid,) = bench.worker_pids()
    os.kill(pid, signal.SIGKILL)
    events = [await bench.event(), await bench.event()]
    assert [event.connection_id for event in events if isinstance(event, Lost)] == [ID, other]
    bench.relay.play_ringing(ID, Side.A)
    bench.relay.connect(ID, Side.A, a.at, PCMA)
    assert await bench.relay.release(ID) == {}, "nothing is known"
    with pytest.raises(MediaError):
        await bench.relay.join(other)
    await bench.replace()
    ports = await within(bench.relay.allocate(ID, country="ES"))
    assert bench.varies.not_ours_to_start or a.to not in ports.values(), "the ports of the lost calls rest"
    assert bench.worker_pids() != [pid]
    assert bench.events.empty()


async def test_loss_in_the_middle_of_a_command_is_told(bench: Bench) -> None:
    await bench.relay.allocate(ID, country="ES")
    (pid,) = bench.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    joining = asyncio.create_task(bench.relay.join(ID))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(MediaError):
        await within(joining)
    assert isinstance(await bench.event(), Lost)


@pytest.mark.parametrize("open_bench", list(RELAYS.values()), ids=list(RELAYS))
async def test_silence_is_told(open_bench: Open) -> None:
    """Once for each silence, and not of a side that is on hold or doesn't send."""
    async with open_bench(SILENCE_S) as bench:
        a, b = await bench.connected()
        bench.relay.connect(ID, Side.B, b.at, PCMA, sends=False)
        first = await bench.event()
        assert isinstance(first, Silent)
        assert (first.connection_id, first.side) == (ID, Side.A)
        assert SILENCE_S <= first.for_s < SILENCE_S + 1
        a.say(b"x" * 160)
        assert await bench.event() == Heard(ID, Side.A, a.at)
        second = await bench.event()
        assert isinstance(second, Silent)
        bench.relay.connect(ID, Side.A, None, PCMA)
        bench.relay.connect(ID, Side.B, b.at, PCMA)
        third = await bench.event()
        assert isinstance(third, Silent)
        assert third.side is Side.B


@only_worker
async def test_a_worker_ignores_the_signals_of_the_terminal(bench: Bench) -> None:
    await bench.relay.allocate(ID, country="ES")
    (pid,) = bench.worker_pids()
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    await bench.relay.join(ID)
    assert bench.events.empty()


async def free(port: int) -> bool:
    """Wait until nobody holds it: rtpengine closes its sockets soon after it has said that a call is deleted."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                await asyncio.sleep(0.01)
            else:
                return True


async def test_close_leaves_nothing_running(bench: Bench) -> None:
    a, _ = await bench.joined()
    (pid,) = bench.worker_pids()
    await bench.relay.close()
    await bench.relay.close()
    assert psutil.pid_exists(pid) is bench.varies.not_ours_to_start
    assert await within(free(a.to.port))
    with pytest.raises(MediaError):
        await bench.relay.allocate(ConnectionId("another"), country="ES")
    assert bench.events.empty()


async def test_no_port_left_is_a_clear_error() -> None:
    relay = WorkerRelay(MediaSettings(HOST, HOST, free_range(6)))
    await relay.start(lambda event: None)
    try:
        await relay.allocate(ID, country="ES")
        with pytest.raises(MediaError, match=r"widen media\.ports"):
            await relay.allocate(ConnectionId("another"), country="ES")
        await relay.release(ID)
    finally:
        await relay.close()


async def test_an_allocation_that_is_cancelled_keeps_no_ports() -> None:
    low, high = free_range(4)
    relay = WorkerRelay(MediaSettings(HOST, HOST, (low, high), rest_s=0))  # room for one connection
    await relay.start(lambda event: None)
    try:
        allocating = asyncio.create_task(relay.allocate(ID, country="ES"))
        await asyncio.sleep(0)  # the command has left
        allocating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await allocating
        ports = await relay.allocate(ID, country="ES")
        assert {at.port for at in ports.values()} == {low, low + 2}
    finally:
        await relay.close()


async def test_connections_are_spread_over_the_workers() -> None:
    relay = WorkerRelay(MediaSettings(HOST, HOST, own_range(100), workers=2))
    await relay.start(lambda event: None)
    try:
        places = [await relay.allocate(ConnectionId(str(number)), country="ES") for number in range(4)]
        shares = [{at.port // 2 % 2 for at in place.values()} for place in places]
        assert sorted(map(list, shares)) == [[0], [0], [1], [1]]
        assert len(set(relay.worker_pids)) == 2
    finally:
        await relay.close()


async def test_an_address_that_can_t_be_sent_to_is_refused(bench: Bench) -> None:
    await bench.relay.allocate(ID, country="ES")
    for host in ("phone.example.com", "2001:db8::1", "1.2.3"):
        with pytest.raises(MediaError, match="media can't go to"):
            bench.relay.connect(ID, Side.A, Address(host, 4000), PCMA)


SERVER = """
import asyncio, sys
from dosvoces.media.relay import MediaSettings, WorkerRelay

async def serve():
    relay = WorkerRelay(MediaSettings("127.0.0.1", "127.0.0.1"))
    await relay.start(lambda event: None)
    print(*relay.worker_pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


async def test_a_worker_ends_when_its_server_is_killed() -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    worker = os.pidfd_open(int(await within(server.stdout.readline())))
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(worker, gone.set)
    try:
        server.kill()
        await within(gone.wait())
    finally:
        asyncio.get_running_loop().remove_reader(worker)
        os.close(worker)
        await server.communicate()
