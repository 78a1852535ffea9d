"""
The port to whatever moves the audio of a connection; ours is a worker process (`worker.py`, driven by `relay.py`).

Media knows connections and sides, addresses and payload types; it knows no SIP, no record and no policy.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dosvoces.model import ConnectionId, Side


@dataclass(frozen=True, slots=True)
class Address:
    """Where RTP goes to or comes from; RTCP is the port above (RFC 3550 §11)."""

    host: str
    """A literal IPv4 or IPv6 address."""
    port: int


@dataclass(frozen=True, slots=True)
class Format:
    """The codec both legs share, as negotiated by SDP (RFC 3264)."""

    name: str
    """`PCMA`, `PCMU`, `G722`, `opus`: what `a=rtpmap` says, without the rate."""
    payload_type: int
    """The party's number for it: what we send carries that (RFC 3264 §5.1)."""
    clock_rate: int = 8000
    """Hz of the RTP timestamp (G.722: 8000, RFC 3551 §4.5.2)."""
    dtmf_payload_type: int | None = None
    """That of telephone-event (RFC 4733), if agreed."""
    packet_ms: int = 20
    payload_type_here: int | None = None
    """Our number for the codec: what the party sends should carry that. None: its own."""
    dtmf_payload_type_here: int | None = None
    """Our number for telephone-event."""
    others: tuple[int, ...] = ()
    """What else the party may send and be sent at any moment: static payload types (RFC 3551 §6) of this clock rate."""


SRTP_KEY_BYTES = {"AES_CM_128_HMAC_SHA1_80": 30, "AES_CM_128_HMAC_SHA1_32": 30, "AEAD_AES_128_GCM": 28}
"""The suites that are spoken (RFC 4568 §6.2, RFC 7714 §14.2), with the length of key and salt together."""


@dataclass(frozen=True, slots=True)
class Srtp:
    """How one side's media are encrypted. Its keys stand in no `repr`."""

    suite: str
    """One of `SRTP_KEY_BYTES`."""
    local_key: bytes = field(repr=False)
    """Key and salt of what we send to it."""
    remote_key: bytes = field(repr=False)
    """Of what it sends."""

    def __post_init__(self) -> None:
        length = SRTP_KEY_BYTES.get(self.suite)
        if length is None or len(self.local_key) != length or len(self.remote_key) != length:
            raise ValueError(f"no SRTP suite {self.suite[:40]!r} with keys of such a length")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What went over one leg, from the relay's side."""

    packets_received: int = 0
    packets_sent: int = 0
    packets_lost: int = 0
    """Of those that the leg should have sent us (RFC 3550 §A.3); never below 0."""
    jitter_ms: float = 0.0
    """Interarrival jitter at the end (RFC 3550 §6.4.1)."""
    packets_refused: int = 0
    """From a stranger's address, not RTP, not authentic, or far out of sequence: dropped."""
    round_trip_ms: float | None = None
    """To the leg's phone and back, the mean of what its reports (RTCP) give; None: it answered none of ours."""
    lost_there: int | None = None
    """Of the packets sent to the leg, how many it says it lost; None: it never said."""
    jitter_there_ms: float | None = None
    """As the leg says; None: it never said."""
    mos: float | None = None
    """How the leg sounds to us, 1 to 4.5 (`quality.py`); None: too short, or a codec without published values."""
    mos_there: float | None = None
    """How we sound to the leg, by what it reports; None as well where it reports nothing."""


@dataclass(frozen=True, slots=True)
class Digit:
    """A key was pressed on this side (RFC 4733), seen once per key press."""

    connection_id: ConnectionId
    side: Side
    digit: str
    """One of `0123456789*#ABCD`."""
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Heard:
    """The first packet that was accepted from this side, and again if its source changes: media flows from there."""

    connection_id: ConnectionId
    side: Side
    source: Address


