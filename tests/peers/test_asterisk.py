"""
Asterisk 22 as the carrier: every call is challenged, and what becomes of it stands in our record.

The calls of a test go on at the same time, as on a real trunk.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dosvoces.capture import unpack
from dosvoces.model import Side
from dosvoces.store import ConnectionRecord, Entry
from dosvoces.testing import until as when
from tests.certificates import Authority
from tests.house import HOST, House, house
from tests.peers.asterisk import Asterisk
from tests.peers.baresip import Baresip
from tests.peers.sipp import until

ECHO, TONE = "600", "601"
PRESSES, READS, SILENT, PHONE = "613", "614", "615", "621"
TALK_S = 4.0  # the limit of a conversation here
RING_S = 5.0
FRAMES_PER_S = 50
HEARS_NOTHING_S = 0.5  # so long Asterisk waits for voice when it has answered, before it goes on and speaks


@dataclass(frozen=True)
class Told:
    """What our record says of a connection and of the leg that decided it."""

    outcome: str
    ended_by: str
    reason: str
    detail: str


@dataclass
class Made:
    """A connection that is over."""

    record: ConnectionRecord
    journal: list[Entry]
    invites: int
    """How many were sent."""

    def facts(self, event: str, side: Side) -> list[dict[str, str | int | float | None]]:
        return [entry.facts for entry in self.journal if (entry.event, entry.side) == (event, side)]

    def told(self, side: Side) -> Told:
        (ended,) = self.facts("ended", side)
        assert self.record.outcome is not None
        return Told(self.record.outcome, self.record.ended_by, str(ended["reason"]), str(ended["detail"]))

    def heard(self, side: Side) -> int:
        """Packets of voice that came from that side's party and were taken."""
        (figures,) = self.facts("statistics", side)
        return int(figures["received"] or 0)

    def speaks_all_the_time(self, side: Side) -> bool:
        """Whether that party was heard from the join to the end, give or take a few packets of each end."""
        figures = self.facts("statistics", side)[0]
        least, most = FRAMES_PER_S * (TALK_S - HEARS_NOTHING_S) - 5, FRAMES_PER_S * TALK_S + 10
        return least <= self.heard(side) <= most and (figures["lost"], figures["refused"]) == (0, 0)

    def keys(self, side: Side) -> str:
        return "".join(str(facts["digit"]) for facts in self.facts("digit", side))


@dataclass
class Street:
    """A service whose trunks lead to one Asterisk."""

    carrier: Asterisk
    house: House

    async def connect(self, a: str, b: str) -> Made:
        """Join the numbers that end so, and wait until it is over."""
        answer = await self.house.post(firstnumber=f"+34600000{a}", secondnumber=f"+34960000{b}")
        return await self.made(await self.house.over(answer))

    async def connect_all(self, pairs: Iterable[tuple[str, str]]) -> list[Made]:
        return await asyncio.gather(*(self.connect(a, b) for a, b in pairs))

    async def made(self, record: ConnectionRecord) -> Made:
        """With the entries that are written behind: a leg's statistics, and then the capture, come last."""
        store = self.house.service.store
        await when(lambda: store.capture(record.id), limit_s=RING_S)
        packed = await store.capture(record.id)
        assert packed is not None
        sent = [message.data for message in unpack(packed).messages if message.ours]
        invites = len({data for data in sent if data.startswith(b"INVITE ")})
        return Made(record, await store.entries(record.id), invites)


@asynccontextmanager
async def street(
    folder: Path, carrier: Asterisk, *trunks: dict[str, object], sip: dict[str, object] | None = None
) -> AsyncIterator[Street]:
    """A service with these trunks (or one with the usual account); in the end nobody is left on a line."""
    async with house(
        folder,
        trunks=trunks or (carrier.trunk(),),
        dialing={"ring_timeout_s": RING_S, "talk_limit_s": TALK_S},
        media={"silence_s": 2},
        sip=sip or {},
    ) as running:
        yield Street(carrier, running)
    await carrier.quiet()


