"""
Offering a session, answering an offer, and agreeing on a codec (RFC 8866, RFC 3264).

Pure text work on one audio stream. What else a peer offers is remembered only as far as the answer must refuse it,
line by line (RFC 3264 §6). Directions in a `Media` are the peer's ("sendonly": the peer sends); those in a `Chosen`
are ours.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .description import (
    EVENT,
    G722,
    PCMA,
    PCMU,
    Codec,
    Direction,
    Media,
    SdpError,
    SessionDescription,
    direction_of,
    parse,
)
from .security import SECURE_PROFILES, Crypto, Keys, Security, new_crypto

__all__ = [
    "DEFAULT_CODECS",
    "G722",
    "OPUS",
    "PCMA",
    "PCMU",
    "TELEPHONE_EVENT",
    "TELEPHONE_EVENT_48K",
    "Answer",
    "Chosen",
    "Codec",
    "Crypto",
    "Direction",
    "Keys",
    "Media",
    "NotAcceptable",
    "SdpError",
    "Security",
    "SessionDescription",
    "answer_to",
    "audio_of",
    "choose",
    "new_crypto",
    "offer",
    "parse",
    "pass_through",
    "with_version",
]

DEFAULT_PACKET_MS = 20  # RFC 3551 §4.2
FIRST_DYNAMIC = 96  # payload type, RFC 3551 §6; those below mean the same to everybody
MAX_LITERAL = 64  # characters of an IP address, a zone included; what is longer is not kept
PACKET_MS = range(5, 201)  # what we believe of an `a=ptime`

OPUS = Codec("opus", 96, 48000, 2, "useinbandfec=1")
TELEPHONE_EVENT = Codec(EVENT, 101, 8000, 1, "0-16")
# RFC 4733 §2.1: events run on the clock of the audio beside them, and Opus has its own.
TELEPHONE_EVENT_48K = Codec(EVENT, 102, 48000, 1, "0-16")
DEFAULT_CODECS = (PCMA, PCMU, G722, OPUS, TELEPHONE_EVENT, TELEPHONE_EVENT_48K)


class NotAcceptable(SdpError):
    """The description is sound but nothing can be agreed on: a request that holds it gets 488 (RFC 3261 §21.4.26)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What both sides agreed on, from our side."""

    codec: Codec
    """With the payload type and parameters that the peer wants to receive."""
    dtmf_payload_type: int | None
    """The peer's number for telephone-event."""
    host: str
    """Where to send: a literal address."""
    port: int
    direction: Direction
    """Ours: `RECVONLY` while the peer holds us."""
    packet_ms: int = DEFAULT_PACKET_MS
    dtmf_clock_rate: int = 8000
    keys: Keys | None = None
    """None: plain RTP."""
    rtcp_port: int | None = None
    """Where the peer takes RTCP, if it said (RFC 3605): on the same host, whatever address stood there."""
    payload_type_here: int | None = None
    """The codec's number in our offer: what the peer sends should carry that. None: the peer's own."""
    dtmf_payload_type_here: int | None = None
    """That of telephone-event."""
    others: tuple[int, ...] = ()
    """Static payload types that were offered and answered beside the codec, of its clock rate."""

    @property
    def held(self) -> bool:
        """Whether the peer wants to receive nothing for now."""
        return not self.direction.sends


@dataclass(frozen=True, slots=True)
class Answer:
    """Our answer to an offer, and what it comes to."""

    body: bytes
    chosen: Chosen


