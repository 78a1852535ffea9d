"""
One TCP or TLS connection: bytes are cut into messages, pings answered, a peer that is slow or silent dropped.

Knows nothing of who it leads to or what the messages say; `connections` has them all.
"""

import asyncio
import logging
import random
from datetime import datetime
from typing import Protocol, cast

from .api import Hop
from .stream import LINE_BREAK, Framer, Pulse
from .tls import certificate_ends, refusal

log = logging.getLogger(__name__)

MAX_UNSENT = 1 << 20  # bytes that a slow peer may leave unread, some thousand messages
MESSAGE_LIMIT_S = 32.0  # from the first byte of a message to its last; 64*T1, as no transaction waits longer
KEEP_ALIVE_S = (24.0, 30.0)  # between pings: 80 to 100 % (RFC 5626 §4.4) of what the hastiest NATs grant
PONG_LIMIT_S = 10.0  # RFC 5626 §4.4.1


class Owner(Protocol):
    """Whoever has the connections."""

    def opened(self, connection: "Connection") -> None:
        """Messages may be given to it, and come."""

    def received(self, connection: "Connection", data: bytes) -> None:
        """A message came."""

    def settled(self) -> None:
        """All that came at once has been told."""

    def lost(self, connection: "Connection") -> None:
        """The connection is gone; once, and the last of all."""


class Connection(asyncio.Protocol):
    """An open connection to `hop`, of either direction."""

    __slots__ = ("_alarm", "_deadline", "_framer", "_loop", "_owner", "_pulse", "_transport", "hop", "outgoing", "why")

    def __init__(self, owner: Owner, hop: Hop, *, outgoing: bool) -> None:
        self.hop = hop
        self.outgoing = outgoing
        """Whether we opened it; then we send the pings (RFC 5626 §3.5.1)."""
        self.why = ""
        """What ended it, where that is known."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._framer = Framer()
        self._pulse = Pulse()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        """Of the message that has begun to come."""
        self._alarm: asyncio.TimerHandle | None = None
        """Of the next ping, or of its answer."""

    @property
    def open(self) -> bool:
        """Whether messages may be given to it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def certificate_ends(self) -> datetime | None:
        """When the peer's certificate ends; `None` where it showed none, or it wasn't looked at."""
        return certificate_ends(self._transport.get_extra_info("peercert")) if self._transport is not None else None

    def send(self, data: bytes) -> None:
        """Queue one message; a peer that leaves too much unread loses the connection."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # `lost` is on its way
        transport.write(data)
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._drop(f"it reads too slowly: {MAX_UNSENT >> 10} KiB wait")

    def close(self) -> None:
        """Send what waits, then close. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        if self.outgoing:
            self._rest()
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        framer = self._framer
        pong = False
        found = framer.feed(data)
        for each in found:
            if each == LINE_BREAK:
                pong = bool(self._pulse.line_break()) or pong
            else:
                self._pulse.message()
                self._owner.received(self, each)
        if pong:
            self.send(LINE_BREAK)  # one for many: nobody counts them
        if framer.fault:
            self._drop(framer.fault)
        self._watch(framer.waiting, bool(found))
        self._owner.settled()

    def eof_received(self) -> bool:
        return False  # close: a peer that has done with sending has done with us

    def connection_lost(self, error: Exception | None) -> None:
        self.why = self.why or (refusal(error) if error else "the peer closed it")
        for timer in (self._deadline, self._alarm):
            if timer is not None:
                timer.cancel()
        self._deadline = self._alarm = None
        self._owner.lost(self)

    # -- its own ----------------------------------------------------------------------------------------------------

    def _drop(self, why: str) -> None:
        if not self.why:
            self.why = why
            log.warning("connection with %s closed: %s", self.hop, why)
        self.abort()

    def _watch(self, waiting: bool, moved: bool) -> None:
        """Give half a message its limit."""
        if self._deadline is not None and (moved or not waiting):
            self._deadline.cancel()
            self._deadline = None
        if waiting and self._deadline is None and self.open:
            self._deadline = self._loop.call_later(MESSAGE_LIMIT_S, self._drop, "half a message and then nothing")

    def _rest(self) -> None:
        self._alarm = self._loop.call_later(random.uniform(*KEEP_ALIVE_S), self._ping)

    def _ping(self) -> None:
        self.send(self._pulse.ping())
        self._alarm = self._loop.call_later(PONG_LIMIT_S, self._judge)

    def _judge(self) -> None:
        if self._pulse.dead:
            self._drop("no answer to a ping")
        else:
            self._rest()
