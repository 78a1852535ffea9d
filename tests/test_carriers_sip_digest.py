"""What becomes of a call whose trunk asks for the password from an address that nobody said is its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
import structlog

from dosvoces.carriers import Call, Leftover, Released
from dosvoces.carriers.dns import Dns
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.sip_facts import trunk_of
from dosvoces.carriers.trunks import Trunk
from dosvoces.events import Answered, Ended
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, EndReason, PhoneNumber
from dosvoces.sip.digest import Credentials, check
from dosvoces.sip.message import Request, compose, parse
from dosvoces.testing import A
from tests.dns_server import DnsServer
from tests.far_ends import HOST, Recorder, media_ports

BORDER = "127.0.0.2"
"""Where the trunk's Record-Route leads; it answers from `HOST`."""
ONE = ConnectionId(f"{1:026d}")
ANSWER = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 8\r\n"


class BorderTrunk(asyncio.DatagramProtocol):
    """Takes calls of its account, which it wants proven for each request with a nonce of that method's own."""

    account = Credentials("user", "secret")

    def __init__(self) -> None:
        self.byes: list[bool] = []
        """Of each BYE, whether it came with a digest of whatever nonce."""
        self.up = False
        self.answer = ANSWER
        self.bye_answer = "200 OK"

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["BorderTrunk"]:
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(cls, local_addr=("0.0.0.0", 0))
        try:
            yield server
        finally:
            transport.close()

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        request = parse(data)
        assert isinstance(request, Request)
        if request.method == "ACK":
            return
        proof = request.header("proxy-authorization")
        if request.method == "BYE":
            self.byes.append(bool(proof))
        known = check(proof, self.account, method=request.method, realm="trunk", nonce=request.method)
        lines = [("Via", request.header("via")), ("From", request.header("from"))]
        to = request.header("to")
        lines += [("To", to if "tag=" in to else f"{to};tag=t"), ("Call-ID", request.header("call-id"))]
        lines += [("CSeq", request.header("cseq"))]
        if not known:
            asks = f'Digest realm="trunk", nonce="{request.method}", qop="auth", algorithm=SHA-256'
            self._transport.sendto(compose("SIP/2.0 407 Who?", [*lines, ("Proxy-Authenticate", asks)]), addr)
            return
        status = self.bye_answer if request.method == "BYE" else "200 OK"
        if status != "200 OK":
            self._transport.sendto(compose(f"SIP/2.0 {status}", lines), addr)
            return
        self.up = request.method == "INVITE"
        lines += [("Record-Route", f"<sip:{BORDER}:{self.port};lr>"), ("Contact", f"<sip:{HOST}:{self.port}>")]
        body = self.answer if self.up else b""
        self._transport.sendto(compose("SIP/2.0 200 OK", [*lines, ("Content-Type", "application/sdp")], body), addr)


@asynccontextmanager
async def calling(*trunks: Trunk, dns: Dns | None = None) -> AsyncIterator[tuple[SipCarrier, Recorder]]:
    relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=media_ports()))
    carrier = SipCarrier(trunks=trunks, relay=relay, bind=(HOST, 0), close_timeout_s=1.0, dns=dns)
    told = Recorder()
    await carrier.start(told)
    try:
        yield carrier, told
    finally:
        await carrier.close()


def the_trunk(server: BorderTrunk, *hosts: str) -> Trunk:
    return Trunk("main", HOST, server.port, username="user", password="secret", hosts=hosts)


async def talked(carrier: SipCarrier, told: Recorder) -> Ended:
    """A call is placed, answered and hung up; how it ended."""
    number = PhoneNumber("+34600000011", "+34600000011")
    await carrier.dial(carrier.prepare(Call(ONE, A, number)))
    await told.saw(ONE, Answered(A))
    carrier.hangup(Call(ONE, A, number).id)
    ends: Sequence[Ended] = ()

    def ended() -> bool:
        nonlocal ends
        ends = [event for _connection, event in told.events if isinstance(event, Ended)]
        return bool(ends)

    await told.until(ended)
    return ends[0]


async def test_a_challenge_from_an_unknown_address_is_not_answered_and_the_remedy_is_told() -> None:
    async with BorderTrunk.open() as server, calling(the_trunk(server)) as (carrier, told):
        with structlog.testing.capture_logs() as logs:
            end = await talked(carrier, told)
        assert (server.byes, server.up) == ([False], True)
    assert end == Ended(A, EndReason.HANGUP, "BYE: 407 Who?")
    why = (
        "the challenge was not answered: 127.0.0.2 is no address of trunk main; if it should be, add it to `hosts` of "
        "that trunk"
    )
    (note,) = told.notes_of(ONE, "challenge_refused", A)
    assert note.facts == {"why": why}
    assert [(each["log_level"], each["event"], each["why"]) for each in logs if "why" in each] == [
        ("warning", "a leg may still be up at the trunk", why)
    ]