def offer(
    address: str,
    port: int,
    codecs: Sequence[Codec] = DEFAULT_CODECS,
    *,
    session_id: int,
    version: int = 1,
    direction: Direction = Direction.SENDRECV,
    security: Security = Security.OFF,
    crypto: Sequence[Crypto] = (),
) -> bytes:
    """
    An offer of one audio stream at a literal `address` and `port`, codecs in our order of preference.

    `crypto` are our keys, used as `security` says. Optional encryption is RFC 8643's: RTP/AVP with keys, which a peer
    that knows nothing of them answers as any other offer. A second m= line for SRTP was refused: many peers answer 488
    to two audio lines, or take the wrong one.
    """
    profile = "RTP/SAVP" if security is Security.REQUIRED else "RTP/AVP"
    lines = [f"m=audio {port} {profile} {' '.join(str(codec.payload_type) for codec in codecs)}"]
    if security is not Security.OFF:
        lines += [line.line for line in crypto]
    lines += _attributes(codecs, direction)
    return _text(address, lines, session_id=session_id, version=version)


def pass_through(chosen: Chosen) -> tuple[Codec, ...]:
    """
    What the other leg is offered: exactly the codec of this one, and telephone-event.

    The relay passes packets on as they are, so nothing else would be understood.
    """
    event = TELEPHONE_EVENT if chosen.codec.clock_rate == 8000 else TELEPHONE_EVENT_48K
    number = chosen.dtmf_payload_type
    if number is None or number == chosen.codec.payload_type:
        # Our own number, unless the codec has taken it.
        number = event.payload_type if event.payload_type != chosen.codec.payload_type else 103
    return chosen.codec, replace(event, payload_type=number)


def answer_to(
    offered: SessionDescription,
    address: str,
    port: int,
    codecs: Sequence[Codec] = DEFAULT_CODECS,
    *,
    session_id: int,
    previous: bytes | None = None,
    in_use: Codec | None = None,
    direction: Direction = Direction.SENDRECV,
    security: Security = Security.OFF,
    crypto: Sequence[Crypto] = (),
) -> Answer:
    """
    Our answer: one codec, the direction mirrored within `direction`, every other line refused in its place.

    `crypto` are our keys, one of each suite; the peer's first line with such a suite is taken, unless `security` is
    off.

    `previous` is the description we sent last in this dialog: the version goes up by one if the text differs, and
    the same bytes are sent again if not (RFC 3264 §8). `in_use` is the codec of the running stream, kept where the
    offer still has it. Raises `NotAcceptable`.
    """
    audio = _usable_audio(offered, security)
    line, keys = _taken(audio, security, crypto)
    # RFC 3264 §6.1: the peer's order counts; but a running stream keeps its codec.
    codec = _first_common(audio, [in_use]) if in_use is not None else None
    chosen = _chosen(audio, codec or _first_common(audio, codecs), direction, keys, address)
    event = next((event for event in audio.events if event.payload_type == chosen.dtmf_payload_type), None)
    lines: list[str] = []
    for media in offered.media:
        if media is not audio:
            # RFC 3264 §6: port 0 refuses a stream; its line stays, with the same profile and formats.
            lines.append(f"m={media.kind} 0 {media.profile} {' '.join(media.formats)}")
            continue
        answered = [chosen.codec] if event is None else [chosen.codec, replace(event, fmtp=event.fmtp or "0-15")]
        numbers = " ".join(str(codec.payload_type) for codec in answered)
        lines.append(f"m=audio {port} {media.profile} {numbers}")
        if line is not None:
            lines.append(line.line)
        lines += _attributes(answered, chosen.direction)
    return Answer(with_version(_text(address, lines, session_id=session_id, version=1), previous), chosen)


def choose(
    answer: SessionDescription,
    offered: Sequence[Codec] = DEFAULT_CODECS,
    *,
    in_use: Codec | None = None,
    address: str = "",
    security: Security = Security.OFF,
    crypto: Sequence[Crypto] = (),
) -> Chosen:
    """
    What `answer` makes of our offer of `offered` at `address` (`""`: of either family), with the keys in `crypto`.

    `in_use` is the codec of a running stream that can't be changed. Raises `NotAcceptable`, naming what is wrong.
    """
    audio = _usable_audio(answer, security)
    keys = _agreed(audio, security, crypto)
    codec = _first_common(audio, offered if in_use is None else [in_use])
    return _numbered(_chosen(audio, codec, Direction.SENDRECV, keys, address), audio, offered)


