"""The whole service, asked through its HTTP port: the order of things, what is heard, what is answered and recorded."""

import asyncio
import json
import os
import signal
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import httpx
import psutil
import pytest

from dosvoces.capture import unpack
from dosvoces.carriers import Call, DialPlan
from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.carriers.sip import SipCarrier
from dosvoces.clock import utc_now
from dosvoces.model import EndReason, Side, mask_email
from dosvoces.phone import BUSY, DECLINE, NOT_FOUND, Heard, PhoneBehaviour, PhoneEventKind
from dosvoces.sip.api import EndCause
from dosvoces.testing import until
from tests.far_ends import Exchange
from tests.house import (
    ANSWERS,
    EMAIL,
    FIRST,
    HOST,
    LIMIT_S,
    RINGS,
    SECOND,
    SIDES,
    Phones,
    house,
    house_and_phones,
    lead,
    process,
)
from tests.peers.smtp_server import FaultySmtp, Reply, Stall
from tests.ports import free_port

RINGING, ANSWERED, ENDED = PhoneEventKind.RINGING, PhoneEventKind.ANSWERED, PhoneEventKind.ENDED
MADE = "Data received successfully"


def smtp(server: FaultySmtp, **more: object) -> dict[str, object]:
    return {"url": f"smtp://{HOST}:{server.port}?tls=none", "from": "Dosvoces <leads@example.com>", **more}


# --- the order of things ---


async def test_each_step_is_on_disk_before_the_next_is_taken(tmp_path: Path) -> None:
    seen: list[tuple[str, int, list[str], str]] = []

    def script(call: Call) -> Script:
        return Script(hangs_up_after_s=0.05 if call.side is Side.B else None)

    class Looking(FakeCarrier):
        async def dial(self, plan: DialPlan) -> None:
            # Asked from outside, as a process would find it that starts after a crash in this moment.
            with sqlite3.connect(tmp_path / "record.db") as db:
                attempts = [side for (side,) in db.execute("SELECT side FROM dial_attempt ORDER BY side")]
                (to,) = db.execute("SELECT email FROM connection").fetchone()
            db.close()
            seen.append((plan.call.side, len(server.received), attempts, to))
            await super().dial(plan)

    async with FaultySmtp() as server, house(tmp_path, carrier=Looking(script), mail=smtp(server)) as running:
        answer = await running.post()
        await running.over(answer)
    assert seen == [("a", 1, ["a"], EMAIL), ("b", 1, ["a", "b"], EMAIL)]


async def test_the_record_is_there_before_the_mail_and_nobody_is_dialled_before_it_was_taken(tmp_path: Path) -> None:
    carrier = FakeCarrier()
    async with FaultySmtp({"dot": Stall()}) as server:
        async with house(tmp_path, carrier=carrier, mail=smtp(server, timeout_s=0.5)) as running:
            posting = asyncio.create_task(running.post())
            await asyncio.wait_for(server.said("DATA"), LIMIT_S)
            record = await running.newest()
            assert record is not None
            assert (record.first, record.second, record.email, record.outcome) == (FIRST, SECOND, EMAIL, None)
            assert carrier.dialed == []
            answer = await posting
            assert (answer.status_code, answer.json()) == (500, {"Message": f"Could not send email to {EMAIL}"})
            assert (await running.over(answer)).outcome == "mail_failed"
    assert carrier.dialed == []


async def test_a_service_is_ready_with_a_warning_until_a_mail_is_taken_again(tmp_path: Path) -> None:
    refused = Reply(f"550 5.7.1 <{EMAIL}> refused, as its sender is not of this server")
    carrier = FakeCarrier(lambda call: Script(hangs_up_after_s=0.05 if call.side is Side.B else None))
    told = []
    async with FaultySmtp({"rcpt": [refused]}) as server:
        async with house(tmp_path, carrier=carrier, mail=smtp(server)) as running:
            for _ in range(2):
                await running.over(await running.post())
                ready = await running.client.get("/readyz")
                told.append((ready.status_code, ready.json()))
    words = refused.line.replace(EMAIL, mask_email(EMAIL))
    warning = f"the last mail was not taken: {HOST}:{server.port} (RCPT TO) refused: {words}"
    assert told == [(200, {"status": "ready", "warnings": [warning]}), (200, {"status": "ready"})]