REFUSED = {
    "602": Told("no_answer", "timer", "cancelled", "487 Request Terminated; Q.850;cause=16"),  # rings for ever
    "603": Told("busy", "", "busy", "486 Busy Here; Q.850;cause=17"),
    "604": Told("failed", "", "unreachable", "404 Not Found; Q.850;cause=1"),
    "605": Told("failed", "", "rejected", "403 Forbidden; Q.850;cause=21"),
    "606": Told("failed", "", "failed", "503 Service Unavailable; Q.850;cause=34"),
    "607": Told("no_answer", "", "no_answer", "480 Temporarily Unavailable; Q.850;cause=19"),
    "608": Told("no_answer", "timer", "cancelled", "487 Request Terminated; Q.850;cause=16"),  # early media for ever
    "617": Told("no_answer", "timer", "cancelled", "487 Request Terminated; Q.850;cause=16"),  # 100 Trying only
    "618": Told("busy", "", "busy", "486 Busy Here; Q.850;cause=17"),  # after three seconds
}
"""What becomes of those who don't answer; the outcome without which party it was."""


async def test_who_does_not_answer(tmp_path: Path) -> None:
    """Nine ways, as the first party and as the second."""
    async with Asterisk.start(tmp_path) as carrier, street(tmp_path, carrier) as s:
        made_a, made_b = await asyncio.gather(
            s.connect_all((number, ECHO) for number in REFUSED), s.connect_all((TONE, number) for number in REFUSED)
        )
    for side, which, made in ((Side.A, "first", made_a), (Side.B, "second", made_b)):
        expected = {
            number: Told(f"{which}_{told.outcome}", told.ended_by or side, told.reason, told.detail)
            for number, told in REFUSED.items()
        }
        assert {number: one.told(side) for number, one in zip(REFUSED, made, strict=True)} == expected
        # Challenged once for each leg that was dialled.
        assert {one.invites for one in made} == {2 if side is Side.A else 4}
        # Early media of a party who may never answer is not for the other one's ear.
        assert {one.heard(side) for one in made} == {0}


BY_TIMER = Told("completed", "timer", "hangup", "")
ANSWERS = {
    "600": (BY_TIMER, 1.0),
    "601": (BY_TIMER, 1.0),
    "609": (BY_TIMER, 1.0),  # after two seconds of early media
    "610": (BY_TIMER, 1.0),  # after three seconds
    "611": (BY_TIMER, 0.8),  # a machine that greets
    "612": (Told("completed", "b", "hangup", "BYE; Q.850;cause=16"), 0.0),  # hangs up after three seconds
    "615": (BY_TIMER, 0.0),  # no voice at all
    "616": (BY_TIMER, 0.3),  # a short hello
}
"""What becomes of those who answer, and how much of the time they speak."""


async def test_who_answers(tmp_path: Path) -> None:
    async with Asterisk.start(tmp_path) as carrier, street(tmp_path, carrier) as s:
        connections = await s.connect_all((TONE, number) for number in ANSWERS)
    made = dict(zip(ANSWERS, connections, strict=True))
    assert {number: one.told(Side.B) for number, one in made.items()} == {n: told for n, (told, _) in ANSWERS.items()}
    spoken = {number: one.heard(Side.B) / FRAMES_PER_S / TALK_S for number, one in made.items()}
    assert spoken == {number: pytest.approx(share, abs=0.2) for number, (_, share) in ANSWERS.items()}
    for one in made.values():
        a, b = (one.facts("statistics", side)[0] for side in Side)
        assert (a["lost"], b["lost"], a["refused"]) == (0, 0, 0)
        talk_s = 3 if one.told(Side.B).ended_by == "b" else TALK_S
        assert FRAMES_PER_S * (talk_s - HEARS_NOTHING_S) - 10 <= int(b["sent"] or 0) <= FRAMES_PER_S * talk_s + 10
    silent = {number for number, one in made.items() if one.facts("silent", Side.B)}
    assert silent == {"612", "615"}


