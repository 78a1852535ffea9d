"""
One call at a trial phone: how it behaves, what it says and what it hears. The phone itself is in `phone`.

Knows the user agent's side of a call and RTP; opens one UDP socket from the answer to the end.
"""

import asyncio
import enum
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

from dosvoces.media import Srtp, rtp
from dosvoces.media.dtmf import KeyPress, KeyPresses
from dosvoces.media.phone_audio import FRAME_MS, Ear, Heard, Source, Window, dominant
from dosvoces.media.srtp import Shield
from dosvoces.sip import sdp
from dosvoces.sip.agent import IncomingCall
from dosvoces.sip.api import CallEnd, CallHandler, CallStateError

log = logging.getLogger(__name__)

BUSY = (486, "Busy Here")
DECLINE = (603, "Decline")
NOT_FOUND = (404, "Not Found")
NOT_ACCEPTABLE = (488, "Not Acceptable Here")
UNAVAILABLE = (503, "Service Unavailable")

FRAME_S = FRAME_MS / 1000
MAX_BEHIND_S = 0.2  # what is later than this (a suspended machine) is left out, not sent in a burst
MAX_PACKET = 2_048  # bytes; more is no voice
BATCH = 64  # packets read per wake-up
PORT_ATTEMPTS = 16  # to get an even port from the system


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneBehaviour:
    """What the phone does with a call."""

    ring_after_s: float = 0.0
    """Before it rings it says only that it is trying, so long."""
    answer_after_s: float | None = 1.0
    """It rings so long, then answers; `None`: it rings for ever."""
    reject: tuple[int, str] | None = None
    """Status and phrase of a refusal instead of an answer: `BUSY`, `DECLINE`, `NOT_FOUND` or others."""
    reject_after_s: float = 0.0
    """It rings so long before it refuses; 0: it refuses without ringing."""
    hangup_after_s: float | None = None
    """Since the answer; `None`: it never hangs up by itself."""
    tone_hz: int | None = None
    """What it plays; `None`: silence."""
    tone_dbm0: float = -15.0
    keys: str = ""
    """Pressed after the answer, if telephone-event was agreed."""
    keys_after_s: float = 0.5
    listen_hz: tuple[int, ...] = (425, 440, 1000)
    """The frequencies that it measures in what it hears."""
    window_ms: int = 100
    codecs: tuple[sdp.Codec, ...] = (sdp.PCMA, sdp.PCMU)
    """Those it takes; G.711 only, as it speaks nothing else."""
    srtp: bool = False
    """It encrypts where that is offered, and refuses nobody who doesn't."""

    def __post_init__(self) -> None:
        if any(codec.name not in ("PCMA", "PCMU") for codec in self.codecs):
            raise ValueError("a trial phone speaks PCMA and PCMU only")
        if any(key not in rtp.KEYS for key in self.keys):
            raise ValueError(f"{self.keys!r} holds what is no key; they are {rtp.KEYS}")


class PhoneEventKind(enum.StrEnum):
    RINGING = "ringing"
    ANSWERED = "answered"
    REJECTED = "rejected"
    HEARS = "hears"
    KEY = "key"
    HELD = "held"
    RESUMED = "resumed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class PhoneEvent:
    """Something happened at the phone."""

    call: "PhoneCall"
    kind: PhoneEventKind
    at_s: float
    """Since the call came in."""
    text: str
    """For people: `hears 440 Hz`, `ended by the other side`."""


