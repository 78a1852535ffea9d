"""The asyncio shell on real sockets: two agents of ours, dead ports, a socket that goes on after errors."""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from dosvoces.sip.agent import Agent, IncomingCall, SipTransportError
from dosvoces.sip.api import Address, CallEnd, CallHandler, DialogFacts, EndCause, Hop, Invitation
from dosvoces.sip.message import parse
from dosvoces.sip.transport import UdpTransport, reachable_address

HOST = "127.0.0.1"


class Party(CallHandler):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.facts: DialogFacts | None = None
        self.answered = asyncio.Event()
        self.ended: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.told.append(f"{status} {phrase}")

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.facts = facts
        self.told.append(body.decode())
        self.answered.set()

    def on_confirmed(self, body: bytes) -> None:
        self.answered.set()

    def on_offer(self, body: bytes | None) -> bytes | None:
        return b"accepted"

    def on_ended(self, end: CallEnd) -> None:
        self.ended.set_result(end)


class Phone:
    """An agent that answers every call."""

    def __init__(self) -> None:
        self.agent: Agent
        self.calls: list[IncomingCall] = []
        self.parties: list[Party] = []

    def ring(self, call: IncomingCall) -> CallHandler:
        call.ring()
        call.answer(b"answer")
        self.calls.append(call)
        self.parties.append(Party())
        return self.parties[-1]


def invitation(destination: Address, call_id: str = "leg") -> Invitation:
    return Invitation(
        request_uri="sip:600@phone",
        destination=destination,
        from_uri="sip:910@127.0.0.1",
        to_uri="sip:600@phone",
        call_id=call_id,
        body=b"offer",
    )


@pytest.fixture
async def phone() -> AsyncIterator[Phone]:
    made = Phone()
    made.agent = await Agent.open(bind=(HOST, 0), peers=None, on_invite=made.ring)
    yield made
    await made.agent.close()


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    made = await Agent.open(bind=(HOST, 0), peers=["localhost"])
    yield made
    await made.close()


async def test_call_and_hang_up(agent: Agent, phone: Phone) -> None:
    party = Party()
    call = agent.invite(invitation(phone.agent.local), party)
    assert (party.told, agent.open_calls) == ([], 1)
    await party.answered.wait()
    await phone.parties[0].answered.wait()
    assert party.told == ["180 Ringing", "answer"]
    results: asyncio.Future[tuple[int | None, bytes]] = asyncio.get_running_loop().create_future()
    call.reinvite(b"again", lambda status, body: results.set_result((status, body)))
    assert await results == (200, b"accepted")
    call.hangup("Q.850;cause=16")
    assert await party.ended == CallEnd(EndCause.HANGUP, "local")
    assert await phone.parties[0].ended == CallEnd(EndCause.HANGUP, "remote", None, "BYE", "Q.850;cause=16")
    assert (agent.open_calls, phone.agent.open_calls, agent.idle, agent.transactions) == (0, 0, False, 2)


async def test_hang_up_by_the_phone(agent: Agent, phone: Phone) -> None:
    party = Party()
    agent.invite(invitation(phone.agent.local), party)
    await party.answered.wait()
    phone.calls[0].hangup()
    assert await party.ended == CallEnd(EndCause.HANGUP, "remote", None, "BYE")


async def test_close_hangs_up_what_is_left(phone: Phone) -> None:
    agent = await Agent.open(bind=(HOST, 0), peers=[HOST])
    party = Party()
    agent.invite(invitation(phone.agent.local), party)
    await party.answered.wait()
    await agent.close()
    await agent.close()
    assert party.ended.result() == CallEnd(EndCause.HANGUP, "local")
    with pytest.raises(SipTransportError):
        agent.invite(invitation(phone.agent.local), Party())


