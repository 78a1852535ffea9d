"""Loss on the way: of all that either phone sends or is sent, SIPp loses one message in twenty."""

import asyncio
from pathlib import Path

import pytest

from dosvoces.model import leg_id
from tests.peers.trial import Phone, trial

CALLS = 40
PER_S = 20
LOSSY = ("-lost", "5")  # per cent, of each phone's messages, both ways
TALK_MS = 4000
"""SIPp fails a call whose BYE it gets before an ACK: an ACK lost has three more chances, 0.5, 1.5 and 3.5 s later."""


# SIPp gives a call up ("unexpected INVITE") in some orders of losses that are its own fault: one run in ten.
@pytest.mark.flaky(reruns=3)
async def test_calls_are_completed_though_messages_get_lost(tmp_path: Path) -> None:
    """What was lost is repeated, and a repeat is neither another call nor another hang-up."""
    a, b = Phone("answer", options=LOSSY), Phone("hang_up", {"talk_ms": TALK_MS}, options=LOSSY)
    async with trial(tmp_path, a=a, b=b, calls=CALLS) as t:

        async def later(number: int) -> None:
            await asyncio.sleep(number / PER_S)
            await t.post()

        await asyncio.gather(*(later(number) for number in range(CALLS)))
    # Nobody is left up: as the block was left, both phones had played every call to its end.
    assert [(record.outcome, record.ended_by) for record in t.records] == [("completed", "b")] * CALLS
    for side, phone in t.phones.items():
        assert phone.lost > 0
        dialed = {(m.call_id, m.branch) for m in phone.received("INVITE")}
        legs = sorted(call_id.rpartition("-")[0] for call_id, _ in dialed)
        assert legs == sorted(leg_id(record.id, side) for record in t.records)  # each once, repeats aside