async def test_the_second_is_dialled_when_the_interval_has_passed(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, phones):
        await running.post(call_interval=1)
        waited = await phones.when(RINGING, SECOND) - await phones.when(RINGING, FIRST)
    assert 0.99 <= waited < 1.5


async def test_the_second_is_not_dialled_before_the_first_has_answered(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, PhoneBehaviour(answer_after_s=0.5), ANSWERS) as (running, phones):
        await running.post(call_interval=0)
        assert await phones.when(RINGING, SECOND) > await phones.when(ANSWERED, FIRST)


# --- what is heard ---


async def test_the_first_hears_ringing_and_then_the_second_without_a_gap(tmp_path: Path) -> None:
    listen = {"listen_hz": (425, 440, 1000), "window_ms": 20}
    first = PhoneBehaviour(answer_after_s=0.0, tone_hz=440, **listen)  # type: ignore[arg-type]
    second = PhoneBehaviour(answer_after_s=0.8, tone_hz=1000, hangup_after_s=0.8, **listen)  # type: ignore[arg-type]
    async with house_and_phones(tmp_path, first, second) as (running, phones):
        answer = await running.post()
        record = await running.over(answer)
        assert (answer.status_code, answer.text, record.outcome) == (200, MADE, "completed")
        heard = phones.call(FIRST).heard
        other = phones.call(SECOND).heard
    ringing, talk = stretches(heard, 425), stretches(heard, 1000)
    assert len(ringing) == len(talk) == 1, heard.describe()
    assert heard.first_packet_s is not None
    assert heard.first_packet_s < 0.2
    assert ringing[0][1] - ringing[0][0] == pytest.approx(0.8, abs=0.2)
    assert talk[0][0] - ringing[0][1] <= 0.060
    assert talk[0][1] - talk[0][0] > 0.6
    assert stretches(heard, 440) == stretches(other, 1000) == stretches(other, 425) == []
    assert stretches(other, 440)[0][0] < 0.2


def stretches(heard: Heard, frequency_hz: int) -> list[tuple[float, float]]:
    """From when to when that tone was heard, two odd windows passed over."""
    found: list[tuple[float, float]] = []
    for window in heard.windows:
        if heard.dominant((window,)) == frequency_hz:
            end_s = window.start_s + heard.window_s
            if found and window.start_s - found[-1][1] <= 2.5 * heard.window_s:
                found[-1] = (found[-1][0], end_s)
            else:
                found.append((window.start_s, end_s))
    return found


# --- nobody is left on a line ---


@pytest.mark.parametrize("side", list(Side))
async def test_the_other_is_released_within_200_ms_of_a_hangup(tmp_path: Path, side: Side) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, phones):
        answer = await running.post()
        await running.journalled("joined")
        began = asyncio.get_running_loop().time()
        phones.call(SIDES[side]).hang_up()
        released = await phones.when(ENDED, SIDES[side.other])
        record = await running.over(answer)
    assert released - began < 0.2
    assert (record.outcome, record.ended_by) == ("completed", side)


async def test_the_second_s_phone_stops_ringing_within_200_ms_when_the_first_leaves(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, RINGS) as (running, phones):
        answer = await running.post()
        assert (answer.status_code, answer.text) == (200, MADE)
        began = asyncio.get_running_loop().time()
        phones.call(FIRST).hang_up()
        released = await phones.when(ENDED, SECOND)
        record = await running.over(answer)
        end = phones.call(SECOND).end
    assert released - began < 0.2
    assert (record.outcome, record.ended_by) == ("first_hung_up", "a")
    assert end is not None
    assert end.cause is EndCause.CANCELLED


