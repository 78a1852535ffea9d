"""Sorts messages into the rings of the connections that are open, by the Call-ID that we gave them."""

from dosvoces.capture import Captured, Ring, pack
from dosvoces.capture.ladder import call_id_of
from dosvoces.model import ConnectionId

_ID_LENGTH = 26  # of a connection's id, which our Call-IDs begin with (`model.leg_id`)
_CALL_ID = b"\r\nCall-ID: "


class Recorder:
    """The rings of one driver."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: dict[ConnectionId, Ring] = {}

    def begin(self, connection_id: ConnectionId) -> None:
        """Record this connection from now on; begun already, it goes on."""
        self._rings.setdefault(connection_id, Ring())

    def add(self, message: Captured) -> None:
        """Take a message; one of no connection that is recorded is let go."""
        ring = self._rings.get(_connection_of(message.data))
        if ring is not None:
            ring.add(message)

    def add_rtp(self, connection_id: ConnectionId, head: Captured) -> None:
        """Take the head of an RTP packet of this connection."""
        if (ring := self._rings.get(connection_id)) is not None:
            ring.packets.append(head)

    def end(self, connection_id: ConnectionId) -> bytes | None:
        """Stop, and give what was recorded (`capture.pack`); `None` if nothing was."""
        ring = self._rings.pop(connection_id, None)
        return pack(ring.capture) if ring is not None and ring.capture.messages else None


def _connection_of(data: bytes) -> ConnectionId:
    at = data.find(_CALL_ID)
    if at >= 0:
        at += len(_CALL_ID)
        return ConnectionId(data[at : at + _ID_LENGTH].decode("latin-1"))
    # Spelt otherwise: in capitals, short, without the blank.
    return ConnectionId(call_id_of(data)[:_ID_LENGTH])
