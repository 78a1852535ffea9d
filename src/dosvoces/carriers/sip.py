"""
The SIP driver: places calls through trunks with our own agent, moves their audio with a `MediaRelay`.

Makes and reads the session descriptions; knows no rule of a connection but that B is offered what A speaks.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from dosvoces.capture.recorder import Recorder
from dosvoces.carriers import Call, Listener, sip_codecs
from dosvoces.carriers.sip_leg import Session, SipLeg, facts_of
from dosvoces.errors import CarrierError, MediaError
from dosvoces.events import Dialed, Ended, Event, Unjoined
from dosvoces.media import Digit, Heard, Lost, MediaRelay, RelayEvent, Silent, Statistics
from dosvoces.model import ConnectionId, EndReason, LegId, Note, PhoneNumber, Side
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, SipTransportError
from dosvoces.sip.api import Hop, Invitation
from dosvoces.sip.digest import Credentials

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Trunk:
    """A configured account at a carrier that speaks SIP."""

    name: str
    host: str
    """The proxy, as configured: it stands in the URIs."""
    port: int
    caller_id: str = ""
    """E.164; shown to both parties."""
    username: str = ""
    password: str = field(default="", repr=False)
    country: str = "ES"
    prefixes: tuple[str, ...] = ("+",)
    """Of the numbers that go through this trunk, in E.164."""
    codecs: tuple[sdp.Codec, ...] = sip_codecs.DEFAULT
    """In the order of preference; G.711 is among them."""
    srtp: sdp.Security = sdp.Security.OFF
    """Whether its media are encrypted."""

    @property
    def credentials(self) -> Credentials | None:
        return Credentials(self.username, self.password) if self.username else None

    @property
    def domain(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 5060 else f"{host}:{self.port}"

    def uri(self, user: str) -> str:
        return f"sip:{user}@{self.domain}"


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
    ) -> None:
        """
        `close_timeout_s`: how long `close` waits for the far ends to confirm; the switchboard has waited before it.

        `hang_up_silent`: whether a leg whose silence the relay tells is ended as failed, or only noted. `capture`:
        whether the legs' messages are kept and given to the listener at the end.
        """
        self._trunks = trunks
        self._relay = relay
        self._bind = bind
        self._advertised = advertised
        self._user_agent = user_agent
        self._close_timeout_s = close_timeout_s
        self._hang_up_silent = hang_up_silent
        self._agent: Agent | None = None
        self._listener: Listener | None = None
        self._destinations: dict[str, tuple[str, int]] = {}
        self._sessions: dict[ConnectionId, Session] = {}
        self._recorder = Recorder()
        self._capture = capture
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
        if not self._trunks:
            return  # Nobody to call: no port is taken for it.
        for trunk in self._trunks:
            self._destinations[trunk.name] = await _resolve(trunk)
        try:
            self._agent = await Agent.open(
                bind=self._bind,
                advertised=self._advertised,
                user_agent=self._user_agent,
                peers=[host for host, _port in self._destinations.values()],
                tap=self._tap if self._capture else None,
            )
        except OSError as error:
            host, port = self._bind
            raise CarrierError(
                f"can't listen for SIP on {host}:{port}: {error.strerror or error}; change sip.bind or free the port"
            ) from error
        try:
            await self._relay.start(self._media_happened)
        except MediaError as error:
            raise CarrierError(str(error)) from error

    async def dial(self, call: Call) -> None:
        trunk = self._route(call.number)
        session = await self._session(call, trunk)
        leg = SipLeg(self, session, call, *self._codecs(session, call.side, trunk), trunk.srtp)
        invitation = Invitation(
            request_uri=trunk.uri(call.number.e164),
            to_uri=trunk.uri(call.number.e164),
            from_uri=trunk.uri(trunk.caller_id or trunk.username or "anonymous"),
            destination=self._destinations[trunk.name],
            # RFC 3261 §8.1.1.4: unique for ever, so the leg's id is not enough for a second attempt.
            call_id=f"{call.id}-{secrets.token_hex(6)}",
            body=leg.first_offer(),
            credentials=trunk.credentials,
        )
        session.legs[call.side] = leg
        try:
            leg.call = self.agent.invite(invitation, leg)
        except SipTransportError as error:
            del session.legs[call.side]
            self._release_if_over(session)
            raise CarrierError(f"trunk {trunk.name}: {error}") from error
        self.tell(call.connection_id, Dialed(call.side))

    def hangup(self, leg: LegId) -> None:
        if (known := self._leg(leg)) is not None and known.call is not None:
            known.call.hangup()

    def hangup_leftover(self, connection_id: ConnectionId, dialog: Note) -> None:
        try:
            facts = facts_of(dialog)
        except (KeyError, ValueError):
            log.warning("a leg of the last process can't be hung up", connection=connection_id, side=dialog.side)
            return
        if self._agent is not None:
            known = (trunk for trunk in self._trunks if self._destinations[trunk.name] == facts.destination)
            trunk = next(known, None)
            self._agent.hang_up_orphan(facts, trunk.credentials if trunk is not None else None)

    def play_ringing(self, leg: LegId) -> None:
        if (known := self._leg(leg)) is not None:
            self._relay.play_ringing(known.session.connection_id, known.side)

    async def join(self, connection_id: ConnectionId) -> None:
        session = self._sessions.get(connection_id)
        if session is None or not all(side in session.legs and session.legs[side].answered for side in Side):
            raise CarrierError(f"not both legs of {connection_id} are answered")
        try:
            await self._relay.join(connection_id)
        except MediaError as error:
            raise CarrierError(f"the media could not be joined: {error}") from error

    def problems(self, *numbers: PhoneNumber) -> list[str]:
        return [] if self._trunks else ["no trunk is configured: add [[trunks]] to dosvoces.toml"]

    def warnings(self) -> list[str]:
        return []

    async def close(self) -> None:
        if self._agent is not None:
            await self._agent.close(self._close_timeout_s)
        # A far end that said nothing can't be sent a CANCEL (RFC 3261 §9.1), and nobody will hear what it says now.
        for leg in [leg for session in self._sessions.values() for leg in session.legs.values()]:
            unconfirmed = "the far end didn't confirm the hang-up before the shutdown"
            self.leg_over(leg, Ended(leg.side, EndReason.FAILED, unconfirmed))
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

    def note(self, connection_id: ConnectionId, note: Note) -> None:
        assert self._listener is not None
        self._listener.noted(connection_id, note)

    def leg_over(self, leg: SipLeg, event: Ended) -> None:
        """The leg ended: forget it, tell, and give the relay back when it was the last."""
        session = leg.session
        if session.legs.get(leg.side) is leg:
            del session.legs[leg.side]
        self._release_if_over(session)
        self.tell(session.connection_id, event)

    # --- its own ---

    def _route(self, number: PhoneNumber) -> Trunk:
        """The first trunk, in the order of the settings, that takes this number."""
        for trunk in self._trunks:
            if number.e164.startswith(trunk.prefixes):
                return trunk
        raise CarrierError(f"no trunk takes {number.masked}: see the trunks' prefixes", permanent=True)

    async def _session(self, call: Call, trunk: Trunk) -> Session:
        session = self._sessions.get(call.connection_id)
        if session is None:
            try:
                addresses = await self._relay.allocate(call.connection_id, country=trunk.country)
            except MediaError as error:
                raise CarrierError(f"no media for the call: {error}") from error
            session = self._sessions[call.connection_id] = Session(call.connection_id, addresses)
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

    def _release_if_over(self, session: Session) -> None:
        if session.legs:
            return
        if self._sessions.pop(session.connection_id, None) is not None:
            task = asyncio.get_running_loop().create_task(self._release(session))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release(self, session: Session) -> None:
        for side, statistics in (await self._relay.release(session.connection_id)).items():
            self.note(session.connection_id, _statistics_note(side, statistics))
        # By now the last answers have left too; a second attempt goes on with the same recording.
        if session.connection_id not in self._sessions and (packed := self._recorder.end(session.connection_id)):
            assert self._listener is not None
            self._listener.captured(session.connection_id, packed)

    def _tap(self, ours: bool, data: bytes, peer: Hop) -> None:
        self._recorder.add(
            at_us=time.time_ns() // 1000,
            ours=ours,
            transport=peer.transport,
            here=self.agent.advertised,
            peer=(peer.host, peer.port),
            data=data,
        )

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


async def _resolve(trunk: Trunk) -> tuple[str, int]:
    """The trunk's address, looked up once at start; the whole of RFC 3263 comes with more than one address."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(trunk.host, trunk.port, type=2, proto=17)
    except OSError as error:
        raise CarrierError(f"trunk {trunk.name}: {trunk.host} has no address: {error.strerror or error}") from error
    host, port = found[0][4][:2]
    return str(host), int(port)
