"""
The transactions of the peer's requests (RFC 3261 §17.2, RFC 6026): answers that are repeated until they have arrived.

`transaction` has those of ours, and what both share.
"""

from typing import Protocol

from .api import Hop
from .timers import Timer
from .transaction import T1, T2, T4, TIMEOUT, State, Wire


class AnsweredRequest:
    """A request of the peer that we have answered for good: the answer is repeated until Timer J (RFC 3261 §17.2.2)."""

    __slots__ = ("_data", "_destination", "_key", "_wire")

    def __init__(self, wire: Wire, key: str, data: bytes, destination: Hop) -> None:
        """Send `data`, now and at each repeat of the request."""
        self._wire = wire
        self._key = key
        self._data = data
        self._destination = destination
        wire.send(data, destination)
        if destination.transport == "udp":
            wire.servers[key] = self
            wire.linger(TIMEOUT, self._timer_j)

    def repeated(self) -> None:
        self._wire.send(self._data, self._destination)

    def _timer_j(self) -> None:
        self._wire.servers.pop(self._key, None)


class InviteServerUser(Protocol):
    """Whoever answers an INVITE of the peer."""

    def on_cancel(self, reason: str) -> None:
        """The peer cancelled it before a final answer, with this Reason header; the CANCEL itself is answered."""

    def on_unacknowledged(self) -> None:
        """No ACK came to the 2xx within 64*T1."""


class InviteServer:
    """An INVITE of the peer, first or within a dialog (RFC 3261 §17.2.1, RFC 6026 §7.1)."""

    __slots__ = (
        "_data",
        "_deadline",
        "_interval",
        "_key",
        "_repeat",
        "_user",
        "cseq",
        "destination",
        "state",
        "to_tag",
        "wire",
    )

    def __init__(
        self, wire: Wire, key: str, cseq: int, destination: Hop, user: InviteServerUser | None, to_tag: str = ""
    ) -> None:
        """
        `user` is told of a CANCEL and of a missing ACK; `None` where the answer is a refusal at once.

        `to_tag` is that of its answers, which a CANCEL's answer says too (RFC 3261 §9.2).
        """
        self.wire = wire
        self.to_tag = to_tag
        self.cseq = cseq
        self.destination = destination
        self.state = State.PROCEEDING
        self._key = key
        self._data = b""
        self._user = user
        self._interval = T1
        self._repeat: Timer | None = None
        self._deadline: Timer | None = None
        wire.servers[key] = self

    def respond(self, code: int, data: bytes) -> None:
        """Send a response. A final one may be sent once; later ones are ignored."""
        if self.state is not State.PROCEEDING:
            return
        self._data = data
        self.wire.send(data, self.destination)
        if code < 200:
            return
        self.state = State.ACCEPTED if code < 300 else State.COMPLETED
        # RFC 3261 §13.3.1.4: a 2xx is repeated even over a reliable transport, as the next hop may not be.
        if code < 300 or self.destination.transport == "udp":
            self._repeat = self.wire.after(T1, self._timer_g)
        self._deadline = self.wire.after(TIMEOUT, self._timer_h)  # Timer H, or L

    @property
    def answering(self) -> bool:
        """Whether anything has been sent."""
        return bool(self._data)

    def repeated(self) -> None:
        """The INVITE came again."""
        # RFC 6026 §7.1: absorbed once accepted; the 2xx repeats by itself.
        if self._data and self.state in (State.PROCEEDING, State.COMPLETED):
            self.wire.send(self._data, self.destination)

    def lost(self) -> None:
        """The connection broke that the answer went on, perhaps with the answer; the next one goes where Via says."""
        if self.state is State.COMPLETED:
            self.wire.send(self._data, self.destination)  # RFC 3261 §18.2.2; a 2xx repeats by itself

    def cancelled(self, reason: str) -> None:
        if self.state is State.PROCEEDING and self._user is not None:
            self._user.on_cancel(reason)

    def acknowledged(self) -> bool:
        """The ACK came; whether it was the first. The rest lingers to absorb late repeats of the INVITE."""
        if self.state is State.COMPLETED:
            self._settle(T4 if self.destination.transport == "udp" else 0.0)  # Timer I
            return True
        if self.state is State.ACCEPTED:
            self._settle(TIMEOUT)  # Timer L
            return True
        return False

    def forget(self) -> None:
        """Drop it without an answer: silence to strangers."""
        self._terminate()

    def _settle(self, delay: float) -> None:
        self.state = State.CONFIRMED
        self._data = b""
        self._user = None
        self._stop()
        self._deadline = self.wire.after(delay, self._terminate)

    def _timer_g(self) -> None:
        self.wire.send(self._data, self.destination)
        self._interval = min(2 * self._interval, T2)
        self._repeat = self.wire.after(self._interval, self._timer_g)

    def _timer_h(self) -> None:
        accepted, user = self.state is State.ACCEPTED, self._user
        self._terminate()
        if accepted and user is not None:
            user.on_unacknowledged()

    def _terminate(self) -> None:
        self.state = State.TERMINATED
        self._user = None
        self._stop()
        self.wire.servers.pop(self._key, None)

    def _stop(self) -> None:
        self.wire.timers.stop(self._repeat)
        self.wire.timers.stop(self._deadline)
        self._repeat = self._deadline = None
