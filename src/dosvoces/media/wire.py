"""
What the server and its media worker say to each other: one JSON list a message, over a Unix SOCK_SEQPACKET socket.

Server to worker: `["start", host, low, high, index, count, [resting port …], rest_s]` first (this worker has every
count-th even port of the range), `["allocate", n, id, country]`,
`["connect", id, side, host or null, port, name, payload type, rate, dtmf or null, packet_ms]`, `["play", id, side]`,
`["stop", id, side]`, `["join", n, id]`, `["release", n, id]`, `["ping", n]`.
Worker to server: `["done", n, …]` or `["failed", n, why]` for each n; `["digit", id, side, digit, ms]`,
`["heard", id, side, host, port]`, `["trouble", text]`. The end of the socket ends the worker.
"""

import json
from typing import Any

MAX_MESSAGE = 64 * 1024  # bytes; the start's resting ports are the longest, some 6 bytes a port

Message = list[Any]

_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_decoder = json.JSONDecoder()


def encode(*message: object) -> bytes:
    """One message as it goes over the socket."""
    return _encoder.encode(message).encode()


def decode(data: bytes) -> Message:
    """The message in `data`."""
    message: Message = _decoder.decode(data.decode())
    return message