async def test_a_phone_that_rings_too_long_is_given_up(tmp_path: Path) -> None:
    numbers = {"+34600000001": RINGS, "+34600000002": ANSWERS, "+34600000003": RINGS}
    async with Phones.open(numbers) as phones, house(tmp_path, phone=phones.phone, dialing={"ring_timeout_s": 1}) as on:
        first, second = await asyncio.gather(
            on.post(firstnumber="+34600000001", secondnumber="+34600000002"),
            on.post(firstnumber="+34600000002", secondnumber="+34600000003"),
        )
        records = [await on.over(first), await on.over(second)]
        await phones.quiet()
    assert (first.status_code, first.json()) == (500, {"Message": "Could not make call to +34600000001"})
    assert (second.status_code, second.text) == (200, MADE)
    assert [(record.outcome, record.ended_by) for record in records] == [
        ("first_no_answer", "timer"),
        ("second_no_answer", "timer"),
    ]
    assert len(phones.phone.calls) == 3


async def test_a_talk_has_its_limit(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS, dialing={"talk_limit_s": 1}) as (running, phones):
        record = await running.over(await running.post())
        assert record.joined_at is not None
        assert record.ended_at is not None
        assert 1.0 <= (record.ended_at - record.joined_at).total_seconds() < 1.5
        assert (record.outcome, record.ended_by) == ("completed", "timer")
        await phones.quiet()


# --- what is answered ---


@dataclass(frozen=True)
class Case:
    """What the parties do, and what must come of it."""

    first: Script
    second: Script
    status: int
    number: str
    """Whose call failed; empty where both were made."""
    outcome: str


