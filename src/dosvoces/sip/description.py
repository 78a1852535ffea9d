"""
Session descriptions as values, and how a peer's text becomes one (RFC 8866).

A peer's bytes give a `SessionDescription` or an `SdpError`, never another exception. What to offer and what to agree
on is in `sdp`.
"""

import enum
from dataclasses import dataclass, field, replace

from .security import MAX_CRYPTO, SECURE_PROFILES, Crypto, read_crypto

MAX_BODY = 32_768  # bytes; a browser's offer with many candidates stays below 10,000
MAX_LINES = 1_000
MAX_MEDIA = 32  # m= lines
MAX_FORMATS = 64  # payload types of one m= line

# The profiles of plain RTP. AVPF adds feedback that nobody is obliged to send (RFC 4585 §4).
PLAIN_PROFILES = frozenset({"RTP/AVP", "RTP/AVPF"})


class SdpError(ValueError):
    """The text is no session description that can be used; the message says why."""


class Direction(enum.StrEnum):
    """Who may send (RFC 8866 §6.7), seen from whoever wrote the description."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    @property
    def mirrored(self) -> "Direction":
        """The same stream as the other side calls it (RFC 3264 §6.1)."""
        return direction_of(sends=self.receives, receives=self.sends)


def direction_of(*, sends: bool, receives: bool) -> Direction:
    """The direction's name."""
    if sends:
        return Direction.SENDRECV if receives else Direction.SENDONLY
    return Direction.RECVONLY if receives else Direction.INACTIVE


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload format of an m= line, its number included."""

    name: str
    """In our own spelling where we know it (`PCMA`, `opus`), else as it came."""
    payload_type: int
    clock_rate: int = 8000
    """Hz, as `a=rtpmap` says (G.722: 8000 by RFC 3551 §4.5.2)."""
    channels: int = 1
    fmtp: str = ""
    """The format's parameters as text, `""` where there are none."""

    def same_format(self, other: "Codec") -> bool:
        """Whether both are the same encoding; the number is each side's own (RFC 3264 §6.1)."""
        return (
            self.name.lower() == other.name.lower()
            and self.clock_rate == other.clock_rate
            and self.channels == other.channels
        )


PCMA = Codec("PCMA", 8)
PCMU = Codec("PCMU", 0)
G722 = Codec("G722", 9)
EVENT = "telephone-event"
_SPELLING = {name.lower(): name for name in ("PCMA", "PCMU", "G722", "G729", "GSM", "opus", EVENT)}

# RFC 3551 table 4: those that real peers still send without an rtpmap.
_STATIC = {codec.payload_type: codec for codec in (PCMU, Codec("GSM", 3), PCMA, G722, Codec("G729", 18))}


