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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.crashpoints import POINTS
from dosvoces.phone import Phone, PhoneBehaviour, PhoneCall, Tls
from dosvoces.testing import until
from tests.certificates import Authority
from tests.house import FIRST, HOST, LIMIT_S, SECOND, House, Phones, house, lead, process
from tests.peers.sipp import SippPhone
from tests.peers.smtp_server import FaultySmtp
from tests.ports import free_port

CALLS = 3
"""Made at once; the first to come to the point takes the others with it, wherever they are."""
MANY = 100
UP_LIMIT_S = 5.0
SETTLED_LIMIT_S = 10.0

TRIES_THEN_RINGS = PhoneBehaviour(ring_after_s=0.05, answer_after_s=0.1)
"""100, 180, 200: a phone that passes all of a call's points."""
LEAVES_SOON = PhoneBehaviour(ring_after_s=0.05, answer_after_s=0.1, hangup_after_s=0.3)

MESSAGE_ID = re.compile(rb"(?im)^Message-ID: *(\S+)")
UNKNOWN = (
    "the service stopped when it was to be dialled; whether that was done is unknown; "
    "the far end knew of no call after the restart"
)

SIGNALLING = [point for point in POINTS if "k08" <= point[:3] <= "k21"]
ENDING = ["k22_one_bye_sent", "k23_outcome_about_to_be_recorded"]
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


async def dies(
    folder: Path,
    crash_at: str,
    settings: dict[str, Any],
    mail: dict[str, object],
    calls: int = CALLS,
    interval_s: int = 0,
) -> None:
    """Post calls to a service that kills itself at this point."""
    async with (
        process(folder, None, crash_at=crash_at, mail=mail, **settings) as serving,
        httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
    ):

        async def post(number: int) -> None:
            with suppress(httpx.TransportError):
                await client.post("/call", json=lead(property_name=f"flat {number}", call_interval=interval_s))

        await asyncio.gather(*(post(number) for number in range(calls)))
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


@dataclass(frozen=True)
class Aftermath:
    """What the record says in the end, and how it was brought about."""

    outcomes: list[str | None]
    details: list[str]
    """Of all legs that were to be dialled."""
    released_s: float
    """From the start of the next process until nobody rang or talked."""


async def crash_and_recover(
    folder: Path,
    point: str,
    transport: str = "udp",
    second: PhoneBehaviour = TRIES_THEN_RINGS,
    *,
    again_at: str = "",
    elsewhere: bool = False,
    interval_s: int = 0,
) -> Aftermath:
    """
    Let the service die at `point`, and start it again, in this process.

    `again_at` is where a process between them dies, `elsewhere` starts the last one at another address.
    """
    async with phones_and_trunk(folder, transport, second) as (phones, settings), FaultySmtp() as server:
        mail: dict[str, object] = {
            "url": f"smtp://{HOST}:{server.port}?tls=none",
            "from": "Dosvoces <leads@example.com>",
        }
        await dies(folder, point, settings, mail, interval_s=interval_s)
        before = dials(phones.phone.calls)
        if again_at:
            async with process(folder, None, crash_at=again_at, mail=mail, **settings) as between:
                assert await between.ended() == -signal.SIGKILL, "".join(between.lines)
        if elsewhere:
            settings["sip"] |= {"bind": f"{HOST}:{free_port()}"}
        begun = time.monotonic()
        async with house(folder, mail=mail, **settings) as running:
            released_s = await released(phones, begun)
            outcomes = await settled(running)
        assert released_s < UP_LIMIT_S
        assert dials(phones.phone.calls) == before, "somebody was dialled again"
        assert set(before.values()) <= {1}
        sent = Counter(MESSAGE_ID.findall(b"".join(mail.content for mail in server.received)))
        assert set(sent.values()) <= {1}
        return Aftermath(
            [outcome for outcome, _ in outcomes], [detail for _, legs in outcomes for detail in legs], released_s
        )


@pytest.mark.parametrize("point", SIGNALLING)
async def test_nobody_is_left_and_nobody_dialled_again(tmp_path: Path, point: str) -> None:
    aftermath = await crash_and_recover(tmp_path, point, interval_s=60 if point == "k14_first_up" else 0)
    assert aftermath.outcomes == ["interrupted"] * CALLS


@pytest.mark.parametrize("point", ENDING)
async def test_a_call_that_was_ending_is_ended(tmp_path: Path, point: str) -> None:
    """Those whose outcome was recorded before keep it."""
    aftermath = await crash_and_recover(tmp_path, point, second=LEAVES_SOON)
    assert set(aftermath.outcomes) <= {"interrupted", "completed"}
    assert "interrupted" in aftermath.outcomes


async def test_a_call_that_was_perhaps_never_placed_is_told_as_unknown(tmp_path: Path) -> None:
    aftermath = await crash_and_recover(tmp_path, "k09_first_intended")
    assert UNKNOWN in aftermath.details


@pytest.mark.parametrize("transport", ["tcp", "tls"])
@pytest.mark.parametrize("point", ON_EVERY_TRANSPORT)
async def test_over_connections_made_anew(tmp_path: Path, point: str, transport: str) -> None:
    """The connections died with the process: what it was answered on them is lost, and is answered again."""
    aftermath = await crash_and_recover(tmp_path, f"{point}:2", transport)
    assert aftermath.outcomes == ["interrupted"] * CALLS


