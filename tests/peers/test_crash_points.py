"""
The service dies at each named moment, and what the next process makes of it, as phones and mail server saw it.

Never a second dial; nobody left ringing or on a line five seconds after the restart; each connection's end is told as
`interrupted`. The first process is a real one that kills itself by SIGKILL, with several calls under way; the next one
listens at the same addresses.
"""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.crashpoints import POINTS
from dosvoces.phone import Phone, PhoneBehaviour, PhoneCall, Tls
from dosvoces.testing import until
from tests.certificates import Authority
from tests.house import FIRST, HOST, LIMIT_S, SECOND, House, Phones, house, lead, process
from tests.peers.smtp_server import FaultySmtp
from tests.ports import free_port

CALLS = 3
"""Made at once; the first to come to the point takes the others with it, wherever they are."""
UP_LIMIT_S = 5.0
SETTLED_LIMIT_S = 10.0

TRIES_THEN_RINGS = PhoneBehaviour(ring_after_s=0.05, answer_after_s=0.1)
"""100, 180, 200: a phone that passes all of a call's points."""
LEAVES_SOON = PhoneBehaviour(ring_after_s=0.05, answer_after_s=0.1, hangup_after_s=0.3)

SIGNALLING = [point for point in POINTS if "k08" <= point[:3] <= "k23"]
MAIL = [point for point in POINTS if "k02" <= point[:3] <= "k07"]
ON_EVERY_TRANSPORT = [point for point in SIGNALLING if point[:3] in ("k10", "k12", "k13", "k20", "k21")]


@asynccontextmanager
async def phones_and_trunk(folder: Path, transport: str, second: PhoneBehaviour) -> AsyncIterator[Any]:
    """Phones at one address, and the settings of the way to them."""
    authority = Authority(folder)
    files = authority.certificate(HOST)
    tls = Tls(certificate_file=files.certificate, key_file=files.key, port=0, ca_file=authority.ca_file)
    behaviours: Mapping[str, PhoneBehaviour] = {FIRST: TRIES_THEN_RINGS, SECOND: second}
    async with Phone.open(dict(behaviours).get, tls=tls) as phone:
        port = phone.tls_port if transport == "tls" else phone.address[1]
        trunk = {
            "name": "phones",
            "proxy": f"sip:{HOST}:{port};transport={transport}",
            "caller_id": "+34910000000",
        }
        sip: dict[str, object] = {"bind": f"{HOST}:{free_port()}"}
        if transport == "tls":
            sip |= {
                "tls_ca_file": authority.ca_file,
                "tls_certificate_file": files.certificate,
                "tls_key_file": files.key,
                "tls_port": free_port(),
            }
        yield Phones(phone), {"trunks": [trunk], "sip": sip}


async def dies(folder: Path, crash_at: str, settings: dict[str, Any], mail: dict[str, object]) -> None:
    """Post calls to a service that kills itself at this point."""
    async with (
        process(folder, None, crash_at=crash_at, mail=mail, **settings) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
    ):

        async def post(number: int) -> None:
            with suppress(httpx.TransportError):
                await client.post("/call", json=lead(property_name=f"flat {number}"))

        await asyncio.gather(*(post(number) for number in range(CALLS)))
        assert await serving.ended() == -signal.SIGKILL, "".join(serving.lines)


def dials(calls: tuple[PhoneCall, ...]) -> Counter[str]:
    """How often each leg was called: a Call-ID begins with the leg's id, whatever follows it."""
    return Counter(call.call_id.rpartition("-")[0] for call in calls)


async def released(phones: Phones, begun: float) -> float:
    """Seconds from the start of the next process until nobody rings or talks."""

    async def quiet() -> bool:
        return phones.phone.agent.open_calls == 0

    await until(quiet, limit_s=UP_LIMIT_S)
    return time.monotonic() - begun


async def settled(running: House) -> list[tuple[str | None, list[str]]]:
    """Each connection's outcome and its legs' details."""
    connections = await running.service.store.connections()

    async def all_settled() -> bool:
        return not await running.service.store.unfinished()

    await until(all_settled, limit_s=SETTLED_LIMIT_S)
    connections = await running.service.store.connections()
    return [(record.outcome, [leg.detail for leg in record.legs if leg.dialed_at]) for record in connections]


async def crash_and_recover(
    folder: Path, point: str, transport: str = "udp", second: PhoneBehaviour = TRIES_THEN_RINGS, count: int = 1
) -> list[tuple[str | None, list[str]]]:
    async with phones_and_trunk(folder, transport, second) as (phones, settings), FaultySmtp() as server:
        mail: dict[str, object] = {
            "url": f"smtp://{HOST}:{server.port}?tls=none",
            "from": "Dosvoces <leads@example.com>",
        }
        await dies(folder, f"{point}:{count}", settings, mail)
        before = dials(phones.phone.calls)
        begun = time.monotonic()
        async with house(folder, mail=mail, **settings) as running:
            took = await released(phones, begun)
            outcomes = await settled(running)
        assert took < UP_LIMIT_S
        assert dials(phones.phone.calls) == before, "somebody was dialled again"
        assert set(before.values()) <= {1}
        sent = Counter(re.search(rb"(?im)^Message-ID: *(\S+)", mail.content)[1] for mail in server.received)  # type: ignore[index]
        assert set(sent.values()) <= {1}
        return outcomes


@pytest.mark.parametrize("point", SIGNALLING)
async def test_nobody_is_left_and_nobody_dialled_again(tmp_path: Path, point: str) -> None:
    ends_by_itself = point[:3] in ("k22", "k23")
    outcomes = await crash_and_recover(tmp_path, point, second=LEAVES_SOON if ends_by_itself else TRIES_THEN_RINGS)
    assert len(outcomes) == CALLS
    assert {outcome for outcome, _ in outcomes} <= {"interrupted", "completed"}
    assert "interrupted" in {outcome for outcome, _ in outcomes}
    if not ends_by_itself:
        assert {outcome for outcome, _ in outcomes} == {"interrupted"}


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("point", ON_EVERY_TRANSPORT)
async def test_over_connections_made_anew(tmp_path: Path, point: str, transport: str) -> None:
    """The connections died with the process: what it was answered on them is lost, and is answered again."""
    outcomes = await crash_and_recover(tmp_path, point, transport, count=2)
    assert {outcome for outcome, _ in outcomes} == {"interrupted"}


@pytest.mark.parametrize("point", MAIL)
async def test_a_mail_that_was_interrupted_rings_nobody(tmp_path: Path, point: str) -> None:
    outcomes = await crash_and_recover(tmp_path, point)
    assert outcomes
    assert {(outcome, tuple(legs)) for outcome, legs in outcomes} == {("interrupted", ())}
