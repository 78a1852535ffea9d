"""Kamailio between us and the phones: it challenges, and every request of a dialog goes through it, both ways."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import Side
from dosvoces.settings import Settings
from tests.certificates import Authority, Files
from tests.dns_server import DnsServer
from tests.far_ends import media_ports
from tests.house import ANSWERS, FIRST, SECOND, Phones, house
from tests.peers import kamailio
from tests.peers.baresip import Baresip
from tests.peers.kamailio import Kamailio
from tests.peers.sipp import HOST, SippPhone, until
from tests.peers.test_baresip import SPEAKS_HZ, BaresipTrial, passed
from tests.peers.test_baresip_srtp import CM_80, NUMBERS, assert_both_heard
from tests.peers.trial import Between, Phone, Way, open_service, settings_values, trial

TRANSPORTS = ["udp", "tcp", "tls"]
READ_SECOND_VIA = '<ereg regexp=".*" search_in="hdr" header="Via:" occurrence="2" assign_to="via2"/>'


def behind(scenario: str, **texts: str) -> Phone:
    """A phone that gives back what a proxy wrote: its Record-Route in answers (RFC 3261 §12.1.1), both Vias."""
    more = {"read_second_via": READ_SECOND_VIA, "second_via": "Via:[$via2]"} if scenario == "ring_on" else {}
    return Phone(scenario, {"record_route": "[last_Record-Route:]", **more, **texts})


def through_kamailio(folder: Path, transport: str) -> Between:
    """We speak `transport` with the proxy, and it speaks UDP with the phones."""

    @asynccontextmanager
    async def between(ports: dict[Side, int]) -> AsyncIterator[Way]:
        authority = Authority(folder)
        shown = authority.certificate(HOST)
        phones = {side: f"{HOST}:{port}" for side, port in ports.items()}
        async with Kamailio.start(folder, phones, certificate=shown.certificate, key=shown.key) as proxy:
            yield Way(proxy.trunk(transport), {"tls_ca_file": authority.ca_file, "tls_port": 0})

    return between


def came_by_the_proxy(phone: SippPhone) -> None:
    """Every request that reached this phone has two Vias, the proxy's on top, and it is on the record of the call."""
    for message in phone.messages:
        if not message.sent and message.status is None:
            assert len(message.all("Via")) == 2 or message.method == "CANCEL"
            # What is for the proxy alone stays with it; it leaves the ACK as it is (RFC 3261 §22.1 puts it there).
            assert message.header("Proxy-Authorization") == "" or message.method == "ACK"
    (invite, *_) = phone.received("INVITE")
    assert len(invite.all("Record-Route")) >= 1


@pytest.mark.parametrize(("transport", "who"), [("udp", Side.A), ("udp", Side.B), ("tcp", Side.A), ("tls", Side.B)])
async def test_a_phone_hangs_up(tmp_path: Path, transport: str, who: Side) -> None:
    phones = {who: behind("hang_up"), who.other: behind("answer")}
    between = through_kamailio(tmp_path, transport)
    async with trial(tmp_path, a=phones[Side.A], b=phones[Side.B], through=between) as t:
        response = await t.post()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("completed", who)
    for phone in t.phones.values():
        came_by_the_proxy(phone)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_we_hang_up(tmp_path: Path, transport: str) -> None:
    """Our BYEs are challenged as well."""
    between = through_kamailio(tmp_path, transport)
    async with trial(tmp_path, a=behind("answer"), b=behind("answer"), through=between, talk_limit_s=1) as t:
        response = await t.post()
    assert response.status_code == 200
    assert (t.outcome, t.ended_by) == ("completed", "timer")
    for phone in t.phones.values():
        came_by_the_proxy(phone)
        assert len(phone.received("BYE")) == 1