@dataclass(frozen=True, slots=True)
class Lost:
    """The relay lost this connection (its worker died): nothing moves any more, nothing will."""

    connection_id: ConnectionId
    why: str


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing was accepted for so long from a side that should send. Told once for each such silence."""

    connection_id: ConnectionId
    side: Side
    for_s: float


@dataclass(frozen=True, slots=True)
class RtpHeader:
    """The head of one packet, as it went over the wire."""

    at_us: int
    """Microseconds since 1970, UTC."""
    side: Side
    ours: bool
    """Whether the relay sent it."""
    size: int
    """Bytes of the whole packet."""
    here: Address
    """Of ours, as SDP says it."""
    peer: Address
    header: bytes
    """The fixed header (RFC 3550 §5.1), or what there was of it."""


@dataclass(frozen=True, slots=True)
class Headers:
    """The newest packets of a connection that is being released, from a relay that was told to keep them."""

    connection_id: ConnectionId
    headers: tuple[RtpHeader, ...]


RelayEvent = Headers | Digit | Heard | Lost | Silent


class MediaRelay(Protocol):
    """
    Moves audio between the two sides of a connection. The contract test quotes these clauses by name.

    - *one allocation*: `allocate` gives each side an even port of its own; asked again for the same connection, it
      raises `NotAllowed`.
    - *silent until told*: nothing is sent to a side before `connect` named where its media goes.
    - *source lock*: packets are taken from the connected address; another port of that host (a NAT) is learned once,
      from the first packets, and then locked, and again after a hold; other hosts are refused and counted. Before
      `connect` all are.
    - *ringing*: `play_ringing` plays the country's ringing tone to that side until `join`, `stop_ringing` or `release`.
    - *warning*: `play_warning` plays a tone to that side, until `release`, in the place of whatever it heard.
    - *join*: after `join` each side hears the other within one packet time, with the sequence, timestamp and SSRC of
      its own stream continuous.
    - *hold*: `connect` again with other values moves or (`remote=None`) silences that side, keeping its port; what it
      plays meanwhile is heard, from another address too if that is named.
    - *encryption*: with `srtp` that side's media are SRTP and SRTCP, whatever the other side's are. What isn't
      authentic, or comes twice, is refused and counted before anything is learned from it.
    - *reports*: RTCP is sent to each connected side and read from it, never passed on.
    - *silence is told*: a connected side from which nothing is accepted for the relay's `silence_s` gets one `Silent`,
      and another one after it was heard again. Not while it is on hold (`remote=None`) or doesn't send (`sends=False`).
    - *release is final and idempotent*: it returns each side's statistics (all zero for an unknown connection); ports
      stay bound and are drained for 30 s.
    - *loss is told*: if the worker dies, each of its connections gets exactly one `Lost`; later calls for it do nothing
      (`join` raises `MediaError`).

    Where rtpengine can't do as the worker does, it may differ, and the tests say so by these names:

    - *its own streams*: a side hears each source (the tone, the other side) with that source's own SSRC, sequence and
      timestamp; rtpengine rewrites only what it transcodes. Receivers take a new SSRC for a new source (RFC 3550 §8.2).
    - *no learning*: media are taken from the signalled address and port only. rtpengine's learning would take whoever
      sends first, from any host.
    - *no reading of packets*: what comes from the right address is passed on and counted, RTP or not, and no gap in it
      is counted. Payload types go on as they are: a codec that the sides number differently can't be joined
      (`MediaError`), and keys that they number differently may not be understood or told.
    - *looked at*: who is heard and who is silent is told when it is looked for, up to 10 s later; the packets of a tone
      aren't counted.
    - *no keys of ours*: `srtp` raises `MediaError`, as rtpengine makes its own keys; RTCP is passed on.
    - *not ours to start*: a daemon that died takes connections again when its keeper has started it; what ports rest
      then, it doesn't know. `close` leaves it running.
    """

    async def start(self, report: Callable[[RelayEvent], None]) -> None:
        """Get ready; from here on events go to `report`, called from the loop. Raises `MediaError`."""

    async def allocate(self, connection_id: ConnectionId, *, country: str) -> dict[Side, Address]:
        """
        Open a pair of ports for each side; the addresses are what SDP should say (the advertised ones).

        `country` (ISO 3166 alpha-2) chooses the ringing tone. Raises `MediaError` when there is no port or no worker.
        """

    def connect(
        self,
        connection_id: ConnectionId,
        side: Side,
        remote: Address | None,
        format: Format,
        *,
        plays_from: Address | None = None,
        sends: bool = True,
        srtp: Srtp | None = None,
        rtcp_port: int | None = None,
    ) -> None:
        """
        Say where that side's media is and how it is coded; `remote=None`: it wants to receive nothing for now.

        `plays_from`: where it is meanwhile, as hold music often comes from another machine; None: where it was.
        `sends=False`: it said that it sends nothing for now. `srtp`: how its media are encrypted; a key that is the
        same as before keeps its stream. `rtcp_port`: where it takes RTCP, if that isn't the port above.

        Raises `MediaError` if `remote` can't be sent to: no literal address, or of the other family.
        """

    def play_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        """Play the ringing tone to a connected side. G.711 only; on another codec nothing is played."""

    def stop_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        """Stop it."""

    def play_warning(self, connection_id: ConnectionId, side: Side) -> None:
        """Play the tone that tells that the call will be cut. G.711 only; on another codec nothing is played."""

    async def join(self, connection_id: ConnectionId) -> None:
        """
        Let both sides hear each other; returns when the relay has done it.

        Raises `MediaError`: no such connection, no worker, or the sides are coded differently (nothing transcodes).
        """

    async def release(self, connection_id: ConnectionId) -> dict[Side, Statistics]:
        """
        Stop everything for this connection and give its ports back after the drain.

        Empty where nothing is known: no such connection, or its media were lost.
        """

    def capacity(self) -> int:
        """How many connections it can have at once as things are now, those that it has included."""

    def problems(self) -> list[str]:
        """Why no connection could be taken now, in words; empty if one could."""

    async def close(self) -> None:
        """End the worker and give everything back; idempotent."""