@pytest.mark.parametrize("named", [BORDER, "sbc2.example"])
async def test_a_further_host_of_the_trunk_gets_the_digest(named: str) -> None:
    async with BorderTrunk.open() as server, DnsServer.open() as names:
        names.add("sbc2.example", "A", BORDER)
        async with calling(the_trunk(server, named), dns=names.dns) as (carrier, told):
            end = await talked(carrier, told)
        assert (server.byes, server.up) == ([True, True], False)
    assert end == Ended(A, EndReason.HANGUP)
    assert told.notes_of(ONE, "challenge_refused", A) == []


@pytest.mark.parametrize(("hosts", "released"), [((), Released.UNCONFIRMED), ((BORDER,), Released.HUNG_UP)])
async def test_after_a_restart_what_was_not_released_is_not_told_as_released(
    hosts: tuple[str, ...], released: Released
) -> None:
    async with BorderTrunk.open() as server:
        async with calling(the_trunk(server)) as (carrier, told):
            await talked(carrier, told)
        (dialog,) = told.notes_of(ONE, "dialog", A)
        async with calling(the_trunk(server, *hosts)) as (next_one, _told):
            assert await next_one.take_back(Leftover(ONE, A, dialog=dialog.facts)) is released
        assert server.up is (released is Released.UNCONFIRMED)


async def test_of_two_accounts_at_one_proxy_that_of_the_call_hangs_it_up() -> None:
    async with BorderTrunk.open() as server:
        async with calling(the_trunk(server)) as (carrier, told):
            await talked(carrier, told)
            dial = carrier.prepare(Call(ONE, A, PhoneNumber("+34600000011", "+34600000011")))
        (dialog,) = told.notes_of(ONE, "dialog", A)
        assert (trunk_of(dial.facts), trunk_of(dialog.facts)) == ("main", "main")
        other = Trunk("sales", HOST, server.port, username="sales", password="other", hosts=(BORDER,))
        async with calling(other, the_trunk(server, BORDER)) as (next_one, _told):
            assert await next_one.take_back(Leftover(ONE, A, dialog=dialog.facts)) is Released.HUNG_UP
        assert not server.up


async def test_a_record_without_the_trunk_s_name_is_known_by_its_address() -> None:
    async with BorderTrunk.open() as server:
        async with calling(the_trunk(server)) as (carrier, told):
            await talked(carrier, told)
        (dialog,) = told.notes_of(ONE, "dialog", A)
        old = {name: value for name, value in dialog.facts.items() if name != "trunk"}
        async with calling(the_trunk(server, BORDER)) as (next_one, _told):
            assert await next_one.take_back(Leftover(ONE, A, dialog=old)) is Released.HUNG_UP


@pytest.mark.parametrize(
    ("answer", "released"),
    [
        ("403 Forbidden", Released.UNCONFIRMED),
        ("500 CSeq is too low", Released.UNCONFIRMED),
        ("408 Request Timeout", Released.HUNG_UP),
        ("481 Call Does Not Exist", Released.NOTHING),
    ],
)
async def test_only_an_answer_that_ends_the_dialog_is_told_as_a_hang_up(answer: str, released: Released) -> None:
    """RFC 3261 §15.1.1: 2xx, 481 and 408 do."""
    async with BorderTrunk.open() as server:
        async with calling(the_trunk(server)) as (carrier, told):
            await talked(carrier, told)
        (dialog,) = told.notes_of(ONE, "dialog", A)
        server.bye_answer = answer
        async with calling(the_trunk(server, BORDER)) as (next_one, _told):
            assert await next_one.take_back(Leftover(ONE, A, dialog=dialog.facts)) is released


async def test_a_challenge_to_who_has_no_password_ends_nothing() -> None:
    async with BorderTrunk.open() as server:
        async with calling(the_trunk(server)) as (carrier, told):
            await talked(carrier, told)
        (dialog,) = told.notes_of(ONE, "dialog", A)
        async with calling(Trunk("main", HOST, server.port)) as (next_one, _told):
            assert await next_one.take_back(Leftover(ONE, A, dialog=dialog.facts)) is Released.UNCONFIRMED
        assert server.up
