"""
What the server and its media worker say to each other: JSON lists over a Unix SOCK_SEQPACKET socket.

A datagram holds one message or several, each on a line of its own: waking the other process is most of what one costs.

Server to worker: `["start", host, low, high, index, count, [resting port …], rest_s, silence_s, headers]` first (this
worker has every count-th even port of the range; `silence_s` 0: silence is not watched; so many RTP headers of each
connection are kept), `["reserve", n, connections]` (done with as many pairs of ports as there is room for),
`["allocate", id, country, first port of a reserved pair]`,
`["connect", id, side, host or null, port, [the fields of its Format in their order], sends, RTCP port or null,
[suite, our key, its key] or null, host or null, port]` (keys are hexadecimal; the last two say where it plays from
while it receives nothing),
`["play", id, side]`, `["warn", id, side]`, `["stop", id, side]`,
`["join", n, id]`, `["release", n, id]`, `["ping", n]`.
Worker to server: `["done", n, …]` or `["failed", n, why]` for each n; `["digit", id, side, digit, ms]`,
`["heard", id, side, host, port]`, `["silent", id, side, seconds]`, before a release is done
`["headers", id, port of A, port of B, [header …]]` (`headers.py`), `["trouble", text]`. The end of the socket ends the
worker.
"""

import json
from typing import Any

MAX_MESSAGE = 64 * 1024  # bytes; the start's resting ports are the longest, some 6 bytes a port

Message = list[Any]

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_decoder = json.JSONDecoder()


def encode(*message: object) -> bytes:
    """One message as it goes over the socket; without a line break."""
    return _encoder.encode(message).encode()


def decode(data: bytes) -> list[Message]:
    """The messages in a datagram."""
    return [_decoder.decode(line) for line in data.decode().split("\n")]
