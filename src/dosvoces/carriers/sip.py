"""
The SIP driver: places calls through trunks with our own agent, moves their audio with a `MediaRelay`.

Makes and reads the session descriptions; knows no rule of a connection but that B is offered what A speaks.
"""

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog

from dosvoces import crashpoints
from dosvoces.capture import Captured
from dosvoces.capture.recorder import Recorder
from dosvoces.carriers import Call, DialPlan, Leftover, Listener, Released, sip_codecs
from dosvoces.carriers.circuit import learn, reached_nobody
from dosvoces.carriers.dns import Dns
from dosvoces.carriers.end_reasons import NORMAL_CLEARING, detail_of, reason_of
from dosvoces.carriers.public import NOTHING_LEARNED, Nat, PublicSide
from dosvoces.carriers.reach import why_cut_off
from dosvoces.carriers.sip_crashpoints import watch
from dosvoces.carriers.sip_facts import dial_facts
from dosvoces.carriers.sip_leftover import take_back
from dosvoces.carriers.sip_leg import Session, SipLeg
from dosvoces.carriers.trunks import Line, Trunk, Trunks, Way
from dosvoces.carriers.upkeep import USUAL, Times, Upkeep
from dosvoces.errors import CarrierError, MediaError, NotOurs
from dosvoces.events import Dialed, Ended, Event, Unjoined, Unreached
from dosvoces.media import Digit, Headers, Heard, Lost, MediaRelay, RelayEvent, Silent, Statistics
from dosvoces.model import ConnectionId, EndReason, LegId, Note, PhoneNumber, Side
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, SipTransportError
from dosvoces.sip.api import CallEnd, EndCause, Hop, Invitation
from dosvoces.sip.session_timer import DEFAULT_TERMS, SessionTerms
from dosvoces.sip.tls import Tls, TlsError

log = structlog.get_logger(__name__)

ACK_PATIENCE_S = 4.0  # for the record to have the answer's dialog: the far end repeats its answer for 32 s
MAX_NOTES = 1_000  # of one connection: keys, holds and the like, which a far end can make as many of as it likes
REDIAL_S = 5.0  # how long a relay without a leg is kept for the next way


@dataclass(frozen=True, slots=True)
class _SipPlan(DialPlan):
    way: Way
    invitation: Invitation
    """Without its body."""