async def test_keys_pass_both_ways(tmp_path: Path) -> None:
    """One leg of Asterisk presses, the other reads: the digits went through both of ours, and stand in the journal."""
    async with Asterisk.start(tmp_path) as carrier, street(tmp_path, carrier) as s:
        there, back = await s.connect_all([(PRESSES, READS), (READS, PRESSES)])
        await until(lambda: carrier.log.count("read 1234 from +34910000000") == 2, "the digits at Asterisk")
    assert (there.keys(Side.A), there.keys(Side.B)) == ("1234#", "")
    assert (back.keys(Side.A), back.keys(Side.B)) == ("", "1234#")


async def test_a_wrong_password_is_said_after_one_challenge(tmp_path: Path) -> None:
    async with Asterisk.start(tmp_path) as carrier:
        async with street(tmp_path, carrier, carrier.trunk(password="wrong")) as s:
            made = await s.connect(TONE, ECHO)
        assert carrier.log.count("Failed to authenticate") == 1
    told = made.told(Side.A)
    assert (told.outcome, told.ended_by, told.reason) == ("first_failed", "a", "failed")
    assert told.detail == "401 Unauthorized"
    assert made.invites == 2


FIRST_ONLY, SECOND_ONLY = ["+34600"], ["+34960"]


async def test_codecs_that_do_not_meet(tmp_path: Path) -> None:
    """An account without G.711 is refused; two accounts with one law each can't be joined, and nobody hears silence."""
    async with Asterisk.start(tmp_path) as carrier:
        async with street(tmp_path, carrier, carrier.trunk("carrier-gsm")) as s:
            refused = await s.connect(TONE, ECHO)
        (tmp_path / "record.db").unlink()
        laws = carrier.trunk("carrier-alaw", prefixes=FIRST_ONLY), carrier.trunk("carrier-ulaw", prefixes=SECOND_ONLY)
        async with street(tmp_path, carrier, *laws) as s:
            apart = await s.connect(TONE, TONE)
    told = refused.told(Side.A)
    assert (told.outcome, told.reason) == ("first_failed", "failed")
    assert told.detail.startswith("488 Not Acceptable Here")
    told = apart.told(Side.B)
    assert told.outcome == "second_failed"
    assert told.detail.startswith("no common codec")


async def test_the_first_party_changes_its_codec_to_the_second_s(tmp_path: Path) -> None:
    """Re-invited rather than transcoded: each hears the other for the whole time."""
    async with Asterisk.start(tmp_path) as carrier:
        either = carrier.trunk(prefixes=FIRST_ONLY), carrier.trunk("carrier-ulaw", prefixes=SECOND_ONLY)
        async with street(tmp_path, carrier, *either) as s:
            made = await s.connect(TONE, TONE)
    assert made.told(Side.B) == BY_TIMER
    assert made.invites == 5  # of each leg one that is challenged and one with the answer; A's re-INVITE is not
    assert [made.speaks_all_the_time(side) for side in Side] == [True, True]


async def test_hold_and_resume_by_a_phone_behind_the_carrier(tmp_path: Path) -> None:
    """baresip holds; Asterisk passes it on to us as a re-INVITE."""
    async with (
        Baresip.start(tmp_path, number="621", speaks_hz=600) as phone,
        Asterisk.start(tmp_path, phones=(phone.port, 9)) as carrier,
        street(tmp_path, carrier) as s,
    ):
        connecting = asyncio.create_task(s.connect(PHONE, TONE))
        await phone.event("CALL_INCOMING")
        await phone.command("accept")
        await s.house.journalled("joined")
        await phone.command("hold")
        await s.house.journalled("hold")
        await phone.command("resume")
        await s.house.journalled("resume")
        await phone.command("hangup")
        made = await connecting
    assert (made.record.outcome, made.record.ended_by) == ("completed", "a")
    assert [len(made.facts(event, side)) for event in ("hold", "resume") for side in Side] == [1, 0, 1, 0]


