"""A tone as a WAV file of A-law (RFC 2361 §A.4): what rtpengine is given to play."""

import struct
from functools import cache

from dosvoces.media import g711, tones

_ALAW = 6  # WAVE_FORMAT_ALAW


@cache
def ringing_wav(country: str) -> bytes:
    """One round of the country's cadence, 24 to 48 kB: small enough for one message of the NG protocol."""
    return _wav(tones.encoded(tones.ringing_tone(country), "PCMA"))


@cache
def warning_wav() -> bytes:
    """One round of the warning, 17 kB."""
    return _wav(tones.warning("PCMA"))


def _wav(samples: bytes) -> bytes:
    rate = g711.SAMPLE_RATE
    chunks = (
        _chunk(b"fmt ", struct.pack("<HHIIHHH", _ALAW, 1, rate, rate, 1, 8, 0)),
        _chunk(b"fact", struct.pack("<I", len(samples))),
        _chunk(b"data", samples),
    )
    return _chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body
