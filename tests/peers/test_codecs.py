"""baresip with one codec and with two: who changes, and what happens when nobody can. And a whole call by rtpengine."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dosvoces.media.goertzel import level_dbm0, total_dbm0
from dosvoces.model import Side
from dosvoces.settings import Settings
from tests.peers.baresip import RATE, Baresip
from tests.peers.rtpengine import HOST, Rtpengine
from tests.peers.sipp import until
from tests.peers.test_baresip import SPEAKS_HZ, BaresipTrial, passed
from tests.peers.trial import FIRST, SECOND, open_service, settings_values

PCMU_FIRST = {"codecs": ["PCMU", "PCMA"]}


@asynccontextmanager
async def calling(
    folder: Path,
    a_codecs: tuple[str, ...],
    b_codecs: tuple[str, ...],
    *,
    trunk: dict[str, Any] | None = None,
    media: dict[str, Any] | None = None,
) -> AsyncIterator[BaresipTrial]:
    """The service and two phones with these codecs."""
    async with (
        Baresip.start(folder, number=FIRST, speaks_hz=SPEAKS_HZ[Side.A], name="phone-a", codecs=a_codecs) as a,
        Baresip.start(folder, number=SECOND, speaks_hz=SPEAKS_HZ[Side.B], name="phone-b", codecs=b_codecs) as b,
    ):
        values = settings_values(folder, {Side.A: a.port, Side.B: b.port}, trunk=trunk)
        values["media"] |= media or {}
        async with open_service(Settings.model_validate(values)) as (service, client):
            running = BaresipTrial(service, client, phones={Side.A: a, Side.B: b})
            yield running
            await running.over()
            for phone in (a, b):
                await phone.event("CALL_CLOSED")


def heard_the_other(t: BaresipTrial, side: Side) -> bool:
    last = t.phones[side].heard[-RATE // 4 :]
    return len(last) > 0 and abs(level_dbm0(last, SPEAKS_HZ[side.other]) - total_dbm0(last)) < 0.5


async def test_the_first_phone_changes_to_the_second_s_only_codec(tmp_path: Path) -> None:
    """A is on mu-law, B can only do A-law: A is re-invited, and both hear the other."""
    async with calling(tmp_path, ("PCMA", "PCMU"), ("PCMA",), trunk=PCMU_FIRST) as t:
        await t.talk()
        await until(passed(1.5), "some talk")
        await t.phones[Side.B].command("hangup")
    assert t.outcome == "completed"
    assert [heard_the_other(t, side) for side in Side] == [True, True]


async def test_phones_without_a_common_codec_fail_clearly(tmp_path: Path) -> None:
    async with calling(tmp_path, ("PCMU",), ("PCMA",), trunk=PCMU_FIRST) as t:
        posted = await t.ring()
        begin = time.monotonic()
        await t.phones[Side.B].command("accept")
        assert (await posted).status_code == 200
        await t.phones[Side.B].event("CALL_CLOSED")
        assert time.monotonic() - begin < 2
    assert t.outcome == "second_failed"
    assert t.detail(Side.B)["detail"] == "no common codec: one has PCMU and refuses PCMA, which the other took"


async def test_a_call_through_rtpengine(tmp_path: Path) -> None:
    """
    What A hears isn't asked here: after the tone rtpengine goes on with B's own SSRC, and baresip 1.0 plays on only if
    B's sequence numbers happen to be higher. `test_rtpengine.py` asks it of a phone that starts anew, as RFC 3550 says.
    """
    async with Rtpengine.start() as daemon:
        media = {"relay": "rtpengine", "rtpengine": [f"{HOST}:{daemon.at[1]}"]}
        async with calling(tmp_path, ("PCMA", "PCMU"), ("PCMA", "PCMU"), media=media) as t:
            await t.talk()
            await until(passed(1.5), "some talk")
            await t.phones[Side.B].command("hangup")
        assert (t.outcome, t.ended_by) == ("completed", "b")
        assert heard_the_other(t, Side.B)
        for side in Side:
            assert int(t.statistics(side)["received"]) >= 50
            assert int(t.statistics(side)["sent"]) >= 50
