"""The trial phone, called by our own agent over loopback: signalling and RTP are real, the time is short."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from dosvoces.media import rtp
from dosvoces.media.phone_audio import Ear, Source
from dosvoces.phone import (
    BUSY,
    DECLINE,
    NOT_FOUND,
    Phone,
    PhoneBehaviour,
    PhoneEvent,
    PhoneEventKind,
    Window,
    run_phone,
)
from dosvoces.phone.call import even_socket, user_part
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, OutgoingCall
from dosvoces.sip.api import CallEnd, CallHandler, DialogFacts, EndCause, Invitation

T = TypeVar("T")
LIMIT_S = 5.0  # for anything that is waited for


class Caller(CallHandler):
    """The other end: an agent of ours with a socket for RTP, which speaks 440 Hz and listens."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.progress: list[int] = []
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.ringing: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.end: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
        self.socket = even_socket("127.0.0.1")
        self.ear = Ear((440, 1000))
        self.events: list[rtp.TelephoneEvent] = []
        self.call: OutgoingCall

    def dial(self, phone: Phone, number: str = "+34600000001", body: bytes | None = None) -> None:
        host, port = phone.address
        self.call = self.agent.invite(
            Invitation(
                request_uri=f"sip:{number}@{host}:{port}",
                destination=phone.address,
                from_uri=f"sip:+34600000002@{host}",
                to_uri=f"sip:{number}@{host}",
                call_id=f"{number}-{id(self)}",
                body=self.offer() if body is None else body,
            ),
            self,
        )

    def offer(self, direction: sdp.Direction = sdp.Direction.SENDRECV, version: int = 1) -> bytes:
        port = self.socket.getsockname()[1]
        return sdp.offer("127.0.0.1", port, session_id=1, version=version, direction=direction)

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.progress.append(status)
        if not self.ringing.done():
            self.ringing.set_result(status)

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.answer.set_result(body)

    def on_ended(self, end: CallEnd) -> None:
        self.end.set_result(end)

    async def change(self, body: bytes) -> bytes:
        """Offer `body` by re-INVITE; the phone's answer."""
        changed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.call.reinvite(body, lambda _status, answer: changed.set_result(answer))
        return await soon(changed)

    async def talk(self, seconds: float, keys: str = "") -> None:
        """Speak and listen for so long, both in step with the phone's own packets."""
        loop = asyncio.get_running_loop()
        chosen = sdp.choose(sdp.parse(self.answer.result()))
        speaker = Source("PCMA", frequency_hz=440, tone_dbm0=-20.0, ssrc=1, sequence=1, timestamp=1)
        speaker.press(keys)
        for number in range(round(seconds * 50)):
            packet = speaker.packet(8, chosen.dtmf_payload_type)
            await loop.sock_sendto(self.socket, packet, (chosen.host, chosen.port))
            received = rtp.parse(await asyncio.wait_for(loop.sock_recv(self.socket, 2_048), LIMIT_S))
            if received.payload_type == chosen.dtmf_payload_type:
                self.events.append(rtp.parse_event(received.payload))
            else:
                self.ear.take("PCMA", received, number * 0.02)


@asynccontextmanager
async def called(
    behaviour: PhoneBehaviour, events: list[PhoneEvent] | None = None
) -> AsyncIterator[tuple[Phone, Caller]]:
    on_event = None if events is None else events.append
    async with Phone.open(behaviour, on_event=on_event) as phone:
        agent = await Agent.open(bind=("127.0.0.1", 0), peers=["127.0.0.1"])
        caller = Caller(agent)
        try:
            yield phone, caller
        finally:
            caller.socket.close()
            await agent.close()


async def soon(waited: "asyncio.Future[T]") -> T:
    return await asyncio.wait_for(asyncio.shield(waited), LIMIT_S)