class PhoneCall(CallHandler):
    """One call at the phone, from its INVITE to its end."""

    def __init__(
        self,
        incoming: IncomingCall,
        behaviour: PhoneBehaviour,
        *,
        media_bind: str,
        media_address: str,
        report: Callable[[PhoneEvent], None],
    ) -> None:
        """`begin` starts it. `media_bind` is where RTP listens, `media_address` what SDP says of it."""
        self.behaviour = behaviour
        self.answered = False
        self.held = False
        self.chosen: sdp.Chosen | None = None
        """What was agreed on, while there is something agreed."""
        self.end: CallEnd | None = None
        self._incoming = incoming
        self._rejected = False
        self._bind, self._address = media_bind, media_address
        self._report_to = report
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._answered_at = 0.0
        self._ended: asyncio.Future[CallEnd] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []
        self._offered: sdp.SessionDescription | None = None
        self._described: bytes | None = None  # our last SDP
        self._session_id = secrets.randbits(62)
        self._security = sdp.Security.OPTIONAL if behaviour.srtp else sdp.Security.OFF
        self._crypto = sdp.new_crypto(secrets.token_bytes) if behaviour.srtp else ()
        self._shield: Shield | None = None
        self._socket: socket.socket | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._source: Source | None = None
        self._ear = Ear(behaviour.listen_hz, window_ms=behaviour.window_ms)
        self._keys = KeyPresses()
        self._hears: int | None = None
        self._hears_next: int | None = None

    # -- for whoever watches -----------------------------------------------------------------------------------------

    @property
    def number(self) -> str:
        """The user part that was called."""
        return user_part(self._incoming.request_uri)

    @property
    def call_id(self) -> str:
        """The Call-ID that it came with."""
        return self._incoming.call_id

    @property
    def caller(self) -> str:
        """The user part of From."""
        return user_part(self._incoming.from_uri)

    @property
    def heard(self) -> Heard:
        """What was heard until now."""
        return self._ear.report()

    async def ended(self) -> CallEnd:
        """Wait for the end."""
        return await asyncio.shield(self._ended)

    def hang_up(self) -> None:
        """End the call, answered or not. Idempotent."""
        if self.end is None:
            if self.answered:
                self._incoming.hangup()
            else:
                self._reject(DECLINE)

    # -- ringing and answering ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Do with the call what the behaviour says."""
        behaviour = self.behaviour
        if self._incoming.offer:
            try:
                self._offered = sdp.parse(self._incoming.offer)
                self._answer_for(self._offered)
            except sdp.SdpError as error:
                log.info("refused an offer: %s", error)
                self._reject(NOT_ACCEPTABLE)
                return
        if behaviour.reject is not None and behaviour.reject_after_s <= 0:
            self._reject(behaviour.reject)
            return
        if behaviour.ring_after_s > 0:
            self._later(behaviour.ring_after_s, self._ring)
        else:
            self._ring()

    def _ring(self) -> None:
        behaviour = self.behaviour
        self._incoming.ring()
        self._report(PhoneEventKind.RINGING, "ringing")
        if behaviour.reject is not None:
            self._later(behaviour.reject_after_s, self._reject, behaviour.reject)
        elif behaviour.answer_after_s is not None:
            self._later(behaviour.answer_after_s, self._answer)

    def _reject(self, status: tuple[int, str]) -> None:
        if self.end is None and not self.answered and not self._rejected:
            self._rejected = True
            self._report(PhoneEventKind.REJECTED, f"refused with {status[0]} {status[1]}")
            self._incoming.reject(*status)

    def _answer(self) -> None:
        if self.end is not None or self.answered:
            return
        try:
            self._open_socket()
        except OSError as error:
            log.warning("no port for RTP: %s", error)
            self._reject(UNAVAILABLE)
            return
        # Without an offer in the INVITE ours goes into the 200 and the answer comes with the ACK (RFC 3261 §13.2.1).
        body = self._our_offer() if self._offered is None else self._our_answer(self._offered)
        self.answered = True
        self._answered_at = self._loop.time()
        self._incoming.answer(body)
        self._report(PhoneEventKind.ANSWERED, "answered")
        if self.behaviour.hangup_after_s is not None:
            self._later(self.behaviour.hangup_after_s, self.hang_up)
        if self.behaviour.keys:
            self._later(self.behaviour.keys_after_s, self._press)

    def _our_offer(self) -> bytes:
        offered = sdp.offer(
            *(self._address, self._port, (*self.behaviour.codecs, sdp.TELEPHONE_EVENT)),
            session_id=self._session_id,
            security=self._security,
            crypto=self._crypto,
        )
        self._described = sdp.with_version(offered, self._described)
        return self._described

    def _our_answer(self, offered: sdp.SessionDescription) -> bytes:
        answer = self._answer_for(offered)
        self._described = answer.body
        self._agree(answer.chosen)
        return answer.body

    def _answer_for(self, offered: sdp.SessionDescription) -> sdp.Answer:
        """Raises `SdpError` on an offer that can't be answered."""
        return sdp.answer_to(
            offered,
            self._address,
            self._port if self._socket is not None else 0,
            self.behaviour.codecs,
            session_id=self._session_id,
            previous=self._described,
            in_use=self.chosen.codec if self.chosen else None,
            security=self._security,
            crypto=self._crypto,
        )

    def _agree(self, chosen: sdp.Chosen) -> None:
        self.chosen = chosen
        keys = chosen.keys
        srtp = Srtp(keys.suite, keys.ours, keys.theirs) if keys is not None else None
        self._shield = Shield(srtp, before=self._shield) if srtp is not None else None
        if self._source is None:
            self._source = Source(
                chosen.codec.name,
                frequency_hz=self.behaviour.tone_hz,
                tone_dbm0=self.behaviour.tone_dbm0,
                ssrc=secrets.randbits(32),
                sequence=secrets.randbits(15),  # RFC 3550 §5.1; the upper half is left so that it doesn't wrap early
                timestamp=secrets.randbits(32),
            )
            self._due = self._loop.time()
            self._tick()
        else:
            self._source.speak(chosen.codec.name)
        if chosen.held != self.held:
            self.held = chosen.held
            kind = PhoneEventKind.HELD if chosen.held else PhoneEventKind.RESUMED
            self._report(kind, "held by the other side" if chosen.held else "resumed by the other side")

    # -- told by the user agent --------------------------------------------------------------------------------------

    def on_confirmed(self, body: bytes) -> None:
        if self._offered is None and self.chosen is None:
            self.on_answer_to_offer(body)

    def on_offer(self, body: bytes | None) -> bytes | None:
        if body is None:
            return self._our_offer()
        try:
            return self._our_answer(sdp.parse(body))
        except sdp.SdpError as error:
            log.info("refused a change: %s", error)
            return None

    def on_answer_to_offer(self, body: bytes) -> None:
        try:
            answered = sdp.parse(body)
            self._agree(sdp.choose(answered, self.behaviour.codecs, security=self._security, crypto=self._crypto))
        except sdp.SdpError as error:
            # RFC 3261 §13.2.2.4: an answer that can't be used ends the call.
            log.info("hung up: %s", error)
            self.hang_up()

    def on_ended(self, end: CallEnd) -> None:
        self.end = end
        for timer in self._timers:
            timer.cancel()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        for press in self._keys.flush():
            self._pressed(press)
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        by = "by the other side" if end.by == "remote" else "by this phone"
        self._report(PhoneEventKind.ENDED, f"ended {by}" if self.answered else f"over {by} before an answer")
        if not self._ended.done():
            self._ended.set_result(end)

    # -- sound -------------------------------------------------------------------------------------------------------

    @property
    def _port(self) -> int:
        assert self._socket is not None
        port: int = self._socket.getsockname()[1]
        return port

    def _open_socket(self) -> None:
        self._socket = even_socket(self._bind)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _press(self) -> None:
        if self._source is not None:
            self._source.press(self.behaviour.keys)

    def _tick(self) -> None:
        """Send 20 ms and come back in 20 ms, counted from the first packet."""
        source, chosen = self._source, self.chosen
        assert source is not None
        assert chosen is not None
        now = self._loop.time()
        while now - self._due > MAX_BEHIND_S:
            source.skip()
            self._due += FRAME_S
        if chosen.held or self._socket is None:
            source.skip()
        else:
            packet = source.packet(chosen.codec.payload_type, chosen.dtmf_payload_type)
            try:
                self._socket.sendto(
                    packet if self._shield is None else self._shield.seal(packet), (chosen.host, chosen.port)
                )
            except OSError:
                pass  # a full buffer, or nobody there any more: voice doesn't wait, and the call's end comes by SIP
        self._due += FRAME_S
        self._tick_timer = self._loop.call_at(self._due, self._tick)

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(BATCH):
            try:
                data: bytes | None = self._socket.recv(MAX_PACKET)
                if self._shield is not None and data is not None:
                    data = self._shield.open(data)
                packet = rtp.parse(data or b"")
            except BlockingIOError:
                return
            except (OSError, rtp.RtpError):
                continue  # an ICMP error of what was sent, or a stranger's bytes
            self._hear(packet)

    def _hear(self, packet: rtp.Packet) -> None:
        now_s = self._loop.time() - self._answered_at
        if self.chosen is not None and packet.payload_type == self.chosen.dtmf_payload_type:
            try:
                event = rtp.parse_event(packet.payload)
            except rtp.RtpError:
                return
            for press in self._keys.take(event, packet.timestamp, now_s):
                self._pressed(press)
        elif packet.payload_type in (sdp.PCMU.payload_type, sdp.PCMA.payload_type):
            codec = "PCMU" if packet.payload_type == sdp.PCMU.payload_type else "PCMA"
            for window in self._ear.take(codec, packet, now_s):
                self._note(window)

    def _note(self, window: Window) -> None:
        """Tell what is heard when it changes, and only once two windows agree."""
        tone = dominant(self.behaviour.listen_hz, window)
        if tone != self._hears and tone == self._hears_next:
            self._hears = tone
            self._report(PhoneEventKind.HEARS, "hears no tone any more" if tone is None else f"hears {tone} Hz")
        self._hears_next = tone

    def _pressed(self, press: KeyPress) -> None:
        self._ear.keys += press.key
        self._report(PhoneEventKind.KEY, f"hears the key {press.key}")

    def _later(self, delay_s: float, action: Callable[..., None], *arguments: object) -> None:
        self._timers.append(self._loop.call_later(delay_s, self._unless_ended, action, *arguments))

    def _unless_ended(self, action: Callable[..., None], *arguments: object) -> None:
        if self.end is None:
            try:
                action(*arguments)
            except CallStateError as error:
                log.info("too late: %s", error)  # the caller has cancelled in this very moment

    def _report(self, kind: PhoneEventKind, text: str) -> None:
        self._report_to(PhoneEvent(self, kind, self._loop.time() - self._began_at, text))


def user_part(uri: str) -> str:
    """`sip:+34600@host;x` → `+34600`; a URI without a user gives `""`."""
    user, at, _host = uri.partition(":")[2].partition("@")
    return user.partition(";")[0].partition(":")[0] if at else ""


def even_socket(host: str) -> socket.socket:
    """A UDP socket on an even port that the system chooses (RFC 3550 §11). Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    odd: list[socket.socket] = []  # held until the end, or the system gives the same port again
    try:
        for attempt in range(PORT_ATTEMPTS):
            made = socket.socket(family, socket.SOCK_DGRAM)
            try:
                made.setblocking(False)
                made.bind((host, 0))
            except OSError:
                made.close()
                raise
            if made.getsockname()[1] % 2 == 0 or attempt == PORT_ATTEMPTS - 1:
                return made
            odd.append(made)
    finally:
        for made in odd:
            made.close()
    raise AssertionError("unreachable")
