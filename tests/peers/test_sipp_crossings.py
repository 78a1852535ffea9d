"""What crosses, comes late or twice, or gets lost: each leg is ended exactly once, and nobody stays on it."""

import asyncio
from pathlib import Path

import pytest

from dosvoces.model import Side
from tests.peers.sipp import SippPhone
from tests.peers.trial import FIRST, Phone, trial

NOBODY = Phone("answer", calls=0)
ANSWERS_TOO_LATE = ["answer_crosses_cancel", "answer_after_cancel", "answer_after_487"]


def requests(phone: SippPhone) -> list[str]:
    """What we sent the phone, in order."""
    return [m.method for m in phone.messages if not m.sent and m.status is None]


@pytest.mark.parametrize("scenario", ANSWERS_TOO_LATE)
async def test_first_answer_that_crosses_our_cancel_is_hung_up(tmp_path: Path, scenario: str) -> None:
    async with trial(tmp_path, a=Phone(scenario), b=NOBODY, ring_timeout_s=1) as t:
        response = await t.post()
    assert response.json() == {"Message": f"Could not make call to {FIRST}"}
    assert (t.outcome, t.ended_by) == ("first_no_answer", "timer")
    assert t.entries("answered") == []
    of_487 = ["ACK"] if scenario == "answer_after_487" else []
    assert requests(t.a) == ["INVITE", "CANCEL", *of_487, "BYE", "ACK"]


@pytest.mark.parametrize("scenario", ANSWERS_TOO_LATE)
async def test_second_answer_that_crosses_our_cancel_is_hung_up(tmp_path: Path, scenario: str) -> None:
    async with trial(tmp_path, a=Phone("hang_up", {"talk_ms": 400}), b=Phone(scenario)) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("first_hung_up", "a")
    assert t.entries("answered", Side.B) == []
    of_487 = ["ACK"] if scenario == "answer_after_487" else []
    assert requests(t.b) == ["INVITE", "CANCEL", *of_487, "BYE", "ACK"]


@pytest.mark.parametrize("side", Side)
async def test_fork_that_lost_is_acknowledged_and_hung_up(tmp_path: Path, side: Side) -> None:
    phones = {side: Phone("fork"), side.other: Phone("answer")}
    async with trial(tmp_path, a=phones[Side.A], b=phones[Side.B]) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", side)
    kept, lost = dict.fromkeys(m.to_tag for m in t.phones[side].messages if m.sent and m.status == 200 and m.to_tag)
    ours = [(m.method, m.to_tag) for m in t.phones[side].messages if not m.sent and m.status is None]
    assert ours[1:] == [("ACK", kept), ("BYE", lost), ("ACK", lost)]
    assert len(t.entries("answered", side)) == 1


async def test_lost_answer_is_repeated_and_taken(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("lost_answer"), b=Phone("hang_up")) as t:
        await t.post()
    assert (t.outcome, t.ended_by) == ("completed", "b")
    assert requests(t.a) == ["INVITE", "ACK", "BYE"]


async def test_unanswered_invite_is_repeated_with_the_same_branch(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("lost_invite"), b=Phone("hang_up")) as t:
        await t.post()
    assert t.outcome == "completed"
    first, again = t.a.received("INVITE")
    assert first.text == again.text
    assert 0.45 < again.at - first.at < 0.65  # T1, RFC 3261 §17.1.1.2


async def test_each_repeated_answer_is_acknowledged_again(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("lost_ack", options=("-nr",)), b=Phone("hang_up", {"talk_ms": 1000})) as t:
        await t.post()
    assert t.outcome == "completed"
    assert requests(t.a) == ["INVITE", "ACK", "ACK", "ACK", "BYE"]
    assert len({m.text for m in t.a.received("ACK")}) == 1  # RFC 3261 §13.2.2.4: the very same ACK
    assert len(t.entries("answered", Side.A)) == 1


async def test_unanswered_bye_is_repeated(tmp_path: Path) -> None:
    async with trial(tmp_path, a=Phone("lost_bye"), b=Phone("hang_up")) as t:
        await t.post()
    assert t.outcome == "completed"
    first, again = t.a.received("BYE")
    assert first.text == again.text
    assert 0.45 < again.at - first.at < 0.65  # T1, RFC 3261 §17.1.2.2


async def test_closed_port_fails_at_once(tmp_path: Path) -> None:
    async with trial(tmp_path, a=NOBODY, b=NOBODY) as t:
        await t.a.unplug()
        response = await t.post()
    assert response.json() == {"Message": f"Could not make call to {FIRST}"}
    assert (t.outcome, t.ended_by) == ("first_failed", "a")
    assert t.detail(Side.A)["reason"] == "unreachable"
    (record,) = t.records
    assert record.ended_at is not None
    assert (record.ended_at - record.created_at).total_seconds() < 0.5


async def test_hang_ups_at_every_moment_around_the_second_answer(tmp_path: Path) -> None:
    """A hangs up before B is dialled, while it rings, as it answers, or after: whatever crosses, both are released."""
    a, b = Phone("hang_up_soon", {"talk_ms": 80}), Phone("answer_or_be_cancelled", {"ring_ms": 40}, or_fewer=True)
    async with trial(tmp_path, a=a, b=b, calls=60) as t:

        async def later(number: int) -> None:
            await asyncio.sleep(number / 30)  # 30 a second, so that SIPp keeps up
            await t.post()

        await asyncio.gather(*(later(number) for number in range(60)))
    # Which of the moments a call meets is chance; that all were met is likely enough to be told by the outcomes.
    assert {record.outcome for record in t.records} <= {"completed", "first_hung_up"}
    assert len(t.records) == 60