async def test_both_hear_the_other_and_not_themselves() -> None:
    events: list[PhoneEvent] = []
    behaviour = PhoneBehaviour(answer_after_s=0.05, tone_hz=1000, tone_dbm0=-12.0, keys="5", keys_after_s=0.3)
    async with called(behaviour, events) as (phone, caller):
        caller.dial(phone)
        await soon(caller.answer)
        await caller.talk(0.9, keys="#")
        caller.call.hangup()
        assert (await soon(caller.end)).by == "local"
        (call,) = phone.calls
        end = await asyncio.wait_for(call.ended(), LIMIT_S)
        heard = call.heard
    assert caller.progress == [180]
    assert (end.by, end.cause) == ("remote", EndCause.HANGUP)
    assert (call.number, call.caller) == ("+34600000001", "+34600000002")
    assert heard.dominant(heard.between(0.3)) == 440
    assert heard.level_dbm0(440, heard.between(0.3)) == pytest.approx(-20.0, abs=0.5)
    assert heard.level_dbm0(1000, heard.between(0.3)) < -45
    assert heard.keys == "#"
    assert caller.ear.report().dominant() == 1000
    assert caller.ear.report().level_dbm0(1000) == pytest.approx(-12.0, abs=0.5)
    assert [(event.code, event.end) for event in caller.events] == [(5, False)] * 4 + [(5, True)] * 3
    assert [event.text for event in events] == [
        "ringing",
        "answered",
        "hears the key #",
        "hears 440 Hz",
        "ended by the other side",
    ]


@pytest.mark.parametrize("refusal", [BUSY, DECLINE, NOT_FOUND])
async def test_a_refusal_is_told_without_ringing(refusal: tuple[int, str]) -> None:
    async with called(PhoneBehaviour(reject=refusal)) as (phone, caller):
        caller.dial(phone)
        end = await soon(caller.end)
        assert (end.cause, end.by, end.status, end.phrase) == (EndCause.REJECTED, "remote", *refusal)
        assert caller.progress == []
        await asyncio.wait_for(phone.calls[0].ended(), LIMIT_S)


async def test_a_refusal_after_ringing() -> None:
    async with called(PhoneBehaviour(reject=DECLINE, reject_after_s=0.05)) as (phone, caller):
        caller.dial(phone)
        assert (await soon(caller.end)).status == 603
        assert caller.progress == [180]


async def test_it_rings_until_the_caller_gives_up() -> None:
    events: list[PhoneEvent] = []
    async with called(PhoneBehaviour(answer_after_s=None), events) as (phone, caller):
        caller.dial(phone)
        await soon(caller.ringing)
        caller.call.hangup()
        assert (await soon(caller.end)).cause is EndCause.CANCELLED
        end = await asyncio.wait_for(phone.calls[0].ended(), LIMIT_S)
        assert (end.cause, end.by) == (EndCause.CANCELLED, "remote")
    assert [event.text for event in events] == ["ringing", "over by the other side before an answer"]


async def test_it_hangs_up_after_a_while() -> None:
    async with called(PhoneBehaviour(answer_after_s=0, hangup_after_s=0.05)) as (phone, caller):
        caller.dial(phone)
        end = await soon(caller.end)
        assert (end.cause, end.by) == (EndCause.HANGUP, "remote")


async def test_hold_and_resume() -> None:
    events: list[PhoneEvent] = []
    async with called(PhoneBehaviour(answer_after_s=0), events) as (phone, caller):
        caller.dial(phone)
        first = sdp.parse(await soon(caller.answer))
        held = sdp.parse(await caller.change(caller.offer(sdp.Direction.SENDONLY, version=2)))
        assert phone.calls[0].held
        resumed = sdp.parse(await caller.change(caller.offer(version=3)))
        assert not phone.calls[0].held
    assert [each.media[0].direction for each in (first, held, resumed)] == ["sendrecv", "recvonly", "sendrecv"]
    assert [each.version for each in (first, held, resumed)] == ["1", "2", "3"]
    assert {(each.session_id, each.media[0].port) for each in (first, held, resumed)} == {
        (first.session_id, first.media[0].port)
    }
    assert [event.text for event in events[:4]] == [
        "ringing",
        "answered",
        "held by the other side",
        "resumed by the other side",
    ]


async def test_a_change_of_codec_changes_what_it_sends() -> None:
    async with called(PhoneBehaviour(answer_after_s=0, tone_hz=1000)) as (phone, caller):
        caller.dial(phone)
        await soon(caller.answer)
        await caller.change(sdp.offer("127.0.0.1", caller.socket.getsockname()[1], [sdp.PCMU], session_id=1, version=2))
        loop, ear = asyncio.get_running_loop(), Ear((440, 1000))
        windows: list[Window] = []
        while not windows:
            received = rtp.parse(await asyncio.wait_for(loop.sock_recv(caller.socket, 2_048), LIMIT_S))
            if received.payload_type == sdp.PCMU.payload_type:
                windows += ear.take("PCMU", received, 0.0)
    # Taken for the other law, the tone would be some 12 dB louder.
    assert windows[0].levels_dbm0[1] == pytest.approx(PhoneBehaviour().tone_dbm0, abs=0.5)