@dataclass(frozen=True, slots=True)
class Media:
    """One m= line with its attributes; what stood at session level is resolved."""

    kind: str
    """`audio`, `video`, `image` …"""
    port: int
    """0: refused, or switched off (RFC 3264 §6, §8.2)."""
    profile: str
    """`RTP/AVP`, `RTP/SAVP`, `udptl` …, as it came."""
    formats: tuple[str, ...]
    """The formats as they came."""
    host: str = ""
    """The connection address: a literal or a name, `""` where there was none."""
    codecs: tuple[Codec, ...] = ()
    """The known formats in the peer's order, telephone-event apart."""
    events: tuple[Codec, ...] = ()
    """The telephone-events, one per clock rate."""
    direction: Direction = Direction.SENDRECV
    """The peer's; see `wants` for what it comes to."""
    ptime_ms: int | None = None
    rtcp_port: int | None = None
    """From `a=rtcp` (RFC 3605)."""
    rtcp_mux: bool = False
    encryption: tuple[str, ...] = ()
    """Which of `crypto`, `fingerprint`, `setup` were there."""
    crypto: tuple[Crypto, ...] = ()
    """The keys that we can use, in the peer's order (RFC 4568)."""

    @property
    def wants(self) -> Direction:
        """The peer's direction, an all-zero address counted as "receives nothing" (RFC 3264 §8.4)."""
        return direction_of(
            sends=self.direction.sends, receives=self.direction.receives and not is_unspecified(self.host)
        )

    @property
    def usable(self) -> bool:
        """Whether it is audio over plain RTP that is switched on."""
        return self.kind == "audio" and self.port > 0 and self.profile.upper() in PLAIN_PROFILES

    @property
    def securable(self) -> bool:
        """Whether it is audio with a key that we can use, over SRTP or, optionally, over RTP (RFC 8643 §3.1)."""
        if self.kind != "audio" or self.port == 0 or not self.crypto:
            return False
        return self.profile.upper() in SECURE_PROFILES or self.usable


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What we keep of a session description."""

    session_id: str
    version: str
    """With `session_id`, from `o=`: numbers, but only compared (RFC 3264 §8)."""
    media: tuple[Media, ...] = ()

    @property
    def audio(self) -> Media | None:
        """The first usable audio line; `None` where there is none."""
        return next((media for media in self.media if media.usable), None)


def is_unspecified(host: str) -> bool:
    """Whether `host` is the address that RFC 2543 put on hold with: `0.0.0.0`, or `::`."""
    return host in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0")


@dataclass(slots=True)
class _Section:
    """What was read so far of the session level or of one m= line."""

    kind: str = ""
    port: int = 0
    profile: str = ""
    formats: tuple[str, ...] = ()
    host: str | None = None
    direction: Direction | None = None
    ptime_ms: int | None = None
    rtcp_port: int | None = None
    rtcp_mux: bool = False
    rtpmap: dict[str, str] = field(default_factory=dict)
    fmtp: dict[str, str] = field(default_factory=dict)
    encryption: list[str] = field(default_factory=list)
    crypto: list[Crypto] = field(default_factory=list)
    crypto_lines: int = 0


def parse(body: bytes) -> SessionDescription:
    """
    Read a session description; lines may end in LF alone (RFC 8866 §5).

    What isn't needed may be missing or odd: `s=`, `t=`, unknown lines and attributes. Raises `SdpError`.
    """
    if len(body) > MAX_BODY:
        raise SdpError(f"a description of {len(body)} bytes, {MAX_BODY} at most")
    # A name in some old character set harms nothing that we read.
    text = body.decode("utf-8", "replace")
    if "\0" in text:
        raise SdpError("a zero byte in the description")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > MAX_LINES:
        raise SdpError(f"a description of more than {MAX_LINES} lines")
    if lines[0] != "v=0":
        raise SdpError("no v=0 in the first line")
    origin: list[str] = []
    session = section = _Section()
    sections: list[_Section] = []
    for line in lines:
        kind, value = line[:2], line[2:].strip()
        if kind == "a=":
            _read_attribute(section, value)
        elif kind == "m=":
            if len(sections) == MAX_MEDIA:
                raise SdpError(f"more than {MAX_MEDIA} m= lines")
            section = _read_media(value)
            sections.append(section)
        elif kind == "c=":
            if section.host is None:  # several would be layers of multicast; the first one counts
                section.host = _read_connection(value)
        elif kind == "o=":
            origin = value.split()
        elif kind[1:] != "=" and line.strip():
            raise SdpError(f"not a line of a description: {line[:40]!r}")
    if len(origin) != 6:
        raise SdpError("no o= line with its six fields")
    return SessionDescription(origin[1], origin[2], tuple(_media(section, session) for section in sections))


def _read_media(value: str) -> _Section:
    fields = value.split()
    if len(fields) < 4:
        raise SdpError(f"an m= line without its fields: {value[:40]!r}")
    if len(fields) > 3 + MAX_FORMATS:
        raise SdpError(f"more than {MAX_FORMATS} formats in an m= line")
    # `49170/2` names a number of ports; nobody sends audio so.
    port = _number(fields[1].partition("/")[0], 65_535)
    if port is None:
        raise SdpError(f"an invalid port in an m= line: {fields[1][:40]!r}")
    return _Section(kind=fields[0].lower(), port=port, profile=fields[2], formats=tuple(fields[3:]))


def _read_connection(value: str) -> str:
    fields = value.split()
    if len(fields) != 3 or fields[0].upper() != "IN" or fields[1].upper() not in ("IP4", "IP6"):
        raise SdpError(f"a c= line that isn't of the Internet: {value[:40]!r}")
    return fields[2].partition("/")[0]  # a TTL may follow the address


_DIRECTIONS: dict[str, Direction] = {member.value: member for member in Direction}


def _read_attribute(section: _Section, value: str) -> None:
    name, _, rest = value.partition(":")
    name = name.lower()
    if name == "rtpmap":
        number, _, encoding = rest.strip().partition(" ")
        section.rtpmap.setdefault(number, encoding.strip())
    elif name == "fmtp":
        number, _, parameters = rest.strip().partition(" ")
        section.fmtp.setdefault(number, parameters.strip())
    elif name in _DIRECTIONS:
        section.direction = _DIRECTIONS[name]
    elif name == "ptime":
        # Some write `20.0`; what can't be read is as good as absent.
        section.ptime_ms = _number(rest.strip().partition(".")[0], 1_000)
    elif name == "rtcp":
        section.rtcp_port = _number(rest.strip().partition(" ")[0], 65_535)
    elif name == "rtcp-mux":
        section.rtcp_mux = True
    elif name in ("crypto", "fingerprint", "setup"):
        if name not in section.encryption:
            section.encryption.append(name)
        if name == "crypto":
            _read_crypto(section, rest)


def _read_crypto(section: _Section, value: str) -> None:
    section.crypto_lines += 1
    if section.crypto_lines <= MAX_CRYPTO and (crypto := read_crypto(value)) is not None:
        section.crypto.append(crypto)


def _media(section: _Section, session: _Section) -> Media:
    codecs: list[Codec] = []
    events: list[Codec] = []
    if section.kind == "audio":
        for number in dict.fromkeys(section.formats):
            codec = _codec(number, section)
            if codec is not None:
                (events if codec.name == EVENT else codecs).append(codec)
    return Media(
        kind=section.kind,
        port=section.port,
        profile=section.profile,
        formats=section.formats,
        host=session.host or "" if section.host is None else section.host,
        codecs=tuple(codecs),
        events=tuple(events),
        direction=section.direction or session.direction or Direction.SENDRECV,
        ptime_ms=section.ptime_ms,
        rtcp_port=section.rtcp_port,
        rtcp_mux=section.rtcp_mux,
        encryption=tuple(dict.fromkeys([*session.encryption, *section.encryption])),
        crypto=tuple(section.crypto),  # RFC 4568 §5: of an m= line, never of the session
    )


def _codec(number: str, section: _Section) -> Codec | None:
    """The codec of a payload type; `None` for what is no payload type or has no name."""
    payload_type = _number(number, 127)
    if payload_type is None:
        return None
    encoding = section.rtpmap.get(number)
    fmtp = section.fmtp.get(number, "")
    if encoding is None:
        static = _STATIC.get(payload_type)
        return replace(static, fmtp=fmtp) if static is not None and fmtp else static
    name, _, rates = encoding.partition("/")
    rate, _, channels = rates.partition("/")
    clock_rate = _number(rate.strip(), 1_000_000)
    if not clock_rate or not name:
        return None
    spelled = _SPELLING.get(name.lower(), name)
    return Codec(spelled, payload_type, clock_rate, _number(channels.strip(), 255) or 1, fmtp)


def _number(text: str, most: int) -> int | None:
    """`text` as a plain decimal number up to `most`; `None` for anything else."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    value = int(text)
    return value if value <= most else None
