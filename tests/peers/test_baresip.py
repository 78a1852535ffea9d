"""baresip as both phones: answer, talk, hold and resume, hang up; by it and by us."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from dosvoces.media.goertzel import level_dbm0, total_dbm0
from dosvoces.model import Side
from tests.peers.baresip import RATE, Baresip
from tests.peers.sipp import until
from tests.peers.trial import FIRST, SECOND, Trial, make_settings, open_service

SPEAKS_HZ = {Side.A: 600, Side.B: 1000}
RELEASE_LIMIT_S = 0.2
ANSWERED = ["INCOMING", "ESTABLISHED", "CLOSED"]
NOT_ANSWERED = ["INCOMING", "CLOSED"]


@dataclass(eq=False)
class BaresipTrial(Trial):
    """A trial with baresip as both phones, each speaking a tone of its own."""

    phones: dict[Side, Baresip] = field(default_factory=dict)

    async def ring(self) -> asyncio.Task[httpx.Response]:
        """Post, let A answer, and return when B rings."""
        posted = asyncio.get_running_loop().create_task(self.post())
        await self.phones[Side.A].event("CALL_INCOMING")
        await self.phones[Side.A].command("accept")
        await self.phones[Side.B].event("CALL_INCOMING")
        return posted

    async def talk(self) -> None:
        """Post, let both answer, and return when each hears the other."""
        posted = await self.ring()
        assert (await posted).status_code == 200
        await self.phones[Side.B].command("accept")
        for side in Side:
            await self.seen("media_source", side)
            await self.phones[side].event("CALL_RTPESTAB")


@asynccontextmanager
async def calling(folder: Path, **dialing: float) -> AsyncIterator[BaresipTrial]:
    async with (
        Baresip.start(folder, number=FIRST, speaks_hz=SPEAKS_HZ[Side.A], name="phone-a") as a,
        Baresip.start(folder, number=SECOND, speaks_hz=SPEAKS_HZ[Side.B], name="phone-b") as b,
    ):
        settings = make_settings(folder, {Side.A: a.port, Side.B: b.port}, dialing=dialing)
        async with open_service(settings) as (service, client):
            running = BaresipTrial(service, client, phones={Side.A: a, Side.B: b})
            yield running
            await running.over()
            for phone in (a, b):
                await phone.event("CALL_CLOSED")


def passed(seconds: float) -> Callable[[], bool]:
    """How long people talk is the phones' own business: nothing tells that a second of it is over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


async def test_each_hears_the_other_and_not_itself(tmp_path: Path) -> None:
    async with calling(tmp_path) as t:
        await t.talk()
        await until(passed(1.0), "a second of talk")
        await t.phones[Side.B].command("hangup")
    assert (t.outcome, t.ended_by) == ("completed", "b")
    for side in Side:
        heard = t.phones[side].heard[-RATE // 2 :]
        assert level_dbm0(heard, SPEAKS_HZ[side.other]) == pytest.approx(total_dbm0(heard), abs=0.5)
        assert level_dbm0(heard, SPEAKS_HZ[side]) < -40
        figures = t.statistics(side)
        assert figures["received"] >= 50
        assert figures["sent"] >= 50
        assert figures["lost"] == 0
        assert figures["refused"] <= 5, "what overtakes the answer comes from a stranger still"


@pytest.mark.parametrize("side", Side)
async def test_hung_up_by_a_phone(tmp_path: Path, side: Side) -> None:
    async with calling(tmp_path) as t:
        await t.talk()
        begin = time.monotonic()
        await t.phones[side].command("hangup")
        await t.phones[side.other].event("CALL_CLOSED")
        released_after = time.monotonic() - begin
    assert (t.outcome, t.ended_by) == ("completed", side)
    assert [t.phones[each].calls for each in Side] == [ANSWERED, ANSWERED]
    assert released_after < RELEASE_LIMIT_S


async def test_hung_up_by_us(tmp_path: Path) -> None:
    async with calling(tmp_path, talk_limit_s=1) as t:
        await t.talk()
    assert (t.outcome, t.ended_by) == ("completed", "timer")
    assert [t.phones[each].calls for each in Side] == [ANSWERED, ANSWERED]


@pytest.mark.parametrize("side", Side)
async def test_hold_and_resume(tmp_path: Path, side: Side) -> None:
    async with calling(tmp_path) as t:
        await t.talk()
        # Held in its first tenth of a second, baresip hears what comes after and writes it down no more.
        await until(passed(0.5), "some talk")
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
    assert [entry.side for entry in t.entries("hold") + t.entries("resume")] == [side, side]
    assert [event["param"] for event in phone.told("CALL_REMOTE_SDP")] == ["offer", "answer", "answer"]
    for side in Side:
        heard = t.phones[side].heard[-RATE // 4 :]
        assert level_dbm0(heard, SPEAKS_HZ[side.other]) == pytest.approx(total_dbm0(heard), abs=0.5)


async def test_declined_by_the_second_phone(tmp_path: Path) -> None:
    async with calling(tmp_path) as t:
        await t.ring()
        await t.phones[Side.B].command("hangup")
    assert (t.outcome, t.ended_by) == ("second_busy", "b")  # baresip says 486
    assert [t.phones[each].calls for each in Side] == [ANSWERED, NOT_ANSWERED]


async def test_first_phone_hangs_up_while_the_second_rings(tmp_path: Path) -> None:
    async with calling(tmp_path) as t:
        await t.ring()
        await t.phones[Side.A].command("hangup")
    assert (t.outcome, t.ended_by) == ("first_hung_up", "a")
    assert [t.phones[each].calls for each in Side] == [ANSWERED, NOT_ANSWERED]


async def test_nobody_answers_the_second_phone(tmp_path: Path) -> None:
    async with calling(tmp_path, ring_timeout_s=1) as t:
        posted = await t.ring()
    assert (await posted).status_code == 200
    assert (t.outcome, t.ended_by) == ("second_no_answer", "timer")
    assert [t.phones[each].calls for each in Side] == [ANSWERED, NOT_ANSWERED]
