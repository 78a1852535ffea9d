"""Kamailio between us and the phones: it challenges, and every request of a dialog goes through it, both ways."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dosvoces.model import Side
from tests.peers.kamailio import Kamailio
from tests.peers.sipp import HOST, SippPhone
from tests.peers.trial import Between, Phone, trial

TRANSPORTS = ["udp"]
READ_SECOND_VIA = '<ereg regexp=".*" search_in="hdr" header="Via:" occurrence="2" assign_to="via2"/>'


def behind(scenario: str, **texts: str) -> Phone:
    """A phone that gives back what a proxy wrote: its Record-Route in answers (RFC 3261 §12.1.1), both Vias."""
    more = {"read_second_via": READ_SECOND_VIA, "second_via": "Via:[$via2]"} if scenario == "ring_on" else {}
    return Phone(scenario, {"record_route": "[last_Record-Route:]", **more, **texts})


def through_kamailio(folder: Path, transport: str) -> Between:
    @asynccontextmanager
    async def between(ports: dict[Side, int]) -> AsyncIterator[dict[str, str]]:
        async with Kamailio.start(folder, {side: f"{HOST}:{port}" for side, port in ports.items()}) as proxy:
            yield {name: str(value) for name, value in proxy.trunk(transport).items()}

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


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("who", Side)
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


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nobody_answers(tmp_path: Path, transport: str) -> None:
    """The CANCEL finds its way too."""
    between = through_kamailio(tmp_path, transport)
    async with trial(tmp_path, a=behind("answer"), b=behind("ring_on"), through=between, ring_timeout_s=1) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("second_no_answer", "timer")
    assert len(t.b.received("CANCEL")) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
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
