"""
Carriers with their far ends, for the contract of `Carrier`: whoever is called behaves by the number dialled.

`FakeFarEnd` scripts the fake carrier; `SipFarEnd` is a SIP carrier with a media worker, trial phones and a party whose
moves the test makes itself, all on loopback and free ports.
"""

import asyncio
import enum
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from dosvoces.carriers import Call, Carrier, DialPlan
from dosvoces.carriers.fake import FakeCarrier, Script
from dosvoces.carriers.sip import SipCarrier
from dosvoces.carriers.trunks import Trunk
from dosvoces.events import Ended, Event
from dosvoces.media.relay import MediaSettings, WorkerRelay
from dosvoces.model import ConnectionId, EndReason, LegId, Note, PhoneNumber, Side
from dosvoces.phone import BUSY, DECLINE, Phone, PhoneBehaviour
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, IncomingCall
from dosvoces.sip.api import CallEnd, CallHandler
from tests.ports import free_port, own_range

HOST = "127.0.0.1"
LIMIT_S = 5.0


class Does(enum.Enum):
    """What the far end does, and the number at which it does that."""

    ANSWERS = "+34600000001"
    RINGS = "+34600000002"
    """For ever."""
    BUSY = "+34600000003"
    DECLINES = "+34600000004"
    LEAVES = "+34600000005"
    """Answers, then hangs up."""
    CROSSES = "+34609000001"
    """Rings, and answers in the moment in which it is told to."""
    GONE = "+34608000001"
    """Nobody listens where the call goes."""
    DETOUR = "+34606000001"
    """The first way leads to nobody, the second one to somebody who answers."""
    NO_WAY = "+34607000001"
    """No call to this number can leave the machine."""

    @property
    def number(self) -> PhoneNumber:
        return PhoneNumber(self.value, self.value)