@pytest.mark.parametrize("point", [point for point in ON_EVERY_TRANSPORT if point[:3] != "k10"])
async def test_from_another_address(tmp_path: Path, point: str) -> None:
    """As a node does that inherits from a dead one: the far end's answers to that don't come here."""
    aftermath = await crash_and_recover(tmp_path, point, elsewhere=True)
    assert aftermath.outcomes == ["interrupted"] * CALLS


@pytest.mark.parametrize("point", ["k12_first_180_received", "k20_second_200_received", "k21_joined"])
async def test_a_crash_of_the_recovery_itself_is_recovered_from(tmp_path: Path, point: str) -> None:
    aftermath = await crash_and_recover(tmp_path, point, again_at="k24_leftovers_released")
    assert aftermath.outcomes == ["interrupted"] * CALLS


@pytest.mark.parametrize("point", MAIL)
async def test_a_mail_that_was_interrupted_rings_nobody(tmp_path: Path, point: str) -> None:
    aftermath = await crash_and_recover(tmp_path, point)
    assert aftermath.outcomes
    assert (set(aftermath.outcomes), aftermath.details) == ({"interrupted"}, [])


async def test_a_request_that_was_only_read_left_nothing(tmp_path: Path) -> None:
    aftermath = await crash_and_recover(tmp_path, "k01_request_read")
    assert (aftermath.outcomes, aftermath.details) == ([], [])


async def _call(client: httpx.AsyncClient, **changes: object) -> None:
    """Until it is taken: a machine that is busy just now says so, and nothing was done."""
    for _ in range(MANY):
        answer = await client.post("/call", json=lead(**changes))
        if answer.status_code != 503:
            break
        await asyncio.sleep(float(answer.headers["retry-after"]))
    assert answer.status_code == 200


async def test_a_hundred_connections_are_released_in_the_start(tmp_path: Path) -> None:
    """By a real process, before it serves HTTP: of each connection one party is up and the other one rings."""
    ringing = PhoneBehaviour(answer_after_s=None)
    async with phones_and_trunk(tmp_path, "udp", ringing) as (phones, settings):
        async with (
            process(tmp_path, None, dialing={"max_connections": MANY}, **settings) as serving,
            httpx.AsyncClient(
                base_url=serving.url, timeout=3 * LIMIT_S, limits=httpx.Limits(max_connections=MANY)
            ) as client,
        ):
            await asyncio.gather(*(_call(client, property_name=f"flat {number}") for number in range(MANY)))
            assert phones.phone.agent.open_calls == 2 * MANY
            serving.signal(signal.SIGKILL)
            await serving.ended()
        begun = time.monotonic()
        async with process(tmp_path, None, **settings) as serving:
            assert phones.phone.agent.open_calls == 0, "HTTP is served, and somebody is still on a line"
            listening_s = time.monotonic() - begun
            assert serving.rows("SELECT DISTINCT outcome FROM connection") == [("interrupted",)]
        assert len(phones.phone.calls) == 2 * MANY
    assert listening_s < UP_LIMIT_S


# --- phones that nobody here wrote ---


@asynccontextmanager
async def recovering(folder: Path, phone: SippPhone, point: str) -> AsyncIterator[House]:
    """A service with a trunk to this phone, which died at `point` while it called; the next one, just started."""
    trunk: dict[str, object] = {"name": "sipp", "proxy": f"sip:{HOST}:{phone.port}", "username": "us", "password": "pw"}
    settings: dict[str, Any] = {"trunks": [trunk], "sip": {"bind": f"{HOST}:{free_port()}"}}
    await dies(folder, point, settings, {}, calls=1)
    async with house(folder, **settings) as running:
        yield running


@pytest.mark.parametrize("scenario", ["answer_or_be_cancelled", "challenge_then_cancelled"])
async def test_sipp_is_cancelled_as_the_rfc_has_it(tmp_path: Path, scenario: str) -> None:
    """SIPp plays its scenario to the end: the INVITE, and its CANCEL from another process, with an ACK to the 487."""
    async with SippPhone.start(tmp_path, scenario, ring_ms=20_000) as phone:
        async with recovering(tmp_path, phone, "k12_first_180_received") as running:
            await phone.finished()
            assert [outcome for outcome, _ in await settled(running)] == ["interrupted"]
        invite, cancel = phone.received("INVITE")[-1], phone.received("CANCEL")[-1]
        assert (cancel.branch, cancel.call_id, cancel.from_tag) == (invite.branch, invite.call_id, invite.from_tag)
        assert len({each.branch for each in phone.received("INVITE")}) == (2 if "challenge" in scenario else 1)


async def test_sipp_that_answered_is_hung_up_by_its_tag(tmp_path: Path) -> None:
    """No ACK ever came to it, and it repeats its 200 no more."""
    async with SippPhone.start(tmp_path, "answered_unheard") as phone:
        async with recovering(tmp_path, phone, "k13_first_200_received") as running:
            await phone.finished()
            assert [outcome for outcome, _ in await settled(running)] == ["interrupted"]
        (answer,) = {each.to_tag for each in phone.messages if each.sent and each.status == 200}
        (bye,) = phone.received("BYE")
        assert bye.to_tag == answer
        assert len({each.branch for each in phone.received("INVITE")}) == 1