@pytest.mark.parametrize("transport", ["udp", "tls"])
async def test_nobody_answers(tmp_path: Path, transport: str) -> None:
    """The CANCEL finds its way too."""
    between = through_kamailio(tmp_path, transport)
    async with trial(tmp_path, a=behind("answer"), b=behind("ring_on"), through=between, ring_timeout_s=1) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("second_no_answer", "timer")
    assert len(t.b.received("CANCEL")) == 1


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_second_phone_is_busy(tmp_path: Path, transport: str) -> None:
    between = through_kamailio(tmp_path, transport)
    busy = behind("reject", status="486 Busy Here")
    async with trial(tmp_path, a=behind("answer"), b=busy, through=between) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("second_busy", "b")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_hold_and_resume(tmp_path: Path, transport: str) -> None:
    between = through_kamailio(tmp_path, transport)
    async with trial(tmp_path, a=behind("answer"), b=behind("hold_and_resume"), through=between) as t:
        await t.post()
    assert t.outcome == "completed"
    assert [entry.side for entry in t.entries("hold") + t.entries("resume")] == [Side.B, Side.B]


def joined(files: Files, path: Path) -> str:
    """Certificate and key in one file, which baresip wants."""
    path.write_text(Path(files.certificate).read_text() + Path(files.key).read_text())
    return str(path)


async def test_phones_by_tls_that_encrypt(tmp_path: Path) -> None:
    """TLS from us to Kamailio and from there to baresip, and the voice in SRTP past it."""
    authority = Authority(tmp_path)
    shown = authority.certificate(HOST)
    pem = joined(shown, tmp_path / "phone.pem")

    def phone(side: Side) -> AbstractAsyncContextManager[Baresip]:
        return Baresip.start(
            tmp_path,
            number=NUMBERS[side],
            speaks_hz=SPEAKS_HZ[side],
            name=f"phone-{side}",
            encryption="srtp-mand",
            pem=pem,
        )

    async with phone(Side.A) as a, phone(Side.B) as b:
        phones = {Side.A: a, Side.B: b}
        uris = {side: f"{HOST}:{phones[side].port + 1};transport=tls" for side in Side}
        async with Kamailio.start(tmp_path, uris, certificate=shown.certificate, key=shown.key) as proxy:
            keys = proxy.trunk("tls", srtp="required")
            values = settings_values(tmp_path, {side: phones[side].port for side in Side}, trunk=keys)
            values["sip"] |= {"tls_ca_file": authority.ca_file, "tls_port": 0}
            async with open_service(Settings.model_validate(values)) as (service, client):
                t = BaresipTrial(service, client, phones=phones)
                await t.talk()
                await until(passed(1.0), "a second of talk")
                await b.command("hangup")
                await t.over()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    assert_both_heard(t)
    assert {entry.facts["suite"] for entry in t.entries("encryption")} == {CM_80}


async def test_one_of_two_behind_the_dns_is_dead(tmp_path: Path) -> None:
    """The SRV records name a Kamailio that has stopped and, after it, one that lives: every call is made."""
    async with AsyncExitStack() as stack:
        phones = await stack.enter_async_context(Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}))
        uris = dict.fromkeys(Side, f"{HOST}:{phones.phone.address[1]}")
        dead = await stack.enter_async_context(Kamailio.start(tmp_path, uris, name="dead"))
        living = await stack.enter_async_context(Kamailio.start(tmp_path, uris, name="living"))
        dns = await stack.enter_async_context(DnsServer.open())
        dns.add("_sip._udp.carrier.test", "SRV", f"10 0 {dead.port} one.test.", f"20 0 {living.port} two.test.")
        dns.add("one.test", "A", HOST)
        dns.add("two.test", "A", HOST)
        low, high = media_ports()
        trunk = Trunk(
            name="kamailio",
            host="carrier.test",
            port=None,
            caller_id="+34910000000",
            username=kamailio.USER,
            password=kamailio.PASSWORD,
        )
        relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=(low, high)))
        carrier = SipCarrier(trunks=[trunk], relay=relay, bind=(HOST, 0), dns=dns.dns)
        running = await stack.enter_async_context(house(tmp_path, carrier=carrier, dialing={"talk_limit_s": 1}))
        both_live = await running.over(await running.post())
        await dead.stop()
        records = await asyncio.gather(*[running.over(await running.post()) for _ in range(5)])
        assert [record.outcome for record in (both_live, *records)] == ["completed"] * 6
        # Each number rang once for each connection: nobody is called twice because a proxy was dead.
        assert [call.number for call in phones.phone.calls].count(FIRST) == 6
        assert [call.number for call in phones.phone.calls].count(SECOND) == 6
        await phones.quiet()
