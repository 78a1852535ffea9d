"""
One leg of the SIP driver: what the agent says of a call, as session descriptions, media and the carrier's events.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dosvoces.carriers import Call
from dosvoces.events import Answered, Ended, Event, Ringing
from dosvoces.media import Address, Format, MediaRelay
from dosvoces.model import ConnectionId, EndReason, Note, Side
from dosvoces.sip import sdp
from dosvoces.sip.agent import OutgoingCall
from dosvoces.sip.api import CallEnd, CallHandler, DialogFacts, EndCause


@dataclass(slots=True, eq=False)
class Session:
    """What the two legs of a connection share: their relay and their codec."""

    connection_id: ConnectionId
    addresses: dict[Side, Address]
    legs: "dict[Side, SipLeg]" = field(default_factory=dict)
    lost: bool = False


class Desk(Protocol):
    """What a leg needs of its carrier."""

    @property
    def relay(self) -> MediaRelay:
        """Who moves the audio."""

    def tell(self, connection_id: ConnectionId, event: Event) -> None:
        """Pass an event on."""

    def note(self, connection_id: ConnectionId, note: Note) -> None:
        """Pass a note on."""

    def leg_over(self, leg: "SipLeg", event: Ended) -> None:
        """The leg ended: forget it, then pass its end on."""


class SipLeg(CallHandler):
    """One call: hears from the agent, tells the carrier's listener."""

    __slots__ = (
        "_codecs",
        "_failure",
        "_session_id",
        "call",
        "carrier",
        "chosen",
        "dialed",
        "held",
        "local_sdp",
        "session",
        "side",
    )

    def __init__(self, carrier: Desk, session: Session, call: Call, codecs: Sequence[sdp.Codec]) -> None:
        self.carrier = carrier
        self.session = session
        self.dialed = call
        self.side = call.side
        self.call: OutgoingCall | None = None
        self.chosen: sdp.Chosen | None = None
        self.held = False
        self.local_sdp = b""
        self._codecs = codecs
        self._failure = ""
        self._session_id = secrets.randbits(62)

    @property
    def answered(self) -> bool:
        return self.chosen is not None

    def first_offer(self) -> bytes:
        self.local_sdp = self._offer(self._codecs)
        return self.local_sdp

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        # 183 is all that many gateways ever send. 181 and 182 say that nobody is being rung yet.
        if status in (180, 183):
            self._tell(Ringing(self.side))

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        try:
            self.chosen = sdp.choose(sdp.parse(body), self._codecs)
        except sdp.SdpError as error:
            # A call that nobody could hear is hung up at once and told as what it is.
            self.fail(f"no media: {error}")
            return
        self._connect_media(self.chosen)
        self.carrier.note(self.session.connection_id, Note("dialog", self.side, _dialog_facts(facts)))
        self._tell(Answered(self.side))

    def on_offer(self, body: bytes | None) -> bytes | None:
        if self.chosen is None:
            return None
        if body is None:
            fresh = self._offer(sdp.pass_through(self.chosen))
            self.local_sdp = sdp.with_version(fresh, self.local_sdp)
            return self.local_sdp
        here = self.session.addresses[self.side]
        try:
            answer = sdp.answer_to(
                sdp.parse(body),
                here.host,
                here.port,
                self._codecs,
                session_id=self._session_id,
                previous=self.local_sdp,
                in_use=self.chosen.codec,
            )
        except sdp.SdpError as error:
            self._note("offer_refused", {"why": str(error)})
            return None
        self.local_sdp = answer.body
        self._change_media(answer.chosen)
        return answer.body

    def on_answer_to_offer(self, body: bytes) -> None:
        try:
            self._change_media(sdp.choose(sdp.parse(body), self._codecs))
        except sdp.SdpError as error:
            # RFC 3264 §8: a failed exchange leaves the session as it was.
            self._note("answer_refused", {"why": str(error)})

    def on_info(self, content_type: str, body: bytes) -> None:
        if content_type.partition(";")[0].strip().lower() == "application/dtmf-relay":
            signal = body.partition(b"Signal=")[2].strip()[:1].decode("ascii", "replace")
            self._note("digit", {"digit": signal, "by": "INFO"})

    def on_ended(self, end: CallEnd) -> None:
        if self._failure:
            event = Ended(self.side, EndReason.FAILED, self._failure)
        else:
            event = Ended(self.side, _reason(end), _detail(end))
        self.carrier.leg_over(self, event)

    def _offer(self, codecs: Sequence[sdp.Codec]) -> bytes:
        here = self.session.addresses[self.side]
        return sdp.offer(here.host, here.port, codecs, session_id=self._session_id)

    def _change_media(self, chosen: sdp.Chosen) -> None:
        if chosen.held != self.held:
            self.held = chosen.held
            self._note("hold" if chosen.held else "resume", {})
        self.chosen = chosen
        self._connect_media(chosen)

    def _connect_media(self, chosen: sdp.Chosen) -> None:
        remote = None if chosen.held else Address(chosen.host, chosen.port)
        codec = chosen.codec
        agreed = Format(
            name=codec.name,
            payload_type=codec.payload_type,
            clock_rate=codec.clock_rate,
            dtmf_payload_type=chosen.dtmf_payload_type,
            packet_ms=chosen.packet_ms,
        )
        self.carrier.relay.connect(
            self.session.connection_id, self.side, remote, agreed, sends=chosen.direction.receives
        )

    def fail(self, why: str) -> None:
        """Hang up because of `why`: the leg ends as failed, and that is its detail."""
        self._failure = self._failure or why
        if self.call is not None:
            self.call.hangup()

    def _tell(self, event: Event) -> None:
        self.carrier.tell(self.session.connection_id, event)

    def _note(self, kind: str, facts: dict[str, str | int | float | None]) -> None:
        self.carrier.note(self.session.connection_id, Note(kind, self.side, facts))


