"""
One leg of the SIP driver: what the agent says of a call, as session descriptions, media and the carrier's events.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dosvoces.carriers import Call, sip_codecs, sip_keys
from dosvoces.carriers.end_reasons import TEMPORARY_FAILURE, why_withheld
from dosvoces.carriers.sip_facts import dialog_facts
from dosvoces.carriers.trunks import Way
from dosvoces.crashpoints import reached
from dosvoces.errors import MediaError
from dosvoces.events import Answered, Ended, Event, Ringing, Unreached
from dosvoces.media import Address, MediaRelay, Srtp
from dosvoces.model import ConnectionId, EndReason, Note, Side
from dosvoces.sip import sdp
from dosvoces.sip.agent import OutgoingCall
from dosvoces.sip.api import CallEnd, CallHandler, CallStateError, DialogFacts, Later
from dosvoces.sip.description import is_unspecified

log = structlog.get_logger(__name__)

REOFFER_PAUSE_S = 0.3  # before an offer is tried again that met one of the peer's
REOFFER_TRIES = 10

Agreed = Callable[[bool], None]
"""Told whether the peer took what it was offered."""


@dataclass(slots=True, eq=False)
class Session:
    """What the two legs of a connection share: their relay and their codec."""

    connection_id: ConnectionId
    addresses: dict[Side, Address]
    legs: "dict[Side, SipLeg]" = field(default_factory=dict)
    lost: bool = False
    notes: int = 0
    """Taken so far."""


class Desk(Protocol):
    """What a leg needs of its carrier."""

    @property
    def relay(self) -> MediaRelay:
        """Who moves the audio."""

    def tell(self, connection_id: ConnectionId, event: Event) -> None:
        """Pass an event on."""

    def note(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        """Pass a note on; `kept` is called once it is on disk."""

    def leg_over(self, leg: "SipLeg", event: Ended | Unreached) -> None:
        """The leg ended: forget it, then pass its end on."""

    def end_of(self, leg: "SipLeg", end: CallEnd) -> Ended | Unreached:
        """The event that a call's end is; `Unreached` if nobody was rung and another way is left."""