REFUSES = Script(rings_after_s=None, fails_after_s=0.0, reason=EndReason.BUSY, detail="486 Busy Here")
RINGS_THEN_BUSY = Script(fails_after_s=0.02, reason=EndReason.BUSY)
UP = Script()
LEAVES = Script(hangs_up_after_s=0.02)
CASES = {
    "both talk": Case(UP, LEAVES, 200, "", "completed"),
    "first busy": Case(REFUSES, UP, 500, FIRST, "first_busy"),
    "first rings, then busy": Case(RINGS_THEN_BUSY, UP, 500, FIRST, "first_busy"),
    "first declines": Case(Script(fails_after_s=0, reason=EndReason.REJECTED), UP, 500, FIRST, "first_failed"),
    "first not found": Case(Script(fails_after_s=0, reason=EndReason.UNREACHABLE), UP, 500, FIRST, "first_failed"),
    "first not reachable": Case(Script(unreachable=True), UP, 500, FIRST, "first_failed"),
    "first does not answer": Case(
        Script(fails_after_s=0, reason=EndReason.NO_ANSWER), UP, 500, FIRST, "first_no_answer"
    ),
    "first leaves before the second rings": Case(LEAVES, Script(None, None), 500, FIRST, "first_hung_up"),
    "first leaves while the second rings": Case(LEAVES, Script(answers_after_s=None), 200, "", "first_hung_up"),
    "second busy": Case(UP, REFUSES, 500, SECOND, "second_busy"),
    "second rings, then busy": Case(UP, RINGS_THEN_BUSY, 200, "", "second_busy"),
    "second not reachable": Case(UP, Script(unreachable=True), 500, SECOND, "second_failed"),
    "second does not answer": Case(
        UP, Script(None, fails_after_s=0, reason=EndReason.NO_ANSWER), 500, SECOND, "second_no_answer"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_what_is_answered(tmp_path: Path, case: Case) -> None:
    carrier = FakeCarrier(lambda call: case.first if call.side is Side.A else case.second)
    async with house(tmp_path, carrier=carrier) as running:
        answer = await running.post()
        record = await running.over(answer)
        stored = await running.service.store.connection(record.id)
    message = {"Message": f"Could not make call to {case.number}"}
    assert answer.status_code == case.status
    assert (answer.text if answer.status_code == 200 else answer.json()) == (MADE if case.status == 200 else message)
    kind = "text/plain; charset=utf-8" if case.status == 200 else "application/json"
    assert answer.headers["content-type"] == kind
    assert answer.headers["location"] == f"/v1/connections/{record.id}"
    assert record.outcome == case.outcome
    assert stored == record
    assert carrier.live_legs == []


async def test_a_number_is_answered_as_it_was_received(tmp_path: Path) -> None:
    async with house(tmp_path, carrier=FakeCarrier(lambda _call: REFUSES)) as running:
        answer = await running.post(firstnumber="0034 600-00.00 11")
        assert answer.json() == {"Message": "Could not make call to 0034 600-00.00 11"}
        assert (await running.over(answer)).first == FIRST


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_wall_clock_that_is_set_moves_no_limit(tmp_path: Path, hours: int) -> None:
    """Neither is a phone rung an hour longer, nor is a talk ended an hour early."""
    jumped = timedelta(0)
    carrier = FakeCarrier(lambda call: Script(answers_after_s=0 if call.side is Side.A else None))
    began = utc_now()
    limits: dict[str, object] = {"ring_timeout_s": 1, "talk_limit_s": 600}
    async with house(tmp_path, carrier=carrier, wall=lambda: utc_now() + jumped, dialing=limits) as running:
        answer = await running.post()
        jumped = timedelta(hours=hours)
        record = await running.over(answer)
        assert record.outcome == "second_no_answer"
        times = [entry.at for entry in await running.journal(record)]
        ended = utc_now()
    assert times == sorted(times)
    assert began <= times[0] < times[-1] <= ended


async def test_nothing_is_tried_without_a_trunk(tmp_path: Path) -> None:
    async with house(tmp_path) as running:
        answer = await running.post()
        assert answer.status_code == 503
        assert answer.json() == {"Message": "no trunk is configured: add [[trunks]] to dosvoces.toml"}
        assert int(answer.headers["retry-after"]) > 0
        assert await running.newest() is None
        ready = await running.client.get("/readyz")
        assert ready.status_code == 503
        assert (await running.client.get("/healthz")).status_code == 200


async def test_nothing_is_tried_where_the_trunk_could_not_be_heard(tmp_path: Path) -> None:
    """With the media address left as it is, on loopback, a call over a trunk elsewhere would be silent."""
    far = {"name": "far", "proxy": "sip:203.0.113.9:5060;transport=udp", "options_interval_s": 0}
    async with house(tmp_path, trunks=[far], sip={"bind": "0.0.0.0:0"}) as running:
        answer = await running.post()
        assert answer.status_code == 503
        why = (
            'audio of 203.0.113.9 can\'t come to 127.0.0.1; set [media] address = "0.0.0.0" and advertised = the IP '
            "address that the trunk shall send audio to"
        )
        assert answer.json()["Message"].endswith(f"trunk far can't be used: {why}")
        assert (await running.newest(), await running.service.store.mails()) == (None, [])
        ready = await running.client.get("/readyz")
        assert ready.status_code == 503
        assert why in ready.text.replace('\\"', '"')


async def test_nothing_is_tried_when_all_places_are_taken(tmp_path: Path) -> None:
    carrier = FakeCarrier(lambda _call: Script(answers_after_s=None))
    async with house(tmp_path, carrier=carrier, dialing={"max_connections": 1}) as running:
        first = asyncio.create_task(running.post())
        await running.journalled("ringing")
        second = await running.post()
        assert second.status_code == 503
        assert "retry-after" in second.headers
        assert len(carrier.dialed) == 1
        assert len(await running.service.store.mails()) == 1
        running.service.carrier.hangup(carrier.live_legs[0])
        assert (await first).status_code == 500


async def test_a_silent_trunk_is_a_failed_call(tmp_path: Path) -> None:
    """Nobody listens at the trunk's port: the system says so at once."""
    async with Phones.open({}) as phones:
        gone = phones.phone
    async with house(tmp_path, phone=gone) as running:
        answer = await running.post()
        record = await running.over(answer)
    assert (answer.status_code, answer.json()) == (500, {"Message": f"Could not make call to {FIRST}"})
    assert (record.outcome, record.legs[0].reason) == ("first_failed", "unreachable")


# --- what can be read afterwards ---


async def test_the_journal_has_every_event_with_the_state_before_and_after(tmp_path: Path) -> None:
    carrier = FakeCarrier(lambda call: UP if call.side is Side.A else LEAVES)
    async with house(tmp_path, carrier=carrier) as running:
        answer = await running.post()
        await running.over(answer)
        view = (await running.client.get(answer.headers["location"])).json()
        events = (await running.client.get(f"{answer.headers['location']}/events")).json()["data"]
    assert [(e["event"], e["side"], e["before"], e["after"]) for e in events] == [
        ("started", None, "recorded", "mailing"),
        ("mail_sent", None, "mailing", "dialing_first"),
        ("dialed", "a", "dialing_first", "dialing_first"),
        ("ringing", "a", "dialing_first", "ringing_first"),
        ("answered", "a", "ringing_first", "dialing_second"),
        ("dialed", "b", "dialing_second", "dialing_second"),
        ("ringing", "b", "dialing_second", "ringing_second"),
        ("answered", "b", "ringing_second", "joining"),
        ("joined", None, "joining", "joined"),
        ("ended", "b", "joined", "releasing"),
        ("ended", "a", "releasing", "ended"),
    ]
    assert (view["outcome"], view["ended_by"], view["phase"]) == ("completed", "b", "ended")
    assert [(leg["side"], leg["number"], leg["state"], leg["reason"]) for leg in view["legs"]] == [
        ("a", "+34600•••011", "ended", "hangup"),
        ("b", "+34960•••022", "ended", "hangup"),
    ]
    assert sorted(e["at"] for e in events) == [e["at"] for e in events]


async def test_real_calls_leave_their_notes(tmp_path: Path) -> None:
    second = PhoneBehaviour(answer_after_s=0.0, hangup_after_s=0.5, keys="7", keys_after_s=0.1, tone_hz=1000)
    async with house_and_phones(tmp_path, ANSWERS, second) as (running, _phones):
        record = await running.over(await running.post())

        async def complete() -> bool:
            return [e.event for e in await running.journal(record)].count("statistics") == 2

        await until(complete)
        notes = [(e.event, e.side) for e in await running.journal(record) if e.before == e.after]
    for expected in (("dialog", "a"), ("dialog", "b"), ("media_source", "a"), ("media_source", "b"), ("digit", "b")):
        assert notes.count(expected) == 1  # type: ignore[arg-type]


async def test_the_heads_of_audio_packets_are_kept_if_asked_for(tmp_path: Path) -> None:
    second = PhoneBehaviour(answer_after_s=0.0, hangup_after_s=0.3, tone_hz=1000)
    media: dict[str, object] = {"capture_headers": True}
    async with house_and_phones(tmp_path, ANSWERS, second, media=media) as (running, _phones):
        record = await running.over(await running.post())

        async def kept() -> bool:
            return await running.service.store.capture(record.id) is not None

        await until(kept)
        capture = unpack(await running.service.store.capture(record.id) or b"")
    heard = [packet for packet in capture.packets if not packet.ours]
    assert len(capture.messages) >= 12
    assert len(heard) >= 10
    assert {(len(packet.data), packet.size) for packet in heard} == {(12, 172)}, "heads alone, of 20 ms of G.711"


async def test_unknown_connections_are_not_found(tmp_path: Path) -> None:
    async with house(tmp_path, carrier=FakeCarrier()) as running:
        assert (await running.client.get("/v1/connections/" + "0" * 26)).status_code == 404


# --- several at once, and clients that leave ---


async def test_two_requests_at_once_are_two_connections(tmp_path: Path) -> None:
    leaves = PhoneBehaviour(answer_after_s=0.1, hangup_after_s=0.2)
    numbers = {"+34600000001": ANSWERS, "+34600000002": leaves, "+34600000003": ANSWERS, "+34600000004": leaves}
    async with Phones.open(numbers) as phones, house(tmp_path, phone=phones.phone) as running:
        answers = await asyncio.gather(
            running.post(firstnumber="+34600000001", secondnumber="+34600000002"),
            running.post(firstnumber="+34600000003", secondnumber="+34600000004"),
        )
        records = [await running.over(answer) for answer in answers]
        await phones.quiet()
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, MADE)] * 2
    assert [(record.outcome, record.ended_by) for record in records] == [("completed", "b")] * 2
    assert len({record.id for record in records}) == 2
    assert sorted(call.number for call in phones.phone.calls) == sorted(numbers)


