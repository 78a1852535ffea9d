"""The clauses *encryption* and *reports* of `MediaRelay`, with real sockets and libsrtp at the parties' ends too."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from dosvoces.media import SRTP_KEY_BYTES, Address, Format, Heard, Srtp, rtcp, rtp
from dosvoces.media.rtcp import Goodbye, ReportBlock, SenderReport, SourceName
from dosvoces.media.rtp import Packet
from dosvoces.media.srtp import Shield
from dosvoces.model import Side
from tests.contract.test_media_relay import HOST, ID, PCMA, STRANGER_HOST, Bench, Party, follows, worker_bench

SUITES = sorted(SRTP_KEY_BYTES)
OPUS = Format("opus", 96, 48000)


def keys(suite: str, number: int = 0) -> Srtp:
    """The relay's side of two keys."""
    length = SRTP_KEY_BYTES[suite]
    return Srtp(suite, bytes([number + 1]) * length, bytes([number + 2]) * length)


class SecureParty(Party):
    """A phone that encrypts."""

    def __init__(self, srtp: Srtp) -> None:
        super().__init__()
        self.shield = Shield(Srtp(srtp.suite, srtp.remote_key, srtp.local_key))
        self.undeciphered = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        plain = self.shield.open(data)
        if plain is None:
            self.undeciphered += 1
        else:
            self.heard.put_nowait(rtp.parse(plain))

    def send(self, data: bytes) -> None:
        super().send(self.shield.seal(data))

    def send_raw(self, data: bytes) -> None:
        super().send(data)


