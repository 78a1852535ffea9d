"""
Which codecs each leg of a connection is offered.

Two rules meet here. Nobody on the line ever hears silence, and our tones are G.711: so A, who waits, is offered G.711
only. Nothing transcodes: so B is offered all that A may change to, and when B takes another codec than A has, A is
re-invited with it (`sip_leg.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from dosvoces.media import Format
from dosvoces.sip import sdp

CODECS = {codec.name: codec for codec in (sdp.PCMA, sdp.PCMU, sdp.G722, sdp.OPUS)}
"""By the name that the settings use."""
G711 = (sdp.PCMA, sdp.PCMU)
DEFAULT = G711


def first_offer(codecs: Sequence[sdp.Codec]) -> tuple[sdp.Codec, ...]:
    """What A is offered of its trunk's codecs: those that a ringing tone can be played in."""
    return *(codec for codec in codecs if _is_g711(codec)), sdp.TELEPHONE_EVENT


def second_offer(chosen: sdp.Chosen, first: Sequence[sdp.Codec], second: Sequence[sdp.Codec]) -> tuple[sdp.Codec, ...]:
    """
    What B is offered: what both trunks have, in the order of B's, A's own codec before the rest of its kind.

    What the operator put before G.711 stays before it: A changes to it if B takes it. Empty if the trunks have nothing
    in common.
    """
    shared = [codec for codec in second if any(codec.same_format(other) for other in first)]
    if not shared:
        return ()
    wider = list(takewhile(lambda codec: not _is_g711(codec), shared))
    rest = shared[len(wider) :]
    rest.sort(key=lambda codec: not codec.same_format(chosen.codec))  # stable: the others keep their order
    return _with_events([*wider, *rest], chosen.dtmf_payload_type)


def reoffer(codec: sdp.Codec) -> tuple[sdp.Codec, ...]:
    """What a leg is offered that shall change to `codec`; the numbers are ours."""
    ours = next((known for known in CODECS.values() if known.same_format(codec)), codec)
    return _with_events([replace(ours, fmtp=codec.fmtp)], None)


def coding(chosen: sdp.Chosen) -> Format:
    """How a leg's media are coded, as the relay is told."""
    return Format(
        name=chosen.codec.name,
        payload_type=chosen.codec.payload_type,
        clock_rate=chosen.codec.clock_rate,
        dtmf_payload_type=chosen.dtmf_payload_type,
        packet_ms=chosen.packet_ms,
        payload_type_here=chosen.payload_type_here,
        dtmf_payload_type_here=chosen.dtmf_payload_type_here,
        others=chosen.others,
    )


def names(codecs: Sequence[sdp.Codec]) -> str:
    """For people: `PCMA, G722`."""
    return ", ".join(codec.name for codec in codecs)


def _with_events(codecs: list[sdp.Codec], number: int | None) -> tuple[sdp.Codec, ...]:
    """`codecs` and telephone-event for each of their clocks (RFC 4733 §2.1), by A's `number` if that is free."""
    events = []
    if any(codec.clock_rate == 8000 for codec in codecs):
        taken = {codec.payload_type for codec in codecs} | {sdp.TELEPHONE_EVENT_48K.payload_type}
        if number is None or number in taken:
            number = sdp.TELEPHONE_EVENT.payload_type
        events.append(replace(sdp.TELEPHONE_EVENT, payload_type=number))
    if any(codec.clock_rate == 48000 for codec in codecs):
        events.append(sdp.TELEPHONE_EVENT_48K)
    return *codecs, *events


def _is_g711(codec: sdp.Codec) -> bool:
    return any(codec.same_format(g711) for g711 in G711)