def _numbered(chosen: Chosen, audio: Media, offered: Sequence[Codec]) -> Chosen:
    """`chosen` with what the peer may send by our offer (RFC 3264 §5.1, §6.1)."""
    number, rate = chosen.dtmf_payload_type, chosen.dtmf_clock_rate
    others = [
        codec.payload_type
        for codec in audio.codecs
        if codec.payload_type < FIRST_DYNAMIC and codec.clock_rate == chosen.codec.clock_rate
        if not codec.same_format(chosen.codec) and _number_here(codec, offered) == codec.payload_type
    ]
    return replace(
        chosen,
        payload_type_here=_number_here(chosen.codec, offered),
        dtmf_payload_type_here=None if number is None else _number_here(Codec(EVENT, number, rate), offered),
        others=tuple(others),
    )


def _number_here(theirs: Codec, offered: Sequence[Codec]) -> int | None:
    return next((ours.payload_type for ours in offered if ours.same_format(theirs)), None)


def with_version(fresh: bytes, previous: bytes | None) -> bytes:
    """`fresh` with the version that follows `previous`; `previous` itself if they differ in nothing else (§8)."""
    if previous is None:
        return fresh
    before, _, old_rest = previous.partition(b"\r\ns=")
    after, _, new_rest = fresh.partition(b"\r\ns=")
    old, new = before.split(b" "), after.split(b" ")
    if old_rest == new_rest and old[3:] == new[3:]:
        return previous
    new[1], new[2] = old[1], b"%d" % (int(old[2]) + 1)
    return b" ".join(new) + b"\r\ns=" + new_rest


def _usable_audio(description: SessionDescription, security: Security) -> Media:
    audio = audio_of(description, security)
    if audio is None:
        raise NotAcceptable(_why_unusable(description, security))
    return audio


def audio_of(description: SessionDescription, security: Security) -> Media | None:
    """The line to talk over: the first encrypted one where that is wanted, else the first plain one; None if none."""
    if security is not Security.OFF:
        for media in description.media:
            if media.securable:
                return media
    return description.audio if security is not Security.REQUIRED else None


def _why_unusable(description: SessionDescription, security: Security) -> str:
    lines = [media for media in description.media if media.kind == "audio"]
    if not lines:
        return "no audio in the description"
    switched_on = [media for media in lines if media.port > 0]
    if not switched_on:
        return "the audio is refused (port 0)"
    if description.audio is not None:
        with_keys = any("crypto" in media.encryption for media in switched_on)
        keys = "with no key that we can use" if with_keys else "without encryption"
        return f"the audio comes {keys}, and we require SRTP with SDES keys"
    profiles = ", ".join(sorted({media.profile[:40] for media in switched_on}))
    if security is Security.OFF:
        return f"the audio is offered as {profiles} only; we do RTP/AVP, not encrypted media"
    return f"the audio is {profiles} with no key that we can use; we do RTP/SAVP with SDES keys"


def _taken(audio: Media, security: Security, ours: Sequence[Crypto]) -> tuple[Crypto | None, Keys | None]:
    """Our line for the answer to an offer with keys, and what it comes to (RFC 4568 §5.1.2)."""
    if security is Security.OFF:
        return None, None
    for theirs in audio.crypto:
        key = next((line.key for line in ours if line.suite == theirs.suite), None)
        if key is not None:
            return Crypto(theirs.tag, theirs.suite, key), Keys(theirs.suite, key, theirs.key)
    if security is Security.REQUIRED or audio.profile.upper() in SECURE_PROFILES:
        raise NotAcceptable("the audio is offered with no key of a suite that we have")
    return None, None