class Reporter(asyncio.DatagramProtocol):
    """A phone's socket for RTCP."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.heard.put_nowait(data)

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("sockname")[1]
        return port


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with worker_bench(30.0) as bench:
        yield bench


async def joined(bench: Bench, a: Srtp | None, b: Srtp | None) -> tuple[Party, Party]:
    """Both parties, each with its keys or none, joined."""
    ports = await bench.relay.allocate(ID, country="ES")
    for side, srtp in ((Side.A, a), (Side.B, b)):
        party = await placed(bench, srtp)
        party.to = ports[side]
        bench.relay.connect(ID, side, party.at, PCMA, srtp=srtp)
    await bench.relay.join(ID)
    return bench.parties[0], bench.parties[1]


async def placed(bench: Bench, srtp: Srtp | None, host: str = HOST) -> Party:
    party = Party() if srtp is None else SecureParty(srtp)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: party, local_addr=(host, 0))
    bench.parties.append(party)
    return party


@pytest.mark.parametrize("suite", SUITES)
async def test_both_sides_are_encrypted(bench: Bench, suite: str) -> None:
    a, b = await joined(bench, keys(suite), keys(suite, 9))
    heard = []
    for number in range(3):
        a.say(b"A%d" % number)
        b.say(b"B%d" % number)
        heard.append(((await a.next()), (await b.next())))
    assert [(at_a.payload, at_b.payload) for at_a, at_b in heard] == [(b"B0", b"A0"), (b"B1", b"A1"), (b"B2", b"A2")]
    assert follows(heard[0][0], heard[1][0])
    assert follows(heard[0][1], heard[1][1])


@pytest.mark.parametrize("suite", SUITES)
async def test_one_side_is_encrypted_and_the_other_is_plain(bench: Bench, suite: str) -> None:
    a, b = await joined(bench, keys(suite), None)
    a.say(b"secret")
    assert (await b.next()).payload == b"secret"
    b.say(b"in clear")
    assert (await a.next()).payload == b"in clear"


async def test_the_ringing_tone_is_encrypted(bench: Bench) -> None:
    ports = await bench.relay.allocate(ID, country="ES")
    srtp = keys(SUITES[0])
    a = await placed(bench, srtp)
    a.to = ports[Side.A]
    bench.relay.connect(ID, Side.A, a.at, PCMA, srtp=srtp)
    bench.relay.play_ringing(ID, Side.A)
    first, second = await a.next(), await a.next()
    assert follows(first, second)
    assert len(second.payload) == 160


async def test_a_wrong_key_is_refused_and_counted(bench: Bench) -> None:
    """Nothing is relayed, and nothing is learned from where it came."""
    a, b = await joined(bench, keys(SUITES[0]), None)
    assert isinstance(a, SecureParty)
    right, a.shield = a.shield, Shield(keys(SUITES[0], 40))
    for _ in range(10):
        a.say(b"gibberish")
    await bench.relay.join(ID)
    assert bench.events.empty()
    a.shield = right
    a.say(b"speech")
    assert (await b.next()).payload == b"speech"
    statistics = (await bench.relay.release(ID))[Side.A]
    assert (statistics.packets_received, statistics.packets_refused) == (1, 10)


async def test_plain_packets_to_an_encrypted_side_are_refused(bench: Bench) -> None:
    a, b = await joined(bench, keys(SUITES[0]), None)
    assert isinstance(a, SecureParty)
    for number in range(5):
        a.send_raw(rtp.build(Packet(8, number, number * 160, 77, b"in clear" * 20)))
    a.send_raw(b"\0")
    a.send_raw(b"\x80")
    a.say(b"encrypted")
    assert (await b.next()).payload == b"encrypted"
    assert (await bench.relay.release(ID))[Side.A].packets_refused == 7


async def test_a_repeated_packet_is_dropped(bench: Bench) -> None:
    """Recorded and sent again, from its own address or from another, even before the source is locked."""
    a, b = await joined(bench, keys(SUITES[0]), None)
    assert isinstance(a, SecureParty)
    sealed = a.shield.seal(rtp.build(Packet(8, 100, 1600, 77, b"once")))
    a.send_raw(sealed)
    assert (await b.next()).payload == b"once"
    thief = await placed(bench, None)
    thief.to = a.to
    for _ in range(5):
        a.send_raw(sealed)
        thief.send(sealed)
    a.send_raw(a.shield.seal(rtp.build(Packet(8, 101, 1760, 77, b"new"))))
    assert (await b.next()).payload == b"new"
    statistics = (await bench.relay.release(ID))[Side.A]
    assert (statistics.packets_received, statistics.packets_refused) == (2, 10)


async def test_a_source_is_learned_from_authentic_packets_alone(bench: Bench) -> None:
    """A stranger at the party's host, say behind the same NAT, can't take its line."""
    srtp = keys(SUITES[0])
    a, b = await joined(bench, srtp, None)
    stranger = await placed(bench, keys(SUITES[0], 80))
    far = await placed(bench, srtp, host=STRANGER_HOST)
    natted = await placed(bench, srtp)
    for party in (stranger, far, natted):
        party.to = a.to
    for _ in range(10):
        stranger.say(b"mine")
        far.say(b"from another host")
    natted.say(b"hello")
    assert (await b.next()).payload == b"hello"
    assert await bench.event() == Heard(ID, Side.A, natted.at)
    b.say(b"welcome")
    assert (await natted.next()).payload == b"welcome"


async def test_new_keys_in_the_middle_of_a_call(bench: Bench) -> None:
    """A re-INVITE may bring new keys, none, or the same again; the stream to the other side goes on."""
    first, second = keys(SUITES[0]), keys(SUITES[1], 20)
    a, b = await joined(bench, first, None)
    assert isinstance(a, SecureParty)
    a.say(b"first")
    heard = [await b.next()]
    bench.relay.connect(ID, Side.A, a.at, PCMA, srtp=first)
    await bench.relay.join(ID)
    a.say(b"same")
    heard.append(await b.next())
    bench.relay.connect(ID, Side.A, a.at, PCMA, srtp=second)
    await bench.relay.join(ID)
    a.shield = Shield(Srtp(second.suite, second.remote_key, second.local_key))
    a.say(b"second")
    heard.append(await b.next())
    b.say(b"heard")
    assert (await a.next()).payload == b"heard"
    bench.relay.connect(ID, Side.A, a.at, PCMA)
    await bench.relay.join(ID)
    a.send_raw(rtp.build(Packet(8, (a.sequence + 1) & 0xFFFF, a.timestamp + 160, a.ssrc, b"plain")))
    heard.append(await b.next())
    assert [packet.payload for packet in heard] == [b"first", b"same", b"second", b"plain"]
    assert {packet.ssrc for packet in heard} == {heard[0].ssrc}
    assert (await bench.relay.release(ID))[Side.A].packets_refused == 0


async def test_reports(bench: Bench) -> None:
    """A sender report comes within seconds, its answer gives the round trip, and a goodbye is the last."""
    await reports(bench, None)


async def test_reports_are_encrypted_with_the_media(bench: Bench) -> None:
    await reports(bench, keys(SUITES[0]))


async def reported(reporter: Reporter) -> bytes:
    """What comes next for RTCP; reports are up to 6.2 s apart (RFC 3550 §6.3.1)."""
    async with asyncio.timeout(10):
        return await reporter.heard.get()


async def reports(bench: Bench, srtp: Srtp | None) -> None:
    loop = asyncio.get_running_loop()
    a, b = await joined(bench, srtp, None)
    _, reporter = await loop.create_datagram_endpoint(Reporter, local_addr=(HOST, 0))
    bench.relay.connect(ID, Side.A, a.at, PCMA, srtp=srtp, rtcp_port=reporter.port)
    for _ in range(60):
        b.say(b"x" * 160)
    for _ in range(60):
        voice = await a.next()
    shield = a.shield if isinstance(a, SecureParty) else None

    def opened(data: bytes) -> tuple[rtcp.Packet, ...]:
        plain = shield.open_rtcp(data) if shield is not None else data
        assert plain is not None
        return rtcp.parse(plain)

    report, name = opened(await reported(reporter))
    while isinstance(report, SenderReport) and report.packets < 60:  # it was due before all had been sent
        report, name = opened(await reported(reporter))
    assert isinstance(report, SenderReport)
    assert (report.ssrc, report.packets, report.octets, report.blocks) == (voice.ssrc, 60, 60 * 160, ())
    assert isinstance(name, SourceName)
    assert (name.ssrc, len(name.cname)) == (voice.ssrc, 24)
    block = ReportBlock(voice.ssrc, 51, 12, voice.sequence, 80, report.ntp >> 16 & 0xFFFFFFFF, 0)
    answer = rtcp.build(SenderReport(a.ssrc, 5 << 32, 0, 0, 0, (block,)), SourceName(a.ssrc, "a@example"))
    to = (HOST, Address(a.to.host, a.to.port).port + 1)
    reporter.transport.sendto(b"\x81\xc9\x00\x07short" if shield is None else answer, to)  # not to be believed
    reporter.transport.sendto(shield.seal_rtcp(answer) if shield is not None else answer, to)
    a.say(b"later than the answer")
    await b.next()
    statistics = (await bench.relay.release(ID))[Side.A]
    assert (statistics.lost_there, statistics.jitter_there_ms) == (12, 10.0)
    since_report_s = time.monotonic() - report.ntp / 2**32  # the worker's reports go by the same clock
    assert statistics.round_trip_ms is not None
    assert 0 <= statistics.round_trip_ms < since_report_s * 1000 + 20, "the report's rounding is 20 ms"
    assert statistics.mos_there is not None
    assert statistics.mos_there < 3, "a fifth was lost"
    *_, last = opened(await reported(reporter))
    while isinstance(last, SourceName):  # another report was due before the release
        *_, last = opened(await reported(reporter))
    assert last == Goodbye((voice.ssrc,))
    assert reporter.heard.empty()
    reporter.transport.close()
