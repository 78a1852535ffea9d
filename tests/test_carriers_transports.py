"""Whole calls with sound over each transport and both families; dead and untrusted trunks; our address behind a NAT."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from dosvoces.carriers.public import Nat
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.sip_facts import dialog_of
from dosvoces.carriers.trunks import Trunk
from dosvoces.errors import CarrierError
from dosvoces.events import Answered, Ended
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import EndReason, Side
from dosvoces.phone import Phone, PhoneBehaviour
from dosvoces.sip import sdp
from dosvoces.sip.api import Address, Hop
from dosvoces.sip.tls import Tls
from dosvoces.testing import A, B
from tests.certificates import Authority, Files
from tests.far_ends import LIMIT_S, Recorder, media_ports, place
from tests.stun_server import StunServer
from tests.test_carriers_sip import ONE, to
from tests.trunk_server import TrunkServer

NUMBERS = {A: "+34601000001", B: "+34602000001"}
TONES = {A: 440, B: 1000}
NAME = "sip.example.com"


def a_trunk(side: Side, phone: Phone, transport: str, *, host: str, name: str = "", **others: bool) -> Trunk:
    port = phone.tls_port if transport == "tls" else phone.address[1]
    prefixes = (NUMBERS[side][:6],)
    return Trunk(name or side.name, host, port, transport=transport, prefixes=prefixes, **others)  # type: ignore[arg-type]


@asynccontextmanager
async def carried(
    *trunks: Trunk, host: str, tls: Tls | None = None, nat: Nat | None = None, bind: Address | None = None
) -> AsyncIterator[tuple[SipCarrier, Recorder]]:
    relay = WorkerRelay(MediaSettings(bind_host=host, advertised_host=host, port_range=media_ports()))
    carrier = SipCarrier(
        trunks=trunks, relay=relay, bind=bind or (host, 0), tcp=True, tls=tls, close_timeout_s=1.0, nat=nat or Nat()
    )
    told = Recorder()
    try:
        await carrier.start(told)
        yield carrier, told
    finally:
        await carrier.close()


async def hear_each_other(phones: Mapping[Side, Phone]) -> None:
    async with asyncio.timeout(LIMIT_S):
        for side, phone in phones.items():
            (call,) = phone.calls
            while call.heard.dominant(call.heard.windows[-3:]) != TONES[side.other]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def shown(files: Files, ca_file: str = "") -> Tls:
    return Tls(certificate_file=files.certificate, key_file=files.key, port=0, ca_file=ca_file)


@pytest.mark.parametrize(
    ("a", "b", "host"),
    [
        ("udp", "tcp", "127.0.0.1"),
        ("tcp", "tls", "127.0.0.1"),
        ("udp", "udp", "::1"),
        ("tls", "tcp", "::1"),
    ],
)
async def test_both_hear_each_other(tmp_path: Path, a: str, b: str, host: str) -> None:
    authority = Authority(tmp_path)
    certificate = shown(authority.certificate(host))
    async with AsyncExitStack() as stack:
        phones, trunks = {}, []
        for side, transport in ((A, a), (B, b)):
            behaviour = PhoneBehaviour(answer_after_s=0, tone_hz=TONES[side])
            phones[side] = await stack.enter_async_context(Phone.open(behaviour, bind=(host, 0), tls=certificate))
            trunks.append(a_trunk(side, phones[side], transport, host=host))
        tls = Tls(ca_file=authority.ca_file, port=0)
        carrier, told = await stack.enter_async_context(carried(*trunks, host=host, tls=tls))
        for side in Side:
            await place(carrier, to(NUMBERS[side], side))
            await told.saw(ONE, Answered(side))
        await carrier.join(ONE)
        await hear_each_other(phones)
        facts = {side: dialog_of(told.notes_of(ONE, "dialog", side)[0].facts) for side in Side}
        assert [Hop(*facts[side].destination).transport for side in Side] == [a, b]
        carrier.hangup(to("", A).id)
        phones[B].calls[0].hang_up()
        for side, reason in ((A, EndReason.HANGUP), (B, EndReason.HANGUP)):
            await told.saw(ONE, Ended(side, reason))


async def test_trunk_of_a_name_whose_certificate_is_another_s_takes_no_call(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = shown(authority.certificate("other.example.com"))
    tls = Tls(ca_file=authority.ca_file, port=0)
    async with Phone.open(bind=("127.0.0.1", 0), tls=certificate) as phone:
        trunk = a_trunk(A, phone, "tls", host="127.0.0.1")
        async with carried(trunk, host="127.0.0.1", tls=tls) as (carrier, told):
            for _ in range(2):
                await place(carrier, to(NUMBERS[A], A))
                await told.until(lambda: any(isinstance(event, Ended) for event in told.of(ONE)))
                (end,) = told.of(ONE)[-1:]
                assert isinstance(end, Ended)
                assert end.reason is EndReason.UNREACHABLE
                told.events.clear()
            (problem,) = carrier.problems()[1:]
            assert "its certificate is refused: IP address mismatch" in problem
        assert phone.calls == ()


async def test_files_of_certificates_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    trunk = Trunk("main", "127.0.0.1", 5061, transport="tls")
    with pytest.raises(CarrierError, match=r"none\.pem is no file of CA certificates.*see tls_ca_file"):
        async with carried(trunk, host="127.0.0.1", tls=Tls(ca_file=str(tmp_path / "none.pem"), port=0)):
            raise AssertionError


async def test_learned_address_is_said_in_signalling_and_audio() -> None:
    """What STUN says stands in Via, Contact and SDP; a change is for new calls."""
    async with (
        StunServer.open() as stun,
        Phone.open(PhoneBehaviour(answer_after_s=None)) as phone,
        carried(
            a_trunk(A, phone, "udp", host="127.0.0.1"),
            host="127.0.0.1",
            nat=Nat(stun=stun.address, signalling=True, media=True),
        ) as (carrier, told),
    ):
        await place(carrier, to(NUMBERS[A], A))
        async with asyncio.timeout(LIMIT_S):
            while not phone.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (call,) = phone.calls
        audio = sdp.parse(call._incoming.offer).audio
        assert audio is not None
        assert (audio.host, carrier.agent.advertised) == ("203.0.113.7", ("203.0.113.7", 40_000))
        assert call._incoming.hop == Hop("203.0.113.7", 40_000)  # the Contact
        assert carrier.warnings() == []
        assert told.events


async def test_address_that_a_registrar_saw_is_said_and_registered_anew() -> None:
    async with TrunkServer.open() as server:
        trunk = Trunk("main", "127.0.0.1", server.port, username="me", register=True)
        nat = Nat(signalling=True, media=True)
        async with carried(trunk, host="127.0.0.1", nat=nat) as (carrier, _told):
            first, second = await server.came("REGISTER", 2)
            port = carrier.agent.local[1]
            assert first.header("contact") == f"<sip:dosvoces@127.0.0.1:{port}>"
            assert second.header("contact") == f"<sip:dosvoces@203.0.113.7:{port}>"
            assert second.header("via").startswith(f"SIP/2.0/UDP 203.0.113.7:{port};")
            assert carrier.warnings() == []
            assert len(server.of("REGISTER")) == 2
        assert server.bound[f"<sip:dosvoces@203.0.113.7:{port}>"] == 0


async def test_registrars_that_see_different_ports_do_not_have_us_register_without_end() -> None:
    """Behind a NAT that gives each destination another port: no port is right for both, and one is kept."""
    async with TrunkServer.open() as one, TrunkServer.open() as two:
        one.sees, two.sees = (lambda _port: 40_001), (lambda _port: 40_002)
        trunks = [Trunk(name, "127.0.0.1", server.port, username="me", register=True) for name, server in
                  (("one", one), ("two", two))]  # fmt: skip
        async with carried(*trunks, host="127.0.0.1", nat=Nat(signalling=True)) as (carrier, _told):
            await asyncio.gather(one.came("REGISTER", 2), two.came("REGISTER", 2))
            host, port = carrier.agent.advertised
            assert (host, port in (40_001, 40_002)) == ("203.0.113.7", True)
            await asyncio.sleep(0.3)
            assert (len(one.of("REGISTER")), len(two.of("REGISTER"))) == (2, 2)
            assert carrier.agent.advertised == (host, port)
            # A mapping that changes is followed.
            carrier._public.seen("one", "203.0.113.7", 40_003)
            assert carrier.agent.advertised == ("203.0.113.7", 40_003)


async def test_address_that_nobody_tells_is_a_warning() -> None:
    trunk = Trunk("main", "127.0.0.1", 5060)
    async with carried(trunk, host="127.0.0.1", nat=Nat(media=True)) as (carrier, _told):
        assert carrier.warnings() == ["the public address is not known yet: no registrar has told it"]
    async with carried(trunk, host="127.0.0.1", nat=Nat(stun=("no-such-host.invalid", 3478), media=True)) as (
        carrier,
        _,
    ):
        (warning,) = carrier.warnings()
        assert warning.startswith("the public address can't be asked of the STUN server: ")


async def test_tls_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        trunk = Trunk("main", "127.0.0.1", 5061, transport="tls")
        with pytest.raises(CarrierError, match=rf"and TLS port {port}: .* in use; change sip.bind, sip.tls_port or"):
            async with carried(trunk, host="127.0.0.1", tls=Tls(port=port)):
                raise AssertionError