class SipLeg(CallHandler):
    """One call: hears from the agent, tells the carrier's listener."""

    __slots__ = (
        "_crypto",
        "_described",
        "_failure",
        "_offered",
        "_rings",
        "_session_id",
        "answered",
        "call",
        "carrier",
        "chosen",
        "codecs",
        "dialed",
        "held",
        "local_sdp",
        "security",
        "session",
        "side",
        "way",
    )

    def __init__(
        self,
        carrier: Desk,
        session: Session,
        call: Call,
        offered: Sequence[sdp.Codec],
        codecs: Sequence[sdp.Codec],
        way: Way,
    ) -> None:
        """`offered`: what it is offered when dialled; `codecs`: what it may change to later."""
        self.carrier = carrier
        self.session = session
        self.dialed = call
        self.side = call.side
        self.way = way
        self.call: OutgoingCall | None = None
        self.answered = False
        """Whether that was told: the call is up, in a codec that the other leg has too."""
        self.chosen: sdp.Chosen | None = None
        self.codecs = codecs
        self.held = False
        self.local_sdp = b""
        self.security = way.trunk.srtp
        self._crypto = sip_keys.fresh(self.security)
        self._offered = offered
        self._described = offered
        """What the description of ours that holds names, by our numbers."""
        self._rings = False
        """Whether that was told."""
        self._failure = ""
        self._session_id = secrets.randbits(62)

    def first_offer(self) -> bytes:
        self.local_sdp = self._offer(self._offered)
        return self.local_sdp

    def on_progress(self, status: int, phrase: str, body: bytes) -> None:
        self.way.circuit.answered()
        # 183 is all that many gateways ever send. 181 and 182 say that nobody is being rung yet. Once is enough: what a
        # far end repeats, each minute (RFC 3261 §13.3.1.1) or a thousand times a second, would all be journalled.
        if status in (180, 183) and not self._rings:
            self._rings = True
            self._tell(Ringing(self.side))

    def on_answer(self, body: bytes, facts: DialogFacts) -> None:
        self.way.circuit.answered()
        try:
            self.chosen = self._choose(body, self._offered)
        except sdp.SdpError as error:
            # A call that nobody could hear is hung up at once and told as what it is.
            self.fail(f"no media: {error}")
            return
        if is_unspecified(self.chosen.host):
            # In a re-INVITE that is a hold (RFC 3264 §8.4); whoever answers with it can't be heard by anybody.
            self.fail(f"no media: answered with the address {self.chosen.host}")
            return
        if self.security is not sdp.Security.OFF:
            self._note("encryption", {"suite": _suite(self.chosen)})
        note = Note("dialog", self.side, dialog_facts(facts, self.way.trunk.name))
        self.carrier.note(self.session.connection_id, note, kept=self._confirm)
        other = self.session.legs.get(self.side.other)
        if other is None or other.chosen is None or other.chosen.codec.same_format(self.chosen.codec):
            self._ready()
        else:
            self._align(other, other.chosen.codec, self.chosen.codec)

    def _confirm(self) -> None:
        """From here on a later process could hang it up by its dialog; until here the far end repeats its answer."""
        if self.call is not None:
            self.call.confirm()
            if self.side is Side.A:
                reached("k14_first_up")

    def _ready(self) -> None:
        """It has a codec that the other leg has too: from here on it counts as answered."""
        assert self.chosen is not None
        if self.session.legs.get(self.side) is self and not self._failure:
            try:
                self._connect_media(self.chosen)
            except MediaError as error:
                self.fail(f"no media: {error}")
                return
            self.answered = True
            self._tell(Answered(self.side))

    # --- one codec for both legs ---

    def _align(self, other: "SipLeg", theirs: sdp.Codec, ours: sdp.Codec) -> None:
        """
        Give both legs one codec: the other one changes to what this one took, or else this one to what that one has.

        Until then this leg isn't told as answered, and the other one goes on hearing its ringing tone.
        """

        def other_asked(agreed: bool) -> None:
            if agreed:
                self._ready()
            elif any(codec.same_format(theirs) for codec in self._offered):
                self.reoffer(theirs, self_asked)
            else:
                self_asked(False)

        def self_asked(agreed: bool) -> None:
            if agreed:
                self._ready()
            else:
                self.fail(f"no common codec: one has {theirs.name} and refuses {ours.name}, which the other took")

        self._note("codec", {"name": ours.name, "other": theirs.name})
        other.reoffer(ours, other_asked)

    def reoffer(self, codec: sdp.Codec, done: Agreed, tries: int = REOFFER_TRIES) -> None:
        """
        Re-INVITE the peer with `codec` alone. `done` isn't called if the call ends first.

        Who accepts with an answer that can't be used has changed all the same, or switched its audio off. It is asked
        for the codec that it had; if that fails too it is hung up, as both would hear silence.
        """
        if self.call is None or self.call.over:
            return
        offered = sip_codecs.reoffer(codec)
        body = sdp.with_version(self._offer(offered), self.local_sdp)

        def answered(status: int | None, answer: bytes) -> None:
            if status is None or not 200 <= status < 300:
                done(False)
                return
            try:
                self._change_media(self._choose(answer, offered))
            except sdp.SdpError as error:
                self._restore(codec, f"no media: {error}", done)
            else:
                self._described = offered
                done(True)

        try:
            self.call.reinvite(body, answered)
        except CallStateError:
            if tries:
                asyncio.get_running_loop().call_later(REOFFER_PAUSE_S, self.reoffer, codec, done, tries - 1)
            else:
                done(False)
        else:
            self.local_sdp = body

    def _restore(self, asked: sdp.Codec, why: str, done: Agreed) -> None:
        assert self.chosen is not None
        before = self.chosen.codec
        if before.same_format(asked):
            self.fail(why)
        else:
            self.reoffer(before, lambda agreed: done(False) if agreed else self.fail(why))

    def _pass_on(self, other: "SipLeg", offer: sdp.SessionDescription, codec: sdp.Codec) -> None:
        """The peer can only do `codec` from now on: it gets its answer when the other leg has changed to it."""

        def other_asked(agreed: bool) -> None:
            if self.call is None or self.call.over:
                return
            if not self.call.offer_waits:
                if agreed:
                    self._change_back(other)
                return
            if not agreed:
                self._note("offer_refused", {"why": f"the other side can't change to {codec.name}"})
            self.call.answer_offer(self._answer_to(offer, [codec]) if agreed else None)

        self._note("codec", {"name": codec.name})
        other.reoffer(codec, other_asked)

    def _change_back(self, other: "SipLeg") -> None:
        """The peer cancelled the offer for which the other leg has changed; it goes on in the codec that it had."""
        assert self.chosen is not None
        codec = self.chosen.codec

        def other_asked(agreed: bool) -> None:
            if not agreed:
                self.fail(f"no common codec: the other side can't change back to {codec.name}")

        other.reoffer(codec, other_asked)

    # --- what the peer changes ---

    def on_offer(self, body: bytes | None) -> bytes | Later | None:
        if self.chosen is None:
            return self._early_answer(body)
        if not self.answered and self.session.legs.get(self.side.other) is not None:
            return None  # the two legs have no codec in common yet, and that is being settled
        if body is None:
            # The answer may come from another machine. The key in use holds until it does.
            self._crypto = sip_keys.fresh(self.security)
            self._described = sdp.pass_through(self.chosen)
            fresh = self._offer(self._described)
            self.local_sdp = sdp.with_version(fresh, self.local_sdp)
            return self.local_sdp
        try:
            offer = sdp.parse(body)
        except sdp.SdpError as error:
            self._note("offer_refused", {"why": str(error)})
            return None
        other = self.session.legs.get(self.side.other)
        if other is None or not other.answered:
            return self._answer_to(offer, self._offered)
        wanted = self._wanted(offer, other)
        if wanted is None:
            return self._answer_to(offer, [self.chosen.codec])
        if self._answer(offer, [wanted], self._crypto) is None:
            return None  # before the other one has changed for nothing
        return Later(lambda: self._pass_on(other, offer, wanted))

    def _early_answer(self, body: bytes | None) -> bytes | None:
        """
        The peer offers anew before it has answered (RFC 3311 §5.1); its media are connected with the answer.

        Not with keys: which of them would hold then is more than any trunk needs.
        """
        if body is None or self.security is not sdp.Security.OFF:
            return None
        here = self.session.addresses[self.side]
        try:
            answer = sdp.answer_to(
                *(sdp.parse(body), here.host, here.port, self._offered),
                session_id=self._session_id,
                previous=self.local_sdp,
            )
        except sdp.SdpError as error:
            self._note("offer_refused", {"why": str(error)})
            return None
        self.local_sdp = answer.body
        return answer.body

    def _wanted(self, offer: sdp.SessionDescription, other: "SipLeg") -> sdp.Codec | None:
        """What the peer asks both legs to change to: it no longer takes the codec in use, but another one of ours."""
        assert self.chosen is not None
        audio = sdp.audio_of(offer, self.security)
        theirs = audio.codecs if audio is not None else ()
        if any(codec.same_format(self.chosen.codec) for codec in theirs):
            return None
        ours = [codec for codec in self.codecs if any(codec.same_format(known) for known in other.codecs)]
        return next((codec for codec in theirs if any(codec.same_format(known) for known in ours)), None)

    def _answer_to(self, offer: sdp.SessionDescription, codecs: Sequence[sdp.Codec]) -> bytes | None:
        """Our answer, acted upon; `None` if there is nothing in common."""
        assert self.chosen is not None
        crypto = sip_keys.for_answer(self._crypto, self.chosen.keys, offer)
        answer = self._answer(offer, codecs, crypto)
        if answer is None:
            return None
        self.local_sdp, self._crypto = answer.body, crypto
        self._described = sdp.pass_through(answer.chosen)
        self._change_media(answer.chosen)
        return answer.body

    def _answer(
        self, offer: sdp.SessionDescription, codecs: Sequence[sdp.Codec], crypto: Sequence[sdp.Crypto]
    ) -> sdp.Answer | None:
        here = self.session.addresses[self.side]
        assert self.chosen is not None
        try:
            return sdp.answer_to(
                *(offer, here.host, here.port, codecs),
                session_id=self._session_id,
                previous=self.local_sdp,
                in_use=self.chosen.codec,
                security=self.security,
                crypto=crypto,
            )
        except sdp.SdpError as error:
            self._note("offer_refused", {"why": str(error)})
            return None

    def on_answer_to_offer(self, body: bytes) -> None:
        if self.chosen is None:
            return
        try:
            self._change_media(self._choose(body, self._described, self.chosen.codec))
        except sdp.SdpError as error:
            # RFC 3264 §8: a failed exchange leaves the session as it was.
            self._note("answer_refused", {"why": str(error)})

    def on_info(self, content_type: str, body: bytes) -> None:
        if content_type.partition(";")[0].strip().lower() == "application/dtmf-relay":
            signal = body.partition(b"Signal=")[2].strip()[:1].decode("ascii", "replace")
            self._note("digit", {"digit": signal, "by": "INFO"})

    def on_ended(self, end: CallEnd) -> None:
        if end.withheld is not None:
            why = why_withheld(end.withheld, self.way.trunk.name)
            log.warning("a leg may still be up at the trunk", leg=self.dialed.id, why=why)
            self._note("challenge_refused", {"why": why})
        failed = Ended(self.side, EndReason.FAILED, self._failure) if self._failure else None
        self.carrier.leg_over(self, failed or self.carrier.end_of(self, end))

    def _offer(self, codecs: Sequence[sdp.Codec]) -> bytes:
        here = self.session.addresses[self.side]
        return sdp.offer(
            *(here.host, here.port, codecs),
            session_id=self._session_id,
            security=self.security,
            crypto=self._crypto,
        )

    def _choose(self, answer: bytes, offered: Sequence[sdp.Codec], in_use: sdp.Codec | None = None) -> sdp.Chosen:
        return sdp.choose(
            sdp.parse(answer),
            offered,
            in_use=in_use,
            address=self.session.addresses[self.side].host,
            security=self.security,
            crypto=self._crypto,
        )

    def _change_media(self, chosen: sdp.Chosen) -> None:
        if chosen.held != self.held:
            self.held = chosen.held
            self._note("hold" if chosen.held else "resume", {})
        if self.chosen is not None:
            if _suite(self.chosen) != _suite(chosen):
                self._note("encryption", {"suite": _suite(chosen)})
            self._crypto = sip_keys.without_retired(self._crypto, self.chosen.keys, chosen.keys)
        self.chosen = chosen
        self._connect_media(chosen)

    def _connect_media(self, chosen: sdp.Chosen, *, stopped: bool = False) -> None:
        place = Address(chosen.host, chosen.port)
        # RFC 3264 §8.4: who holds may play, and from another machine than it spoke from.
        plays = chosen.held and chosen.direction.receives and not is_unspecified(chosen.host)
        agreed = sip_codecs.coding(chosen)
        keys = chosen.keys
        self.carrier.relay.connect(
            *(self.session.connection_id, self.side, None if chosen.held or stopped else place, agreed),
            plays_from=place if plays and not stopped else None,
            sends=chosen.direction.receives and not stopped,
            srtp=Srtp(keys.suite, keys.ours, keys.theirs) if keys is not None else None,
            rtcp_port=chosen.rtcp_port,
        )

    def fail(self, why: str) -> None:
        """Hang up because of `why`: the leg ends as failed, and that is its detail."""
        self._failure = self._failure or why
        self.hang_up(TEMPORARY_FAILURE)

    def hang_up(self, reason: str) -> None:
        """End the call and its audio: where the BYE is lost nobody talks on until it is given up."""
        if self.call is None:
            return
        if self.answered and self.chosen is not None:
            self._connect_media(self.chosen, stopped=True)
        self.call.hangup(reason)

    def _tell(self, event: Event) -> None:
        self.carrier.tell(self.session.connection_id, event)

    def _note(self, kind: str, facts: dict[str, str | int | float | None]) -> None:
        self.carrier.note(self.session.connection_id, Note(kind, self.side, facts))


def _suite(chosen: sdp.Chosen) -> str:
    return chosen.keys.suite if chosen.keys is not None else "none"