def _agreed(audio: Media, security: Security, ours: Sequence[Crypto]) -> Keys | None:
    """What the keys in an answer make of those that we offered (RFC 4568 §5.1.3)."""
    if security is Security.OFF or "crypto" not in audio.encryption:
        return None
    # Microsoft's and others answer RTP/AVP with RTP/SAVP; it is the keys that count, and there must be one of ours.
    for theirs in audio.crypto:
        for line in ours:
            if (line.tag, line.suite) == (theirs.tag, theirs.suite):
                return Keys(line.suite, line.key, theirs.key)
    # A peer that means to encrypt and can't be understood would be noise, not speech.
    raise NotAcceptable("the audio is answered with a key that is none of those offered")


def _first_common(audio: Media, ours: Sequence[Codec]) -> Codec | None:
    return next((theirs for theirs in audio.codecs if any(theirs.same_format(codec) for codec in ours)), None)


def _chosen(audio: Media, codec: Codec | None, ours: Direction, keys: Keys | None, address: str) -> Chosen:
    if codec is None:
        names = ", ".join(f"{codec.name}/{codec.clock_rate}"[:40] for codec in audio.codecs) or "none that is known"
        raise NotAcceptable(f"no common codec; the peer has {names}")
    _check_host(audio.host, address)
    peer = audio.wants.mirrored
    event = next((event for event in audio.events if event.clock_rate == codec.clock_rate), None)
    if event is None and audio.events:
        event = audio.events[0]  # many gateways name 8000 Hz beside every codec
    ptime = audio.ptime_ms
    return Chosen(
        codec=codec,
        dtmf_payload_type=event.payload_type if event is not None else None,
        host=audio.host,
        port=audio.port,
        direction=direction_of(sends=peer.sends and ours.sends, receives=peer.receives and ours.receives),
        packet_ms=ptime if ptime is not None and ptime in PACKET_MS else DEFAULT_PACKET_MS,
        dtmf_clock_rate=event.clock_rate if event is not None else codec.clock_rate,
        keys=keys,
        rtcp_port=audio.rtcp_port or None,
    )


def _check_host(host: str, address: str) -> None:
    if not host:
        raise NotAcceptable("no connection address (c=) for the audio")
    multicast = _is_multicast(host) if len(host) <= MAX_LITERAL else None
    if multicast is None:
        # RFC 8866 §5.7 allows a name, but media must not wait for a resolver.
        raise NotAcceptable(f"the audio's address is {host[:60]!r}, not a literal IP address")
    if multicast:
        raise NotAcceptable(f"the audio's address {host} is multicast")
    if address and (":" in host) is not (":" in address):
        # Our socket is of one family: what we sent there would leave nobody, in silence.
        raise NotAcceptable(f"the audio's address {host} is not of the family of ours, {address}")


@lru_cache(maxsize=1024)
def _is_multicast(host: str) -> bool | None:
    """
    `None` if it is no literal address, or one with a zone, which holds on the peer's machine alone.

    A carrier's media come from few addresses; reading one takes 10 µs.
    """
    try:
        return None if "%" in host else ipaddress.ip_address(host).is_multicast
    except ValueError:
        return None


def _attributes(codecs: Iterable[Codec], direction: Direction) -> list[str]:
    lines = []
    for codec in codecs:
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        lines.append(f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.clock_rate}{channels}")
        if codec.fmtp:
            lines.append(f"a=fmtp:{codec.payload_type} {codec.fmtp}")
    lines.append(f"a=ptime:{DEFAULT_PACKET_MS}")
    lines.append(f"a={direction}")
    return lines


def _text(address: str, lines: Iterable[str], *, session_id: int, version: int) -> bytes:
    connection = f"IN {'IP6' if ':' in address else 'IP4'} {address}"
    head = f"v=0\r\no=- {session_id} {version} {connection}\r\ns=-\r\nc={connection}\r\nt=0 0\r\n"
    return (head + "\r\n".join(lines) + "\r\n").encode()