class Recorder:
    """Listens to a carrier."""

    def __init__(self) -> None:
        self.events: list[tuple[ConnectionId, Event]] = []
        self.notes: list[tuple[ConnectionId, Note]] = []
        self.captures: dict[ConnectionId, bytes] = {}
        self.reaction: Callable[[ConnectionId, Event], None] = lambda _connection, _event: None
        """Called with each event from within `happened`."""
        self._changed = asyncio.Event()

    def happened(self, connection_id: ConnectionId, event: Event) -> None:
        self.events.append((connection_id, event))
        self.reaction(connection_id, event)
        self._changed.set()

    def captured(self, connection_id: ConnectionId, packed: bytes) -> None:
        self.captures[connection_id] = packed

    def noted(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        self.notes.append((connection_id, note))
        self._changed.set()
        if kept is not None:
            asyncio.get_running_loop().call_soon(kept)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def of(self, connection_id: ConnectionId) -> list[Event]:
        """The events of a connection, without the carrier's own words."""
        return [
            replace(event, detail="") if isinstance(event, Ended) else event
            for connection, event in self.events
            if connection == connection_id
        ]

    async def saw(self, connection_id: ConnectionId, *expected: Event) -> None:
        """Wait until all of `expected` have come."""
        await self.until(lambda: all(event in self.of(connection_id) for event in expected))

    def notes_of(self, connection_id: ConnectionId, kind: str, side: Side) -> list[Note]:
        found = (note for connection, note in self.notes if connection == connection_id)
        return [note for note in found if (note.kind, note.side) == (kind, side)]


class FarEnd(Protocol):
    """A carrier not yet started, and what can be seen and done at its other side."""

    carrier: Carrier

    def up(self) -> int:
        """Calls that ring or talk there."""

    def rung(self, does: Does) -> int:
        """How often that number was called so far."""

    def ids(self) -> list[LegId]:
        """The legs' ids as they arrived, in order."""

    def cross(self) -> None:
        """Let the party that crosses answer now."""

    async def lose_media(self, connection_id: ConnectionId) -> None:
        """Take its media away."""

    def next_process(self) -> AbstractAsyncContextManager[tuple[Carrier, "Recorder"]]:
        """A started carrier of the same settings, as another process has it."""


# --- the fake ---

_SCRIPTS = {
    Does.ANSWERS: Script(),
    Does.RINGS: Script(answers_after_s=None),
    Does.BUSY: Script(rings_after_s=None, fails_after_s=0.0),
    Does.DECLINES: Script(rings_after_s=None, fails_after_s=0.0, reason=EndReason.REJECTED),
    Does.LEAVES: Script(hangs_up_after_s=0.02),
    # The fake's answer is on a timer that is due in the same turn of the loop as the hang-up.
    Does.CROSSES: Script(answers_after_s=0.005),
    Does.GONE: Script(rings_after_s=None, fails_after_s=0.0, reason=EndReason.UNREACHABLE),
    Does.DETOUR: Script(dead_ways=1),
    Does.NO_WAY: Script(unreachable=True),
}


class FakeFarEnd:
    """Everything is in the script."""

    def __init__(self) -> None:
        self.fake = FakeCarrier(lambda call: _SCRIPTS[Does(call.number.e164)], caller_ids={"+34910000000"})
        self.carrier: Carrier = self.fake

    def up(self) -> int:
        return len(self.fake.live_legs)

    def rung(self, does: Does) -> int:
        return sum(call.number == does.number for call in self.fake.dialed)

    def ids(self) -> list[LegId]:
        return [call.id for call in self.fake.dialed]

    def cross(self) -> None:
        """The script does it."""

    async def lose_media(self, connection_id: ConnectionId) -> None:
        self.fake.lose_media(connection_id)

    @asynccontextmanager
    async def next_process(self) -> AsyncIterator[tuple[Carrier, Recorder]]:
        carrier, told = FakeCarrier(before=self.fake), Recorder()
        await carrier.start(told)
        yield carrier, told
        await carrier.close()


# --- SIP ---

_BEHAVIOURS = {
    Does.ANSWERS: PhoneBehaviour(answer_after_s=0.0),
    Does.RINGS: PhoneBehaviour(answer_after_s=None),
    Does.BUSY: PhoneBehaviour(reject=BUSY),
    Does.DECLINES: PhoneBehaviour(reject=DECLINE),
    Does.LEAVES: PhoneBehaviour(answer_after_s=0.0, hangup_after_s=0.05),
    Does.DETOUR: PhoneBehaviour(answer_after_s=0.0),
}


class Party(CallHandler):
    """A called party whose moves the test makes itself; it has no audio."""

    def __init__(self, incoming: IncomingCall) -> None:
        self.incoming = incoming
        self.end: CallEnd | None = None
        self.over = asyncio.Event()
        self.confirmed = asyncio.Event()
        """Set when the ACK of its answer came."""
        self.port = 40_000  # of media that nobody sends or reads
        self.takes: tuple[sdp.Codec, ...] = ()
        """Of an offer in the call; what has none of them is refused."""
        self.leaves = False
        """Whether it hangs up when it gets one."""
        self.offers: list[tuple[sdp.Codec, ...]] = []
        """The codecs of the offers in the call."""

    @property
    def offer(self) -> sdp.SessionDescription:
        return sdp.parse(self.incoming.offer)

    def answer(self, *codecs: sdp.Codec) -> None:
        """Take the call with the first of `codecs` that was offered."""
        offered = self.offer
        self.incoming.answer(sdp.answer_to(offered, HOST, self.port, codecs or (sdp.PCMA,), session_id=1).body)

    def on_confirmed(self, body: bytes) -> None:
        self.confirmed.set()

    def on_offer(self, body: bytes | None) -> bytes | None:
        offered = sdp.parse(body or b"")
        self.offers.append(offered.media[0].codecs)
        if self.leaves:
            self.incoming.hangup()
        try:
            return sdp.answer_to(offered, HOST, self.port, self.takes, session_id=1).body
        except sdp.SdpError:
            return None

    def on_ended(self, end: CallEnd) -> None:
        self.end = end
        self.over.set()


class Exchange:
    """Where parties are called; each call waits in `parties`."""

    def __init__(self, greet: Callable[[IncomingCall], None]) -> None:
        """Use `open`."""
        self.parties: list[Party] = []
        self.agent: Agent
        self._greet = greet
        self._called = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, greet: Callable[[IncomingCall], None] = IncomingCall.ring) -> AsyncIterator["Exchange"]:
        """`greet` is done to each call as it comes in."""
        exchange = cls(greet)
        exchange.agent = await Agent.open(
            bind=(HOST, 0), user_agent="exchange", peers=None, on_invite=exchange._on_invite
        )
        try:
            yield exchange
        finally:
            await exchange.agent.close()

    async def party(self, number: int = 0) -> Party:
        """The `number`th that was called, as soon as it is."""
        async with asyncio.timeout(LIMIT_S):
            while len(self.parties) <= number:
                self._called.clear()
                await self._called.wait()
        return self.parties[number]

    def _on_invite(self, incoming: IncomingCall) -> CallHandler:
        party = Party(incoming)
        self._greet(incoming)
        self.parties.append(party)
        self._called.set()
        return party