async def test_a_change_that_cannot_be_is_refused() -> None:
    async with called(PhoneBehaviour(answer_after_s=0)) as (phone, caller):
        caller.dial(phone)
        await soon(caller.answer)
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        caller.call.reinvite(
            sdp.offer("127.0.0.1", 4000, [sdp.G722], session_id=1, version=2), lambda status, _: done.set_result(status)
        )
        assert await soon(done) == 488
        assert phone.calls[0].chosen is not None
        assert phone.calls[0].chosen.codec == sdp.PCMA


async def test_an_offer_without_a_common_codec_is_refused() -> None:
    async with called(PhoneBehaviour()) as (phone, caller):
        caller.dial(phone, body=sdp.offer("127.0.0.1", 4000, [sdp.G722], session_id=1))
        assert (await soon(caller.end)).status == 488


async def test_several_calls_at_once_each_by_its_number() -> None:
    behaviours = {"1": PhoneBehaviour(answer_after_s=0), "2": PhoneBehaviour(reject=BUSY)}
    async with Phone.open(behaviours.get) as phone:
        agent = await Agent.open(bind=("127.0.0.1", 0), peers=["127.0.0.1"])
        callers = [Caller(agent) for _ in range(4)]
        for caller, number in zip(callers, "1213", strict=True):
            caller.dial(phone, number)
        await soon(callers[0].answer)
        await soon(callers[2].answer)
        assert (await soon(callers[1].end)).status == 486
        assert (await soon(callers[3].end)).status == 404
        for caller in callers:
            caller.socket.close()
        await agent.close()
        for call in phone.calls:
            await asyncio.wait_for(call.ended(), LIMIT_S)
    assert [call.number for call in phone.calls] == ["1", "2", "1", "3"]


async def test_closing_the_phone_hangs_up() -> None:
    agent = await Agent.open(bind=("127.0.0.1", 0), peers=["127.0.0.1"])
    caller = Caller(agent)
    async with Phone.open(PhoneBehaviour(answer_after_s=0)) as phone:
        caller.dial(phone)
        await soon(caller.answer)
    assert (await soon(caller.end)).by == "remote"
    caller.socket.close()
    await agent.close()


async def test_what_run_phone_says() -> None:
    said: list[str] = []
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def say(line: str) -> None:
        said.append(line)
        if not listening.done():
            listening.set_result(int(line.split(" ")[2].rpartition(":")[2]))

    running = asyncio.create_task(run_phone(PhoneBehaviour(reject=BUSY), bind=("127.0.0.1", 0), say=say, calls=1))
    port = await soon(listening)
    agent = await Agent.open(bind=("127.0.0.1", 0), peers=["127.0.0.1"])
    handler = Caller(agent)
    handler.call = agent.invite(
        Invitation(
            request_uri="sip:+34600000001@127.0.0.1",
            destination=("127.0.0.1", port),
            from_uri="sip:127.0.0.1",
            to_uri="sip:+34600000001@127.0.0.1",
            call_id="said",
            body=handler.offer(),
        ),
        handler,
    )
    await asyncio.wait_for(running, LIMIT_S)
    await soon(handler.end)
    handler.socket.close()
    await agent.close()
    assert [line.partition(": ")[2] for line in said[1:]] == [
        "refused with 486 Busy Here",
        "over by this phone before an answer",
    ]
    assert "anonymous → +34600000001" in said[1]


def test_the_user_part_of_a_uri() -> None:
    assert [user_part(uri) for uri in ("sip:+34600@h;x=1", "sip:a:pw@h", "sip:h", "", "sip:+1;ext=2@h")] == [
        "+34600",
        "a",
        "",
        "",
        "+1",
    ]