async def test_a_client_that_leaves_changes_nothing(tmp_path: Path) -> None:
    second = PhoneBehaviour(answer_after_s=0.0, hangup_after_s=0.1)
    async with house_and_phones(tmp_path, PhoneBehaviour(answer_after_s=0.3), second) as (running, phones):
        host, port = running.service.http.address
        _reader, writer = await asyncio.open_connection(host, port)
        body = json.dumps(lead()).encode()
        head = (
            f"POST /call HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await phones.when(RINGING, FIRST)
        writer.close()
        await writer.wait_closed()
        await phones.when(ENDED, SECOND)
        record = await running.journalled("joined")
        await running.service.switchboard.ended(record.id)
        assert (await running.record(record.id)).outcome == "completed"


async def test_whatever_the_parties_do_nobody_is_left(tmp_path: Path) -> None:
    """Forty connections at once whose parties do what comes to their minds, and a media worker that dies meanwhile."""
    numbers = {f"+346{number:08d}": _a_whim(Random(number)) for number in range(80)}
    names = list(numbers)
    dialing: dict[str, object] = {"ring_timeout_s": 1, "talk_limit_s": 1}
    async with Phones.open(numbers) as phones, house(tmp_path, phone=phones.phone, dialing=dialing) as running:
        pairs = zip(names[::2], names[1::2], strict=True)
        asking = [asyncio.create_task(running.post(firstnumber=first, secondnumber=second)) for first, second in pairs]

        async def midst() -> bool:
            return sum(event.kind is ANSWERED for _at, event in phones.seen) >= 20

        await until(midst)
        os.kill(running.worker_pid, signal.SIGKILL)
        records = [await running.over(answer) for answer in await asyncio.gather(*asking)]
        journals = {record.id: await running.journal(record) for record in records}
        carrier = running.service.carrier
        assert isinstance(carrier, SipCarrier)
        await phones.quiet()
        assert (carrier.agent.open_calls, running.service.switchboard.open_connections) == (0, 0)
    called = [call.number for call in phones.phone.calls]
    assert len(set(called)) == len(called), "nobody is dialled twice"
    outcomes = {record.outcome for record in records}
    assert None not in outcomes
    assert "interrupted" in outcomes
    for record in records:
        assert {leg.state for leg in record.legs} <= {"idle", "ended"}
        ends = [entry.side for entry in journals[record.id] if entry.event == "ended"]
        dialed = [entry.side for entry in journals[record.id] if entry.event == "dialed"]
        assert set(dialed) <= set(ends), "every leg that was dialled has its end"
        assert len(set(ends)) == len(ends)


def _a_whim(random: Random) -> PhoneBehaviour:
    match random.randrange(8):
        case 0:
            return PhoneBehaviour(
                reject=random.choice([BUSY, DECLINE, NOT_FOUND]), reject_after_s=random.choice([0, 0.05])
            )
        case 1:
            return RINGS
        case _:
            return PhoneBehaviour(
                answer_after_s=random.choice([0, 0.01, 0.1, 0.3]),
                hangup_after_s=random.choice([None, 0, 0.01, 0.1, 0.3]),
            )


# --- when a process dies ---


async def test_a_request_that_comes_during_the_shutdown_is_not_tried(tmp_path: Path) -> None:
    carrier = FakeCarrier()
    async with house(tmp_path, carrier=carrier) as running:
        await running.service.switchboard.close()
        answer = await running.post()
        assert (answer.status_code, answer.json()) == (503, {"Message": "shutting down"})
        assert int(answer.headers["retry-after"]) > 0
        assert (await running.client.get("/readyz")).status_code == 503
    assert carrier.dialed == []


KILLED = "the media worker is gone: it was ended by SIGKILL"


async def test_a_media_worker_that_is_killed_ends_its_connection_and_no_other_after_it(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, phones):
        answer = await running.post()
        await running.journalled("joined")
        began = asyncio.get_running_loop().time()
        os.kill(running.worker_pid, signal.SIGKILL)
        record = await running.over(answer)
        assert asyncio.get_running_loop().time() - began < 1.0
        assert (record.outcome, record.ended_by) == ("interrupted", "media")
        await phones.quiet()
        journal = await running.journal(record)
        assert [entry.facts for entry in journal if entry.event == "unjoined"] == [{"detail": KILLED}]
        assert not [entry for entry in journal if entry.event == "statistics"], "what is lost is not told as 0"

        async def taken() -> bool:
            return not await running.service.ready()

        await until(taken)
        again = await running.post()
        assert (again.status_code, again.text) == (200, MADE)
        await running.journalled("joined")
        phones.call(SECOND).hang_up()
        assert (await running.over(again)).outcome == "completed"


async def test_at_the_limit_of_sigterm_both_hear_the_warning_before_they_are_hung_up(tmp_path: Path) -> None:
    listens = PhoneBehaviour(answer_after_s=0.0, tone_hz=440, listen_hz=(440, 950, 1400, 1800))
    async with Phones.open({FIRST: listens, SECOND: listens}) as phones:
        async with (
            process(tmp_path, phones.phone, node={"drain_s": 0.5}) as serving,
            httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
        ):
            assert (await client.post("/call", json=lead())).status_code == 200
            await serving.joined()
            serving.signal(signal.SIGTERM)

            async def refused() -> bool:
                return (await client.get("/readyz")).status_code == 503

            await until(refused, limit_s=LIMIT_S)
            answer = await client.post("/call", json=lead())
            told = (answer.status_code, answer.headers["connection"], "retry-after" in answer.headers)
            assert (503, "close", True) == told
            assert await serving.ended() == 0
        await phones.quiet()
    for number in (FIRST, SECOND):
        heard = phones.call(number).heard.timeline()
        tones = [span.frequency_hz for span in heard if span.frequency_hz is not None]
        assert [950, 1400, 1800] == tones[-3:], phones.call(number).heard.describe()


async def test_a_second_signal_hangs_up_at_once(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with (
            process(tmp_path, phones.phone, node={"drain_s": 600}) as serving,
            httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
        ):
            assert (await client.post("/call", json=lead())).status_code == 200
            await serving.joined()
            serving.signal(signal.SIGTERM)
            await serving.logged("draining")
            assert phones.phone.agent.open_calls == 2
            serving.signal(signal.SIGTERM)
            began = asyncio.get_running_loop().time()
            await phones.quiet()
            assert asyncio.get_running_loop().time() - began < 2
            assert await serving.ended() == 0


async def test_calls_end_by_themselves_after_sigterm_and_the_process_with_them(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with (
            process(tmp_path, phones.phone, node={"drain_s": 600}) as serving,
            httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
        ):
            assert (await client.post("/call", json=lead())).status_code == 200
            await serving.joined()
            serving.signal(signal.SIGTERM)
            await serving.logged("draining")
            phones.call(SECOND).hang_up()
            assert await serving.ended() == 0
            assert [("completed", "b")] == serving.rows("SELECT outcome, ended_by FROM connection")


async def test_the_command_line_ends_and_drains_through_the_record(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with (
            process(tmp_path, phones.phone, node={"name": "one", "beat_s": 0.5}) as serving,
            httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client,
        ):
            made = await client.post("/call", json=lead())
            id = made.headers["location"].rpartition("/")[2]
            await serving.joined()
            (node,) = json.loads(await serving.command("nodes", "--json"))
            assert ("one", "up", serving.url) == (node["name"], node["state"], node["url"])
            waiting = asyncio.create_task(serving.command("drain", "one", "--wait"))
            await serving.logged("draining")
            assert "draining" in await serving.command("nodes")
            assert "it is being hung up\n" == await serving.command("hangup", id)
            await phones.quiet()
            assert f"one ({node['id']}) drains\n" == await waiting
            assert "it is over already\n" == await serving.command("hangup", id)
            ((outcome, by),) = serving.rows("SELECT outcome, ended_by FROM connection")
            assert ("completed", "operator") == (outcome, by.split()[0])
            serving.signal(signal.SIGTERM)
            assert await serving.ended() == 0
            assert [] == serving.rows("SELECT id FROM node")


FORGED = "x\n2026-01-01 00:00:00 INFO call completed cost=0"


async def test_sigterm_hangs_nobody_in_the_air(tmp_path: Path) -> None:
    numbers = {FIRST: ANSWERS, SECOND: ANSWERS, "+34600000033": RINGS}
    async with Phones.open(numbers) as phones, process(tmp_path, phones.phone) as serving:
        async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client:
            made = await client.post("/call", json=lead(nombre_comercializador=FORGED, ciudad_propiedad="Zarautz"))
            assert (made.status_code, made.text) == (200, MADE)
            waiting = asyncio.create_task(client.post("/call", json=lead(firstnumber="+34600000033")))
            await phones.when(RINGING, "+34600000033")
            await serving.joined()
            worker = [child.pid for child in psutil.Process(serving.process.pid).children()]
            serving.signal(signal.SIGTERM)
            answer = await waiting
            assert (answer.status_code, answer.json()) == (500, {"Message": "Could not make call to +34600000033"})
        assert await serving.ended() == 0
        await phones.quiet()
        ends = {call.number: call.end for call in phones.phone.calls}
        outcomes = serving.rows("SELECT first, outcome, ended_by, answer_status FROM connection ORDER BY id")
    assert {number: (end.cause, end.by) for number, end in ends.items() if end} == {
        FIRST: (EndCause.HANGUP, "remote"),
        SECOND: (EndCause.HANGUP, "remote"),
        "+34600000033": (EndCause.CANCELLED, "remote"),
    }
    assert outcomes == [(FIRST, "completed", "shutdown", 200), ("+34600000033", "cancelled", "shutdown", 500)]
    assert not any(psutil.pid_exists(pid) for pid in worker)
    assert_discreet(serving.lines)


def assert_discreet(lines: list[str]) -> None:
    """One event a line, and nothing of the people in it."""
    events = [json.loads(line) for line in lines]
    assert {"ready", "stopping", "stopped", "connection over"} <= {event["event"] for event in events}
    assert all({"timestamp", "level"} <= event.keys() for event in events)
    said = "".join(lines)
    for private in (FIRST, FIRST[1:], SECOND[1:], "600000033", EMAIL, "cost=0", "call completed", "Zarautz"):
        assert private not in said
    assert not [event for event in events if event["level"] in ("warning", "error", "critical")]


async def test_a_killed_service_dials_nobody_again_and_leaves_nobody_on_a_line(tmp_path: Path) -> None:
    numbers = {FIRST: ANSWERS, SECOND: ANSWERS}
    sip: dict[str, object] = {"bind": f"{HOST}:{free_port()}"}  # The next process listens where the first one did.
    async with Phones.open(numbers) as phones, Exchange.open() as exchange:
        ringing = f"sip:{HOST}:{exchange.agent.local[1]}"
        trunks: list[dict[str, object]] = [{"name": "exchange", "proxy": ringing, "prefixes": ["+34609"]}]
        async with process(tmp_path, phones.phone, trunks, sip=sip) as serving:
            async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S) as client:
                assert (await client.post("/call", json=lead())).status_code == 200
                waiting = asyncio.create_task(client.post("/call", json=lead(firstnumber="+34609000001")))
                party = await exchange.party()
                await serving.joined()
                workers = psutil.Process(serving.process.pid).children()
                serving.signal(signal.SIGKILL)
                with pytest.raises(httpx.RemoteProtocolError):
                    await waiting
            assert await serving.ended() == -signal.SIGKILL
            _gone, left = psutil.wait_procs(workers, timeout=5)
            assert left == []
        async with process(tmp_path, phones.phone, trunks, sip=sip) as serving:
            rows = serving.rows("SELECT first, outcome FROM connection ORDER BY id")
            assert rows == [(FIRST, "interrupted"), ("+34609000001", "interrupted")]
            # How long they talked is known.
            assert serving.rows("SELECT joined_at < ended_at FROM connection ORDER BY id") == [(1,), (None,)]
            # Who was left on a line is released: design §2, rule 6.
            ends = [await asyncio.wait_for(phones.call(number).ended(), LIMIT_S) for number in (FIRST, SECOND)]
            assert [(end.cause, end.by) for end in ends] == [(EndCause.HANGUP, "remote")] * 2
            # And who was rung by the last process rings no more.
            await asyncio.wait_for(party.over.wait(), LIMIT_S)
            assert party.end is not None
            assert (party.end.cause, party.end.by) == (EndCause.CANCELLED, "remote")
            assert len(phones.phone.calls) + len(exchange.parties) == 3
            serving.signal(signal.SIGTERM)
            assert await serving.ended() == 0