async def test_one_party_s_voice_is_encrypted(tmp_path: Path) -> None:
    """SDES where the trunk requires it, and plain RTP where the other has none."""
    async with Asterisk.start(tmp_path) as carrier:
        secured = carrier.trunk("carrier-srtp", srtp="required", prefixes=FIRST_ONLY)
        async with street(tmp_path, carrier, secured, carrier.trunk(prefixes=SECOND_ONLY)) as s:
            made = await s.connect(TONE, ECHO)
    assert made.told(Side.B) == BY_TIMER
    assert [made.speaks_all_the_time(side) for side in Side] == [True, True]
    suites = [[facts["suite"] for facts in made.facts("encryption", side)] for side in Side]
    assert suites == [["AES_CM_128_HMAC_SHA1_80"], []]


async def test_a_registered_trunk(tmp_path: Path) -> None:
    """Asterisk knows our contact while we run, and no longer when we have gone; calls go out meanwhile."""
    async with Asterisk.start(tmp_path) as carrier:
        async with street(tmp_path, carrier, carrier.trunk(register=True, register_expires_s=60)) as s:
            contacts = await carrier.command("pjsip show contacts")
            made = await s.connect(TONE, "612")
        left = await carrier.command("pjsip show contacts")
    assert "carrier/sip:dosvoces@127.0.0.1" in contacts, contacts
    assert (made.record.outcome, made.record.ended_by) == ("completed", "b")
    assert "carrier/sip:" not in left, left


async def test_a_registration_with_a_wrong_password(tmp_path: Path) -> None:
    """Nobody is dialled by a trunk that the carrier doesn't know, and the answer says so."""
    async with Asterisk.start(tmp_path) as carrier:
        trunk = carrier.trunk(register=True, password="wrong")
        async with street(tmp_path, carrier, trunk) as s:
            answer = await s.house.post(firstnumber="+34600000601", secondnumber="+34960000600")
            problems = s.house.service.carrier.problems()
        calls = await carrier.command("core show channels count")
    assert answer.status_code == 503
    assert "trunk carrier is not registered: 401 Unauthorized" in problems
    assert "0 calls processed" in calls


async def test_tls_with_srtp(tmp_path: Path) -> None:
    """REGISTER and calls over one TLS connection, its certificate verified; voice in SRTP."""
    authority = Authority(tmp_path)
    shown = authority.certificate(HOST)
    async with Asterisk.start(tmp_path, certificate=shown.certificate, key=shown.key) as carrier:
        trunk = carrier.trunk("carrier-srtp", transport="tls", register=True, srtp="required")
        async with street(tmp_path, carrier, trunk, sip={"tls_ca_file": authority.ca_file, "tls_port": 0}) as s:
            by_timer, by_them, busy = await s.connect_all([(TONE, ECHO), (TONE, "612"), (TONE, "603")])
    assert by_timer.told(Side.B) == BY_TIMER
    assert [by_timer.speaks_all_the_time(side) for side in Side] == [True, True]
    assert by_them.told(Side.B) == ANSWERS["612"][0]
    assert busy.told(Side.B) == Told("second_busy", "b", "busy", "486 Busy Here; Q.850;cause=17")


async def test_a_certificate_that_nobody_knows(tmp_path: Path) -> None:
    """Not a byte of SIP goes to a carrier that can't prove who it is."""
    (tmp_path / "stranger").mkdir()
    shown = Authority(tmp_path / "stranger").certificate(HOST)
    known = Authority(tmp_path)
    async with Asterisk.start(tmp_path, certificate=shown.certificate, key=shown.key) as carrier:
        trunk = carrier.trunk(transport="tls")
        async with street(tmp_path, carrier, trunk, sip={"tls_ca_file": known.ca_file, "tls_port": 0}) as s:
            answer = await s.house.post(firstnumber="+34600000601", secondnumber="+34960000600")
        calls = await carrier.command("core show channels count")
    assert answer.status_code in (500, 503)
    assert "0 calls processed" in calls