async def test_close_waits_no_longer_than_told(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((HOST, 0))
        agent = await Agent.open(bind=(HOST, 0))
        agent.invite(invitation(mute.getsockname()), Party())
        await agent.close(0.01)
    assert "closed with 1 calls still being hung up" in caplog.text


async def test_orphan_of_an_earlier_process_is_hung_up(phone: Phone) -> None:
    first = await Agent.open(bind=(HOST, 0), peers=[HOST])
    party = Party()
    first.invite(invitation(phone.agent.local), party)
    await party.answered.wait()
    first._transport.close()  # the process is gone
    second = await Agent.open(bind=(HOST, 0))
    ended: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
    assert party.facts is not None
    second.hang_up_orphan(party.facts, None, ended.set_result)
    assert (await ended).status == 200
    assert (await phone.parties[0].ended).by == "remote"
    await second.close()


def dead_port() -> Address:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind((HOST, 0))
        address: Address = closed.getsockname()
    return address


async def dead_ports_then_a_living_one() -> None:
    """S2: each dead port is told at once, and the socket still hears afterwards."""
    phone = Phone()
    phone.agent = await Agent.open(bind=(HOST, 0), peers=None, on_invite=phone.ring)
    agent = await Agent.open(bind=(HOST, 0), peers=[HOST])
    for number in range(3):
        dead = Party()
        agent.invite(invitation(dead_port(), f"dead-{number}"), dead)
        end = await asyncio.wait_for(dead.ended, 0.4)  # before the first repeat at 0.5 s
        assert end == CallEnd(EndCause.TRANSPORT, "remote", None, "destination unreachable")
    pair = [Party(), Party()]
    agent.invite(invitation(dead_port(), "dead"), pair[0])
    call = agent.invite(invitation(phone.agent.local, "alive"), pair[1])
    await asyncio.wait_for(pair[1].answered.wait(), 0.4)
    assert (await pair[0].ended).cause is EndCause.TRANSPORT
    call.hangup()
    await pair[1].ended
    await agent.close()
    await phone.agent.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_dead_ports_on_both_loops(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """libuv ends a poll handle at the first ICMP error: without care the socket is deaf afterwards."""
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(dead_ports_then_a_living_one())


async def test_invite_that_cannot_leave(agent: Agent) -> None:
    party = Party()
    with pytest.raises(SipTransportError):
        agent.invite(invitation(("2001:db8::1", 5060)), party)  # not of this socket's family
    assert (agent.open_calls, agent.transactions, party.told) == (0, 0, [])


async def test_dialog_that_leads_nowhere_is_logged_and_ends(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    """The phone's Contact is an address that the system sends nothing to: neither ACK nor BYE can leave."""
    phone = Phone()
    nowhere = ("255.255.255.255", 5060)
    phone.agent = await Agent.open(bind=(HOST, 0), advertised=nowhere, peers=None, on_invite=phone.ring)
    party = Party()
    call = agent.invite(invitation(phone.agent.local), party)
    await party.answered.wait()
    call.hangup()
    assert await party.ended == CallEnd(EndCause.HANGUP, "local", None, "", "BYE: transport")
    assert "cannot send" in caplog.text
    await phone.agent.close(0.01)


@pytest.mark.parametrize("advertised", [("2001:db8::1", 5060), ("0.0.0.0", 5060)])
async def test_a_call_whose_contact_can_t_be_reached_is_acknowledged_and_hung_up(
    agent: Agent, advertised: Address
) -> None:
    """At the address that the INVITE went to: else it would stay up, or end after 32 s without an ACK."""
    phone = Phone()
    phone.agent = await Agent.open(bind=(HOST, 0), advertised=advertised, peers=None, on_invite=phone.ring)
    party = Party()
    call = agent.invite(invitation(phone.agent.local), party)
    await party.answered.wait()
    call.hangup()
    assert await party.ended == CallEnd(EndCause.HANGUP, "local")
    assert phone.agent.open_calls == 0
    await phone.agent.close(0.01)


async def test_a_burst_leaves_in_its_order(agent: Agent) -> None:
    """sippy's three sender threads swapped one datagram in forty."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.setblocking(False)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sink.bind((HOST, 0))
        asking = [
            loop.create_task(
                agent.request(
                    *("OPTIONS", "sip:phone", Hop(*sink.getsockname())),
                    from_uri="sip:a@b",
                    to_uri="sip:phone",
                    headers=[("Subject", str(number))],
                    limit_s=0.3,
                )
            )
            for number in range(100)
        ]
        seen: list[int] = []
        async with asyncio.timeout(10):
            while len(seen) < len(asking):
                number = int(parse(await loop.sock_recv(sink, 2_048)).header("subject"))
                if number not in seen:  # a repeat, where the machine is slow
                    seen.append(number)
        assert seen == list(range(100))
        await asyncio.gather(*asking)


async def test_what_can_t_be_read_is_dropped_without_a_word(
    agent: Agent, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """sippy printed each with a traceback, 1.5 MB for 2,000: a flood must fill no disk."""
    caplog.set_level(logging.DEBUG)
    dice = random.Random(1)
    good = (
        b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bKgood\r\nFrom: <sip:a@b>;tag=1\r\n"
        b"To: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.connect(agent.local)
        for _ in range(300):
            peer.send(b"\xff\x00" + dice.randbytes(dice.randrange(400)))
            peer.send(good[: dice.randrange(1, len(good) - 4)])
        peer.send(good)
        async with asyncio.timeout(10):
            answer = parse(await asyncio.get_running_loop().sock_recv(peer, 2_048))
        assert answer.header("via").startswith("SIP/2.0/UDP 127.0.0.1;rport=")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


async def test_faulty_handler_is_logged_and_hurts_no_other(
    agent: Agent, phone: Phone, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Party):
        def on_progress(self, status: int, phrase: str, body: bytes) -> None:
            raise RuntimeError("fault of the handler")

    caplog.set_level(logging.ERROR)
    parties = [Faulty(), Party()]
    for number, party in enumerate(parties):
        agent.invite(invitation(phone.agent.local, f"leg-{number}"), party)
    for party in parties:
        await party.answered.wait()
    assert "fault of the handler" in caplog.text


async def test_lost_messages_are_sent_again(agent: Agent) -> None:
    """The timer of the shell, by the clock: the first INVITE is not answered, its repeat is."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.setblocking(False)
        peer.bind((HOST, 0))
        party = Party()
        began = loop.time()
        agent.invite(invitation(peer.getsockname()), party)
        first, source = await loop.sock_recvfrom(peer, 65_535)
        second = await loop.sock_recv(peer, 65_535)
        assert first == second
        assert 0.45 <= loop.time() - began <= 2
        head = first.partition(b"\r\n")[2].replace(b"To: <sip:600@phone>", b"To: <sip:600@phone>;tag=x")
        await loop.sock_sendto(peer, b"SIP/2.0 486 Busy Here\r\n" + head, source)
        assert (await party.ended).status == 486
        assert (await loop.sock_recv(peer, 65_535)).startswith(b"ACK ")


async def test_addresses(agent: Agent) -> None:
    assert (agent.local[0], agent.advertised) == (HOST, agent.local)
    assert await agent.resolve("localhost", 5070) == (HOST, 5070)
    with pytest.raises(OSError, match=r".*"):
        await agent.resolve("no-such-host.invalid")
    agent.trust("192.0.2.1")
    other = await Agent.open(bind=("0.0.0.0", 0), advertised=("198.51.100.7", 0), peers=[])
    assert other.advertised == ("198.51.100.7", other.local[1])
    await other.close()
    with pytest.raises(OSError, match="in use"):
        await Agent.open(bind=agent.local)


async def test_wildcard_is_never_advertised() -> None:
    assert reachable_address("0.0.0.0", HOST) == HOST
    assert reachable_address("::", "::1") in ("::1", "::")
    assert reachable_address("192.0.2.1", HOST) == "192.0.2.1"
    assert reachable_address("0.0.0.0", "::1") == HOST


async def test_full_send_buffer_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = UdpTransport(
        (HOST, 0), receiver=lambda data, source: None, unreachable=lambda to, quoted: None, settled=lambda: None
    )

    class Full:
        def sendto(self, data: bytes, destination: Address) -> None:
            raise BlockingIOError

    real, transport._socket = transport._socket, Full()  # type: ignore[assignment]
    transport.send(b"x", (HOST, 9))
    transport._socket = real
    assert transport.dropped == 1
    transport.close()
    transport.close()


async def test_closed_by_what_it_received() -> None:
    closed = asyncio.Event()

    def receive(data: bytes, source: Hop) -> None:
        transport.close()
        closed.set()

    transport = UdpTransport((HOST, 0), receiver=receive, unreachable=lambda to, quoted: None, settled=lambda: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", transport.local)
        peer.sendto(b"y", transport.local)
        await closed.wait()
