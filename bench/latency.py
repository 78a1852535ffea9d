"""
How long it takes: request to INVITE, and B's answer to the join and to the first voice at each ear.

The phones are in this process and the engine (or the service) in its own; all read `CLOCK_MONOTONIC`, which is one for
the whole machine. An INVITE counts when the phone has read and parsed it, a 200 when it has been given to the kernel.
"""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import call
from bench.processes import measured, spread
from dosvoces.phone.call import even_socket, user_part
from dosvoces.sip import sdp
from dosvoces.sip.agent import Agent, IncomingCall
from dosvoces.sip.api import CallEnd, CallHandler

HOLD_S = 0.4
RATE = 5
VOICES = {"a": b"\xaa" * 160, "b": b"\xbb" * 160}
"""20 ms of PCMA that is no tone: what each side says, to be told from the ringing tone."""
RTP_HEADER = struct.Struct("!BBHII")


@dataclass(slots=True)
class Moments:
    """Of one connection, in seconds of the monotonic clock."""

    invited: float = 0.0
    answered: float = 0.0
    """When B's 200 had left."""
    heard: dict[str, float] = field(default_factory=dict)
    """By side, when the other side's first packet reached it."""


class Line(CallHandler):
    """One call at a phone that answers at once, talks without pause and notes when it hears the other side."""

    __slots__ = (
        "_incoming",
        "_loop",
        "_moments",
        "_other",
        "_pace_s",
        "_remote",
        "_sent",
        "_side",
        "_socket",
    )

    def __init__(self, incoming: IncomingCall, side: str, moments: Moments, pace_s: float) -> None:
        self._incoming = incoming
        self._side = side
        self._moments = moments
        self._pace_s = pace_s
        self._other = VOICES["b" if side == "a" else "a"]
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = even_socket("127.0.0.1")
        self._sent = 0
        self._remote = ("", 0)

    def ring(self) -> None:
        """Ring, and answer as soon as the loop comes round."""
        self._incoming.ring()
        self._loop.call_soon(self._answer)

    def _answer(self) -> None:
        assert self._socket is not None
        port = self._socket.getsockname()[1]
        answer = sdp.answer_to(sdp.parse(self._incoming.offer), "127.0.0.1", port, (sdp.PCMA,), session_id=1)
        self._remote = (answer.chosen.host, answer.chosen.port)
        self._loop.add_reader(self._socket.fileno(), self._hear)
        self._incoming.answer(answer.body)
        if self._side == "b":
            self._moments.answered = time.perf_counter()
            self._loop.call_later(HOLD_S, self._incoming.hangup)
            self._talk()
        else:
            # A has talked for long when B answers: its packets come at no certain moment of B's answer.
            self._loop.call_later(random.uniform(0, self._pace_s), self._talk)

    def _talk(self) -> None:
        if self._socket is None:
            return
        header = RTP_HEADER.pack(0x80, 8, self._sent & 0xFFFF, self._sent * 160, ord(self._side))
        self._socket.sendto(header + VOICES[self._side], self._remote)
        self._sent += 1
        self._loop.call_later(self._pace_s, self._talk)

    def _hear(self) -> None:
        assert self._socket is not None
        if self._socket.recv(2048)[12:] == self._other:
            self._moments.heard.setdefault(self._side, time.perf_counter())

    def on_ended(self, end: CallEnd) -> None:
        assert self._socket is not None
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None


class Phones:
    """Both phones: two user agents of this process."""

    def __init__(self, pace_s: float) -> None:
        self.pace_s = pace_s
        self.moments: dict[int, Moments] = {}
        """By the connection's number, which is in the numbers that it dials."""

    def at(self, number: int) -> Moments:
        return self.moments.setdefault(number, Moments())

    def first(self, incoming: IncomingCall) -> CallHandler:
        return self._ring(incoming, "a")

    def second(self, incoming: IncomingCall) -> CallHandler:
        return self._ring(incoming, "b")

    def _ring(self, incoming: IncomingCall, side: str) -> CallHandler:
        came = time.perf_counter()
        moments = self.at(int(user_part(incoming.request_uri)[-7:]))
        if side == "a":
            moments.invited = came
        line = Line(incoming, side, moments, self.pace_s)
        line.ring()
        return line


@asynccontextmanager
async def phones(pace_s: float) -> AsyncIterator[tuple[Phones, int, int]]:
    """Both phones and their ports."""
    both = Phones(pace_s)
    first = await Agent.open(bind=("127.0.0.1", 0), peers=None, on_invite=both.first)
    second = await Agent.open(bind=("127.0.0.1", 0), peers=None, on_invite=both.second)
    try:
        yield both, first.local[1], second.local[1]
    finally:
        await first.close()
        await second.close()


async def engine(*, count: int, pace_ms: float, module: str = "bench.engine") -> dict[str, Any]:
    """The engine (or another `module`), `RATE` connections a second, the phones talking a packet each `pace_ms`."""
    async with phones(pace_ms / 1000) as (both, first_port, second_port):
        load = {"first_port": first_port, "second_port": second_port, "rate": RATE, "seconds": count / RATE}
        arguments = {**load, "hold_s": HOLD_S, "moments": True}
        result = await measured(module, arguments, limit_s=count / RATE + 60)
    told = {int(number): moments for number, moments in result.pop("moments").items()}
    seen = {number: both.moments[number] for number in told}
    return {
        "pace_ms": pace_ms,
        "connections": count,
        "joined": result["joined"],
        "request_to_invite_ms": spread([(m.invited - told[n]["asked"]) * 1000 for n, m in seen.items()]),
        "answer_to_joined_ms": spread([(told[n]["joined"] - m.answered) * 1000 for n, m in seen.items()]),
        "answer_to_first_voice_at_b_ms": _voice(seen, "b"),
        "answer_to_first_voice_at_a_ms": _voice(seen, "a"),
        "cpu_ms_per_connection": result["cpu_ms_per_connection"],
    }


async def post_call(folder: Path, *, count: int) -> dict[str, Any]:
    """The whole of `POST /call` with its mail and its record, `RATE` a second."""
    async with (
        phones(0.02) as (both, first_port, second_port),
        call.service(folder, first_port=first_port, second_port=second_port) as served,
    ):
        await served.client.offer(rate=RATE, total=count)
        await asyncio.sleep(HOLD_S + call.SETTLE_S)
        asked = served.client.asked
        invited = [(m.invited - asked[number]) * 1000 for number, m in both.moments.items() if number]
        return {
            "connections": count,
            "request_to_invite_ms": spread(invited),
            "request_to_answer_ms": spread(served.client.answer_ms),
            "answer_to_first_voice_at_b_ms": _voice(both.moments, "b"),
        }


def _voice(seen: dict[int, Moments], side: str) -> dict[str, float]:
    return spread([(m.heard[side] - m.answered) * 1000 for m in seen.values() if side in m.heard])