_REASONS: dict[int, EndReason] = {
    486: EndReason.BUSY,  # Busy Here
    600: EndReason.BUSY,  # Busy Everywhere
    408: EndReason.NO_ANSWER,  # Request Timeout
    480: EndReason.NO_ANSWER,  # Temporarily Unavailable
    403: EndReason.REJECTED,  # Forbidden: what a decline becomes behind some PBXs
    603: EndReason.REJECTED,  # Decline
    404: EndReason.UNREACHABLE,  # Not Found
    410: EndReason.UNREACHABLE,  # Gone
    484: EndReason.UNREACHABLE,  # Address Incomplete
    604: EndReason.UNREACHABLE,  # Does Not Exist Anywhere
}
_CAUSES: dict[EndCause, EndReason] = {
    EndCause.HANGUP: EndReason.HANGUP,
    EndCause.CANCELLED: EndReason.CANCELLED,
    EndCause.TIMEOUT: EndReason.UNREACHABLE,
    EndCause.TRANSPORT: EndReason.UNREACHABLE,
    EndCause.PROTOCOL: EndReason.FAILED,
}


def _reason(end: CallEnd) -> EndReason:
    if end.cause is EndCause.REJECTED and end.status is not None:
        return _REASONS.get(end.status, EndReason.FAILED)
    return _CAUSES.get(end.cause, EndReason.FAILED)


def _detail(end: CallEnd) -> str:
    """The carrier's own words: `486 Busy Here; Q.850;cause=17`."""
    status = f"{end.status} {end.phrase}".strip() if end.status is not None else end.phrase
    return "; ".join(part for part in (status, end.detail) if part)


def _dialog_facts(facts: DialogFacts) -> dict[str, str | int | float | None]:
    return {
        "call_id": facts.call_id,
        "local": facts.local,
        "remote": facts.remote,
        "local_tag": facts.local_tag,
        "remote_tag": facts.remote_tag,
        "invite_cseq": facts.invite_cseq,
        "local_cseq": facts.local_cseq,
        "remote_target": facts.remote_target,
        "route_set": "\n".join(facts.route_set),
        "destination": f"{facts.destination[0]} {facts.destination[1]}",
    }


def facts_of(dialog: Note) -> DialogFacts:
    """What a `dialog` note of ours says. Raises `KeyError` or `ValueError` if it isn't one."""
    facts = dialog.facts
    host, port = str(facts["destination"]).rsplit(" ", 1)
    return DialogFacts(
        call_id=str(facts["call_id"]),
        local=str(facts["local"]),
        remote=str(facts["remote"]),
        local_tag=str(facts["local_tag"]),
        remote_tag=str(facts["remote_tag"]),
        invite_cseq=int(facts["invite_cseq"] or 0),
        local_cseq=int(facts["local_cseq"] or 0),
        remote_target=str(facts["remote_target"]),
        route_set=tuple(str(facts["route_set"]).splitlines()),
        destination=(host, int(port)),
    )