@pytest.mark.parametrize(
    ("wrong", "why"), [({"codecs": (sdp.G722,)}, "PCMA and PCMU only"), ({"keys": "12x"}, "no key")]
)
def test_a_behaviour_that_cannot_be_is_refused(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PhoneBehaviour(**wrong)  # type: ignore[arg-type]


def test_a_port_for_rtp_is_even() -> None:
    sockets = [even_socket("127.0.0.1") for _ in range(8)]
    assert [each.getsockname()[1] % 2 for each in sockets] == [0] * 8
    for each in sockets:
        each.close()
    with pytest.raises(OSError, match="assign"):
        even_socket("192.0.2.1")


async def test_events_can_be_waited_for() -> None:
    async with called(PhoneBehaviour(answer_after_s=0.02)) as (phone, caller):
        waiting = asyncio.create_task(phone.next_event(PhoneEventKind.ANSWERED))
        await asyncio.sleep(0)
        caller.dial(phone)
        event = await asyncio.wait_for(waiting, LIMIT_S)
        assert event.call is phone.calls[0]


class HandMade:
    """A caller written out by hand, for what our own agent never does; its socket for RTP is apart."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self.loop = asyncio.get_running_loop()
        self.signalling, self.media = even_socket("127.0.0.1"), even_socket("127.0.0.1")
        self.signalling.connect(phone.address)
        self.to = "<sip:1@127.0.0.1>"

    async def send(self, method: str, body: bytes = b"") -> None:
        port = self.signalling.getsockname()[1]
        head = (
            f"{method} sip:1@127.0.0.1:{self.phone.address[1]} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:2@127.0.0.1>;tag=2\r\nTo: {self.to}\r\nCall-ID: by-hand\r\n"
            f"CSeq: {2 if method == 'BYE' else 1} {method}\r\nContact: <sip:2@127.0.0.1:{port}>\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await self.loop.sock_sendall(self.signalling, head.encode() + body)

    async def receive(self, start: str) -> tuple[str, bytes]:
        """The head and body of the next message that starts so."""
        while True:
            data = await asyncio.wait_for(self.loop.sock_recv(self.signalling, 4_096), LIMIT_S)
            head, _, body = data.partition(b"\r\n\r\n")
            if data.startswith(start.encode()):
                return head.decode(), body

    async def invite(self, body: bytes = b"") -> bytes:
        """Call without more ado; the body of the 200."""
        await self.send("INVITE", body)
        head, answer = await self.receive("SIP/2.0 200")
        self.to = next(line[4:] for line in head.split("\r\n") if line.lower().startswith("to:"))
        return answer

    def close(self) -> None:
        self.signalling.close()
        self.media.close()


async def test_an_invite_without_an_offer_gets_ours() -> None:
    """RFC 3261 §13.2.1: the 200 offers and the ACK answers."""
    async with Phone.open(PhoneBehaviour(answer_after_s=0, tone_hz=1000)) as phone:
        caller = HandMade(phone)
        offered = sdp.parse(await caller.invite())
        assert offered.media[0].codecs == (sdp.PCMA, sdp.PCMU)
        answer = sdp.answer_to(offered, "127.0.0.1", caller.media.getsockname()[1], [sdp.PCMU], session_id=5)
        await caller.send("ACK", answer.body)
        packet = rtp.parse(await asyncio.wait_for(caller.loop.sock_recv(caller.media, 2_048), LIMIT_S))
        assert packet.payload_type == 0
        await caller.send("BYE")
        await caller.receive("SIP/2.0 200")
        await asyncio.wait_for(phone.calls[0].ended(), LIMIT_S)
        caller.close()


@pytest.mark.parametrize("answer", [b"", b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\nm=audio 0 RTP/AVP 8\r\n"])
async def test_an_answer_that_cannot_be_used_ends_the_call(answer: bytes) -> None:
    async with Phone.open(PhoneBehaviour(answer_after_s=0)) as phone:
        caller = HandMade(phone)
        await caller.invite()
        await caller.send("ACK", answer)
        head, _ = await caller.receive("BYE")
        vias = [
            line
            for line in head.split("\r\n")
            if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")
        ]
        reply = "\r\n".join(["SIP/2.0 200 OK", *vias, "Content-Length: 0", "", ""])
        await caller.loop.sock_sendall(caller.signalling, reply.encode())
        end = await asyncio.wait_for(phone.calls[0].ended(), LIMIT_S)
        assert (end.by, end.cause) == ("local", EndCause.HANGUP)
        caller.close()


async def test_what_is_no_rtp_is_passed_over() -> None:
    async with called(PhoneBehaviour(answer_after_s=0)) as (phone, caller):
        caller.dial(phone)
        chosen = sdp.choose(sdp.parse(await soon(caller.answer)))
        for data in (
            b"",
            b"hello",
            rtp.build(rtp.Packet(101, 1, 1, 1, b"x")),
            rtp.build(rtp.Packet(50, 1, 1, 1, b"x")),
        ):
            caller.socket.sendto(data, (chosen.host, chosen.port))
        await caller.talk(0.3)
        assert phone.calls[0].heard.dominant() == 440
        assert phone.calls[0].heard.packets >= 10