class SipFarEnd:
    """A SIP carrier with trunks to a phone, to an exchange and to a port where nobody is."""

    def __init__(self, phone: Phone, exchange: Exchange, gone_port: int) -> None:
        self.phone = phone
        self.exchange = exchange
        self._gone_port = gone_port
        self.relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=media_ports()))
        self.sip = self._carrier(self.relay)
        self.carrier: Carrier = self.sip

    def _carrier(self, relay: WorkerRelay) -> SipCarrier:
        return SipCarrier(
            trunks=[
                Trunk("phone", *self.phone.address, caller_id="+34910000000", prefixes=("+34600",)),
                Trunk("exchange", *self.exchange.agent.local, prefixes=("+34609",)),
                Trunk("gone", HOST, self._gone_port, prefixes=("+34608", "+34606")),
                Trunk("detour", *self.phone.address, prefixes=("+34606",)),
            ],
            relay=relay,
            bind=(HOST, 0),
        )

    def up(self) -> int:
        return self.phone.agent.open_calls + self.exchange.agent.open_calls

    def rung(self, does: Does) -> int:
        parties = [party.incoming.request_uri for party in self.exchange.parties]
        return sum(call.number == does.value for call in self.phone.calls) + sum(does.value in uri for uri in parties)

    def ids(self) -> list[LegId]:
        return [LegId(party.incoming.call_id.rpartition("-")[0]) for party in self.exchange.parties]

    def cross(self) -> None:
        self.exchange.parties[-1].answer()

    async def lose_media(self, connection_id: ConnectionId) -> None:
        (pid,) = self.relay.worker_pids
        os.kill(pid, signal.SIGKILL)

    @asynccontextmanager
    async def next_process(self) -> AsyncIterator[tuple[Carrier, Recorder]]:
        relay = WorkerRelay(MediaSettings(bind_host=HOST, advertised_host=HOST, port_range=media_ports()))
        carrier, told = self._carrier(relay), Recorder()
        await carrier.start(told)
        try:
            yield carrier, told
        finally:
            await carrier.close()


@asynccontextmanager
async def fake_far_end() -> AsyncIterator[FakeFarEnd]:
    yield FakeFarEnd()


@asynccontextmanager
async def sip_far_end() -> AsyncIterator[SipFarEnd]:
    choose = {does.value: behaviour for does, behaviour in _BEHAVIOURS.items()}.get
    async with Phone.open(choose) as phone, Exchange.open() as exchange:
        yield SipFarEnd(phone, exchange, free_port())


FAR_ENDS: dict[str, Callable[[], AbstractAsyncContextManager[FarEnd]]] = {"fake": fake_far_end, "sip": sip_far_end}


def media_ports() -> tuple[int, int]:
    """A range of ports for a media worker."""
    return own_range(400)


async def place(carrier: Carrier, call: Call) -> DialPlan:
    """Dial without a record in between."""
    plan = carrier.prepare(call)
    await carrier.dial(plan)
    return plan


def a_call(number: int, side: Side, does: Does) -> Call:
    """A leg of connection `number`."""
    return Call(ConnectionId(f"{number:026d}"), side, does.number)