class SipCarrier:
    """Calls through SIP trunks; see `Carrier` for the contract."""

    def __init__(
        self,
        *,
        trunks: Sequence[Trunk],
        relay: MediaRelay,
        bind: tuple[str, int],
        advertised: tuple[str, int] | None = None,
        user_agent: str = "dosvoces",
        close_timeout_s: float = 2.0,
        hang_up_silent: bool = False,
        capture: bool = True,
        session: SessionTerms = DEFAULT_TERMS,
        dns: Dns | None = None,
        times: Times = USUAL,
        tcp: bool = False,
        tls: Tls | None = None,
        nat: Nat = NOTHING_LEARNED,
        media_host: str = "",
    ) -> None:
        """
        `close_timeout_s`: how long `close` waits for the far ends to confirm; the switchboard has waited before it.

        `hang_up_silent`: whether a leg whose silence the relay tells is ended as failed, or only noted. `capture`:
        whether the legs' messages are kept and given to the listener at the end. `session`: the session timer's
        intervals. `dns` is the system's unless given. `tcp`: whether peers may connect to `bind` by TCP, `tls`: how TLS
        is spoken. `nat`: how our public address is learned. `media_host`: where the relay takes audio, if known here.
        """
        barred = partial(why_cut_off, signalling=bind[0], media=media_host)
        self._trunks = Trunks(trunks, lambda most: random.randint(0, most), barred)
        self._upkeep = Upkeep(
            self._trunks,
            dns or Dns(),
            families=("AAAA",) if ":" in bind[0] else ("A",),
            on_public_address=lambda trunk, host, port: self._public.seen(trunk, host, port),
            times=times,
        )
        self._public = PublicSide(nat, changed=self._upkeep.renew)
        self._tcp = tcp
        self._tls = tls
        self._relay = relay
        self._bind = bind
        self._advertised = advertised
        self._user_agent = user_agent
        self._close_timeout_s = close_timeout_s
        self._hang_up_silent = hang_up_silent
        self._agent: Agent | None = None
        self._listener: Listener | None = None
        self._sessions: dict[ConnectionId, Session] = {}
        self._recorder = Recorder()
        self._capture = capture
        self._session_terms = session
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def agent(self) -> Agent:
        """The user agent under it, once started."""
        assert self._agent is not None, "start() comes first"
        return self._agent

    @property
    def open_sessions(self) -> int:
        """Connections that still hold a leg or a relay."""
        return len(self._sessions) + len(self._releases)

    async def start(self, listener: Listener) -> None:
        self._listener = listener
        if not self._trunks.lines:
            return  # Nobody to call: no port is taken for it.
        # A trunk that can't be found is down until it is; that is no reason not to start.
        await self._upkeep.look()
        try:
            self._agent = await Agent.open(
                bind=self._bind,
                advertised=self._advertised,
                tcp=self._tcp,
                tls=self._tls,
                user_agent=self._user_agent,
                peers=self._upkeep.hosts(),
                tap=self._tap if self._capture or crashpoints.armed() else None,
                session=self._session_terms,
            )
        except TlsError as error:
            raise CarrierError(f"{error}; see tls_ca_file, tls_certificate_file and tls_key_file in [sip]") from error
        except OSError as error:
            host, port = self._bind
            where, change = f"{host}:{port}", "sip.bind"
            if self._tls is not None and self._tls.listen:
                where, change = f"{where} and TLS port {self._tls.port}", "sip.bind, sip.tls_port"
            raise CarrierError(
                f"can't listen for SIP on {where}: {error.strerror or error}; change {change} or free the port"
            ) from error
        try:
            await self._relay.start(self._media_happened)
        except MediaError as error:
            raise CarrierError(str(error)) from error
        await self._public.start(self._agent)
        await self._upkeep.start(self._agent)

    def prepare(self, call: Call) -> DialPlan:
        if call.test:
            raise CarrierError("a trial run is never dialled by a trunk", permanent=True)
        way = self._trunks.way(call.number, self._now(), call.avoid, call.caller_id)
        trunk = way.trunk
        number = trunk.callers.number(call.side, call.caller_id)
        shown = trunk.callers.shown(number, trunk.uri(number or trunk.username or "anonymous"))
        invitation = Invitation(
            request_uri=trunk.uri(call.number.e164),
            to_uri=trunk.uri(call.number.e164),
            from_uri=shown.from_uri,
            from_name=shown.from_name,
            headers=shown.headers,
            destination=way.hop,
            # RFC 3261 §8.1.1.4: unique for ever, so the leg's id is not enough for a second attempt.
            call_id=f"{call.id}-{secrets.token_hex(6)}",
            body=b"",  # the session is described once there are ports for it
            credentials=way.line.credentials,
            silence_limit_s=call.silence_limit_s,
            ack_patience_s=ACK_PATIENCE_S,
        )
        invitation, facts = self.agent.plan(invitation)
        return _SipPlan(call, trunk.name, dial_facts(facts, trunk.name), way, invitation)

    async def dial(self, plan: DialPlan) -> None:
        assert isinstance(plan, _SipPlan), "a plan of this driver"
        call, way = plan.call, plan.way
        trunk = way.trunk
        session = await self._session(call, trunk)
        if not call.may_leave():
            self._release_if_over(session)
            raise NotOurs(f"leg {call.id} may no longer be dialled here")
        way.circuit.take(self._now())
        leg = SipLeg(self, session, call, *self._codecs(session, call.side, trunk), way)
        session.legs[call.side] = leg
        try:
            leg.call = self.agent.invite(replace(plan.invitation, body=leg.first_offer()), leg)
        except SipTransportError as error:
            del session.legs[call.side]
            way.circuit.failed(self._now(), str(error))
            self._upkeep.nudge(way.line)
            another = self._trunks.another(call.number, self._now(), (*call.avoid, str(way)), call.caller_id)
            self._release_soon(session) if another else self._release_if_over(session)
            raise CarrierError(f"trunk {trunk.name}: {error}", way=str(way) if another else "") from error
        self.tell(call.connection_id, Dialed(call.side, str(way)))

    def hangup(self, leg: LegId) -> None:
        if (known := self._leg(leg)) is not None and known.call is not None:
            known.hang_up(NORMAL_CLEARING)

    async def take_back(self, leftover: Leftover) -> Released:
        if self._agent is None:
            return Released.UNCONFIRMED
        return await take_back(self._agent, leftover, self._line_of)

    def play_ringing(self, leg: LegId) -> None:
        if (known := self._leg(leg)) is not None:
            self._relay.play_ringing(known.session.connection_id, known.side)

    def play_warning(self, leg: LegId) -> None:
        if (known := self._leg(leg)) is not None:
            self._relay.play_warning(known.session.connection_id, known.side)

    async def join(self, connection_id: ConnectionId) -> None:
        session = self._sessions.get(connection_id)
        if session is None or not all(side in session.legs and session.legs[side].answered for side in Side):
            raise CarrierError(f"not both legs of {connection_id} are answered")
        try:
            await self._relay.join(connection_id)
        except MediaError as error:
            raise CarrierError(f"the media could not be joined: {error}") from error

    def problems(self, *numbers: PhoneNumber) -> list[str]:
        problems = self._trunks.problems(numbers, self._now())
        # Without a trunk nothing was started, and that is said already.
        return [*problems, *self._relay.problems()] if self._agent is not None else problems

    def trunks(self, number: PhoneNumber) -> list[str]:
        return self._trunks.names(number)

    def capacity(self) -> int:
        # Without a trunk nothing was started, and that is a problem of its own, not want of room.
        return self._relay.capacity() if self._agent is not None else sys.maxsize

    def check_caller_id(self, number: PhoneNumber, caller_id: str) -> None:
        self._trunks.check_caller_id(number, caller_id)

    def warnings(self) -> list[str]:
        return [*self._trunks.warnings(self._now()), *self._public.warnings()]

    async def close(self) -> None:
        await self._upkeep.close()
        if self._agent is not None:
            await self._agent.close(self._close_timeout_s)
        # A far end that said nothing can't be sent a CANCEL (RFC 3261 §9.1), and nobody will hear what it says now.
        for leg in [leg for session in self._sessions.values() for leg in session.legs.values()]:
            unconfirmed = "the far end didn't confirm the hang-up before the shutdown"
            self.leg_over(leg, Ended(leg.side, EndReason.FAILED, unconfirmed))
        for session in list(self._sessions.values()):
            self._release_if_over(session)
        if self._releases:
            await asyncio.wait(self._releases)
        await self._relay.close()

    # --- for the legs ---

    @property
    def relay(self) -> MediaRelay:
        return self._relay

    def tell(self, connection_id: ConnectionId, event: Event) -> None:
        assert self._listener is not None
        self._listener.happened(connection_id, event)

    def note(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        assert self._listener is not None
        session = self._sessions.get(connection_id)
        if kept is None and session is not None:
            session.notes += 1
            if session.notes > MAX_NOTES:
                if session.notes == MAX_NOTES + 1:
                    log.warning("no more notes are taken of a connection", connection=connection_id, last=note.kind)
                return
        self._listener.noted(connection_id, note, kept)

    def leg_over(self, leg: SipLeg, event: Ended | Unreached) -> None:
        """The leg ended: forget it, tell, and give the relay back when it was the last."""
        session = leg.session
        if session.legs.get(leg.side) is leg:
            del session.legs[leg.side]
        if isinstance(event, Unreached):
            self._release_soon(session)
        else:
            self._release_if_over(session)
        self.tell(session.connection_id, event)

    def end_of(self, leg: SipLeg, end: CallEnd) -> Ended | Unreached:
        """The event that a call's end is; `Unreached` if nobody was rung and another way is left."""
        answered, why = leg.chosen is not None, self.agent.why_unreachable(leg.way.hop)
        detail = f"{detail_of(end)}; {why}" if why and end.cause is EndCause.TRANSPORT else detail_of(end)
        if not answered and self._another_way(leg, end, why):
            return Unreached(leg.side, str(leg.way), detail)
        return Ended(leg.side, reason_of(end, answered=answered), detail)

    def _another_way(self, leg: SipLeg, end: CallEnd, why: str) -> bool:
        """Let the dial's way learn from its end; whether nobody was rung and the number can be tried otherwise."""
        way, now = leg.way, self._now()
        learn(way.circuit, end, now, why)
        if not way.circuit.closed or way.circuit.suspect:
            self._upkeep.nudge(way.line)
        avoid = (*leg.dialed.avoid, str(way))
        return reached_nobody(end) and self._trunks.another(leg.dialed.number, now, avoid, leg.dialed.caller_id)

    # --- its own ---

    def _line_of(self, trunk: str, hop: Hop) -> Line | None:
        return self._trunks.named(trunk) or self._trunks.at(hop.host, hop.port, self._now())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _session(self, call: Call, trunk: Trunk) -> Session:
        session = self._sessions.get(call.connection_id)
        if session is None:
            try:
                addresses = await self._relay.allocate(call.connection_id, country=trunk.country)
            except MediaError as error:
                raise CarrierError(f"no media for the call: {error}") from error
            session = self._sessions[call.connection_id] = Session(call.connection_id, self._public.media(addresses))
            if self._capture:
                self._recorder.begin(call.connection_id)
        return session

    def _codecs(self, session: Session, side: Side, trunk: Trunk) -> tuple[Sequence[sdp.Codec], Sequence[sdp.Codec]]:
        """What the leg is offered first, and what it may change to later. Raises `CarrierError`."""
        first = session.legs.get(Side.A)
        if side is Side.A or first is None or first.chosen is None:
            return sip_codecs.first_offer(trunk.codecs), trunk.codecs
        offered = sip_codecs.second_offer(first.chosen, first.codecs, trunk.codecs)
        if not offered:
            raise CarrierError(f"no common codec: trunk {trunk.name} has none of {sip_codecs.names(first.codecs)}")
        return offered, trunk.codecs

    def _leg(self, wanted: LegId) -> SipLeg | None:
        connection, _, side = wanted.rpartition("-")
        session = self._sessions.get(ConnectionId(connection))
        return session.legs.get(Side(side)) if session is not None and side in ("a", "b") else None

    def _release_soon(self, session: Session) -> None:
        """Most likely the leg is dialled again at once by another way, with the same relay."""
        asyncio.get_running_loop().call_later(REDIAL_S, self._release_if_over, session)

    def _release_if_over(self, session: Session) -> None:
        if session.legs:
            return
        if self._sessions.get(session.connection_id) is session:
            del self._sessions[session.connection_id]
            task = asyncio.get_running_loop().create_task(self._release(session))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release(self, session: Session) -> None:
        known = await self._relay.release(session.connection_id)
        # Of media that were lost the relay knows at most what came after: no figures are truer than those.
        for side, statistics in () if session.lost else known.items():
            self.note(session.connection_id, _statistics_note(side, statistics))
        # By now the last answers have left too; a second attempt goes on with the same recording.
        if session.connection_id not in self._sessions and (packed := self._recorder.end(session.connection_id)):
            assert self._listener is not None
            self._listener.captured(session.connection_id, packed)

    def _tap(self, ours: bool, data: bytes, peer: Hop) -> None:
        assert self._agent is not None, "it taps its own agent"
        if crashpoints.armed():
            watch(ours, data)
        here = self._agent.advertised
        self._recorder.add(Captured(time.time_ns() // 1000, ours, peer.transport, here, peer[:2], data))

    def _media_happened(self, event: RelayEvent) -> None:
        match event:
            case Digit(connection_id=connection_id, side=side, digit=digit, duration_ms=duration_ms):
                self.note(connection_id, Note("digit", side, {"digit": digit, "duration_ms": duration_ms}))
            case Heard(connection_id=connection_id, side=side, source=source):
                self.note(connection_id, Note("media_source", side, {"host": source.host, "port": source.port}))
            case Silent(connection_id=connection_id, side=side, for_s=for_s):
                self.note(connection_id, Note("silent", side, {"for_s": for_s}))
                session = self._sessions.get(connection_id)
                if self._hang_up_silent and session is not None and (leg := session.legs.get(side)) is not None:
                    leg.fail(f"no audio for {for_s:.0f} s")
            case Headers(connection_id=connection_id, headers=headers):
                for h in headers:
                    here, peer = (h.here.host, h.here.port), (h.peer.host, h.peer.port)
                    head = Captured(h.at_us, h.ours, "rtp", here, peer, h.header, h.size)
                    self._recorder.add_rtp(connection_id, head)
            case Lost(connection_id=connection_id, why=why):
                session = self._sessions.get(connection_id)
                if session is not None and not session.lost:
                    session.lost = True
                    self.tell(connection_id, Unjoined(why))


def _statistics_note(side: Side, statistics: Statistics) -> Note:
    facts: dict[str, str | int | float | None] = {
        "received": statistics.packets_received,
        "sent": statistics.packets_sent,
        "lost": statistics.packets_lost,
        "jitter_ms": round(statistics.jitter_ms, 2),
        "refused": statistics.packets_refused,
        "round_trip_ms": statistics.round_trip_ms,
        "lost_there": statistics.lost_there,
        "jitter_there_ms": statistics.jitter_there_ms,
        "mos": statistics.mos,
        "mos_there": statistics.mos_there,
    }
    return Note("statistics", side, {name: value for name, value in facts.items() if value is not None})
