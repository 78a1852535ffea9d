"""baresip as phones that encrypt: SRTP with keys in the signalling, and its reports."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from dosvoces.media.goertzel import level_dbm0, total_dbm0
from dosvoces.model import Side
from dosvoces.settings import Settings
from tests.peers.baresip import RATE, Baresip
from tests.peers.sipp import until
from tests.peers.test_baresip import SPEAKS_HZ, BaresipTrial, passed
from tests.peers.trial import FIRST, SECOND, open_service, settings_values

CM_80 = "AES_CM_128_HMAC_SHA1_80"
NUMBERS = {Side.A: FIRST, Side.B: SECOND}
Way = tuple[str, str]
"""A trunk's `srtp`, and the `mediaenc` of the phone behind it."""


@asynccontextmanager
async def calling(folder: Path, a: Way, b: Way) -> AsyncIterator[BaresipTrial]:
    ways = {Side.A: a, Side.B: b}

    def phone(side: Side) -> AbstractAsyncContextManager[Baresip]:
        return Baresip.start(
            folder,
            number=NUMBERS[side],
            speaks_hz=SPEAKS_HZ[side],
            name=f"phone-{side}",
            encryption=ways[side][1],
        )

    async with phone(Side.A) as at_a, phone(Side.B) as at_b:
        phones = {Side.A: at_a, Side.B: at_b}
        values = settings_values(folder, {side: phones[side].port for side in Side})
        for trunk, side in zip(values["trunks"], Side, strict=True):
            trunk["srtp"] = ways[side][0]
        async with open_service(Settings.model_validate(values)) as (service, client):
            running = BaresipTrial(service, client, phones=phones)
            yield running
            await running.over()
            for side in Side:
                if phones[side].calls:
                    await phones[side].event("CALL_CLOSED")


def assert_both_heard(t: BaresipTrial) -> None:
    """Each the other, and not itself."""
    for side in Side:
        heard = t.phones[side].heard[-RATE // 2 :]
        assert level_dbm0(heard, SPEAKS_HZ[side.other]) == pytest.approx(total_dbm0(heard), abs=0.5)
        assert level_dbm0(heard, SPEAKS_HZ[side]) < -40
        figures = t.statistics(side)
        assert figures["received"] >= 50
        assert figures["lost"] == 0
        assert figures["refused"] <= 5, "what overtakes the answer comes from a stranger still"


def suites(t: BaresipTrial) -> list[object]:
    return [entry.facts["suite"] for side in Side for entry in t.entries("encryption", side)]


@pytest.mark.parametrize(
    ("a", "b", "agreed"),
    [
        (("required", "srtp-mand"), ("required", "srtp-mand"), [CM_80, CM_80]),
        (("required", "srtp-mand"), ("off", ""), [CM_80]),
        (("optional", "srtp"), ("optional", ""), [CM_80, "none"]),
    ],
    ids=["both", "one", "where it is known"],
)
async def test_each_hears_the_other(tmp_path: Path, a: Way, b: Way, agreed: list[object]) -> None:
    async with calling(tmp_path, a, b) as t:
        await t.talk()
        await until(passed(1.0), "a second of talk")
        await t.phones[Side.B].command("hangup")
    assert (t.outcome, t.ended_by) == ("completed", "b")
    assert suites(t) == agreed
    assert_both_heard(t)


@pytest.mark.parametrize("side", Side)
async def test_hold_and_resume_keep_the_keys(tmp_path: Path, side: Side) -> None:
    async with calling(tmp_path, ("required", "srtp-mand"), ("required", "srtp-mand")) as t:
        await t.talk()
        phone = t.phones[side]
        offers = len(phone.told("CALL_REMOTE_SDP"))
        await phone.command("hold")
        await phone.event("CALL_REMOTE_SDP", offers + 1)
        await t.seen("hold", side)
        await phone.command("resume")
        await phone.event("CALL_REMOTE_SDP", offers + 2)
        await t.seen("resume", side)
        await until(passed(0.7), "some talk")
        await phone.command("hangup")
    assert (t.outcome, t.ended_by) == ("completed", side)
    for each in Side:
        heard = t.phones[each].heard[-RATE // 4 :]
        assert level_dbm0(heard, SPEAKS_HZ[each.other]) == pytest.approx(total_dbm0(heard), abs=0.5)


async def test_a_phone_that_wants_nothing_else_refuses_a_plain_offer(tmp_path: Path) -> None:
    async with calling(tmp_path, ("off", "srtp-mand"), ("off", "")) as t:
        answer = await t.post()
    assert answer.status_code == 500
    assert t.outcome == "first_failed"
    assert t.phones[Side.A].calls == ["CLOSED"], "it never rang"


async def test_its_reports_are_read_and_ours_too(tmp_path: Path) -> None:
    """Over SRTCP at A and RTCP at B: the round trip, what it lost, and how it sounds stand in the record."""
    async with calling(tmp_path, ("required", "srtp-mand"), ("off", "")) as t:
        await t.talk()
        await until(passed(8.0), "reports both ways, which go out every 2 to 6 s", limit_s=10)
        await t.phones[Side.A].command("hangup")
    for side in Side:
        assert t.phones[side].told("CALL_RTCP"), "it read a report of ours"
        (entry,) = t.entries("statistics", side)
        assert entry.facts["lost_there"] == 0
        for name, limit in (("round_trip_ms", 100), ("jitter_there_ms", 20)):
            value = entry.facts[name]
            assert isinstance(value, float)
            assert 0 <= value < limit
        assert (entry.facts["mos"], entry.facts["mos_there"]) == (4.41, 4.41)
