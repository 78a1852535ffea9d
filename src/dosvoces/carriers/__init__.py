"""
The port to whatever places calls: one driver per kind of carrier (`sip`, and the scripted `fake` that ships).

A driver places, joins and ends calls, and says what happened. It has no policy: no retry, no time-out but the
protocol's, no opinion on who is called when.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dosvoces.events import Event
from dosvoces.model import ConnectionId, Facts, LegId, Note, PhoneNumber, Side, leg_id


@dataclass(frozen=True, slots=True)
class Call:
    """One leg to be dialled."""

    connection_id: ConnectionId
    side: Side
    number: PhoneNumber
    attempt: int = 1
    """Counts the dials of this leg; a further one only follows `Unreached`."""
    avoid: tuple[str, ...] = ()
    """Ways that reached nobody in earlier attempts (`Unreached.way`), and trunks that can take no call now."""
    silence_limit_s: float | None = None
    """How long the far end may give no sign at all before the dial is given up; `None`: the protocol's own limit."""
    caller_id: str = ""
    """The number that this party sees, in E.164; empty: what the settings say."""
    test: bool = False
    """Of a trial run: a driver that reaches real phones refuses it."""
    may_leave: Callable[[], bool] = field(default=lambda: True, compare=False, repr=False)
    """Asked last of all: whether the call may still be placed by this process."""

    @property
    def id(self) -> LegId:
        """Ours, the same in the record, in the log and on the wire."""
        return leg_id(self.connection_id, self.side)


@dataclass(frozen=True, slots=True)
class DialPlan:
    """How a leg will be dialled, decided down to the last byte that matters; drivers add to it what is theirs."""

    call: Call
    trunk: str
    """The name of the trunk that it takes."""
    facts: Facts
    """What `take_back` needs, in any later process: to be on disk before `dial`."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A leg that an earlier process may have dialled, and for which no end is known."""

    connection_id: ConnectionId
    side: Side
    dials: Sequence[Facts] = field(default=())
    """`DialPlan.facts` of each attempt."""
    dialog: Facts | None = None
    """Those of its `dialog` note, if it was answered."""


class Released(enum.StrEnum):
    """What became of a leftover."""

    HUNG_UP = "hung_up"
    """It had been answered."""
    CANCELLED = "cancelled"
    """It was ringing, or on its way."""
    NOTHING = "nothing_there"
    """The far end knows of no such call: it never came there, or is over."""
    UNCONFIRMED = "unconfirmed"
    """The far end said nothing so far, or refused to hang up, or what was written down can't be used."""


class Listener(Protocol):
    """Who is told what happens to the calls. Called from the loop; each returns at once."""

    def happened(self, connection_id: ConnectionId, event: Event) -> None:
        """A leg's `Dialed`, `Ringing`, `Answered`, `Unreached`, `Ended`, or the connection's `Unjoined`."""

    def noted(self, connection_id: ConnectionId, note: Note, kept: Callable[[], None] | None = None) -> None:
        """Something worth keeping that changes no state; `kept` is called once it is on disk, which may be never."""

    def captured(self, connection_id: ConnectionId, packed: bytes) -> None:
        """What the connection's legs said on the wire (`capture.pack`), once they are over; from drivers that can."""


class Carrier(Protocol):
    """
    Places calls. The contract test quotes these clauses by name and runs on every driver.

    - *our id on the wire*: `Call.id` goes out with the call, so that an early event finds its leg.
    - *raises only if nothing left*: `prepare` and `dial` raise `CarrierError` only if nothing left the machine; no
      event follows then.
    - *a dial can be taken back*: whether or not `dial` came to send anything, another process's driver releases the leg
      by what `prepare` gave; no event follows there.
    - *exactly one end*: a dialled leg gets exactly one `Ended` or `Unreached`, whatever happens, and nothing after
      it but what a further dial of it brings.
    - *unreached is certain*: `Unreached` only if nobody can have been rung (no ringing was told, whatever may still
      come is hung up) and another way is left; never after a refusal by whoever was called.
    - *ways are not repeated*: a dial takes no way that `Call.avoid` names, and no way of a trunk that it names.
    - *asked last*: if `Call.may_leave` says no when all is ready to be sent, nothing is, and `dial` raises `NotOurs`.
    - *hang-up in any state*: `hangup` is legal in any state and idempotent; for an unknown or ended leg it does
      nothing.
    - *answer after hang-up*: an answer that crosses a hang-up is hung up by the driver and not reported as
      `Answered`.
    - *unknown fate is hung up*: a dial whose fate is unknown is hung up before it is reported as failed.
    - *join needs both*: `join` raises `CarrierError` unless both legs are answered.
    - *unjoined is told*: media lost after the join is one `Unjoined`; the legs stay up until they are hung up.
    - *leftovers are released*: `take_back` releases a leg that an earlier process left up, by the `dialog` note that
      was given before the leg's `Answered`; no event follows, and what can't be used does nothing.
    - *a trial rings nobody*: a driver that reaches real phones raises `CarrierError` for a `Call.test`.
    - *caller ids are ours*: `check_caller_id` raises `NotAllowed` for a number that the way to a party may not show,
      and no call shows such a number.
    - *no policy*: no retry, no time-out but the protocol's and the one that the call brings; a leg without
      audio is ended only if the settings say so.
    """

    async def start(self, listener: Listener) -> None:
        """Get ready to dial. Raises `CarrierError`."""

    def prepare(self, call: Call) -> DialPlan:
        """Choose the way and all that a later process must know of it; nothing leaves. Raises `CarrierError`."""

    async def dial(self, plan: DialPlan) -> None:
        """
        Start ringing, by a plan that this driver made; all that follows arrives as events, first of all `Dialed`.

        Doesn't wait for an answer. Side B is dialled after side A has answered: it is offered what A speaks.
        """

    def hangup(self, leg: LegId) -> None:
        """Release the leg: CANCEL before the answer, BYE after it, whichever is right when they cross."""

    async def take_back(self, leftover: Leftover) -> Released:
        """
        Release a leg of an earlier process, which died with it ringing or up; doing it twice harms nobody.

        The first thing that it does is to send, before it waits for anything. Returns when the far end confirmed, or
        had the time that the protocol gives it; whoever stops waiting doesn't stop the release.
        """

    def play_ringing(self, leg: LegId) -> None:
        """Let this answered leg hear the ringing tone until `join`."""

    def play_warning(self, leg: LegId) -> None:
        """Let this answered leg hear, instead of the other party, the tone that tells that the call will be cut."""

    async def join(self, connection_id: ConnectionId) -> None:
        """Let both hear each other; returns when they do. Raises `CarrierError`."""

    def problems(self, *numbers: PhoneNumber) -> list[str]:
        """Why no call could be placed now, to any of `numbers` where they are given, in words; empty if one could."""

    def trunks(self, number: PhoneNumber) -> Sequence[str]:
        """The names of the trunks that a call to `number` may take, in the order in which they are tried."""

    def capacity(self) -> int:
        """How many connections may be open at once as things are now: what carries them may be scarce or resting."""

    def check_caller_id(self, number: PhoneNumber, caller_id: str) -> None:
        """Raises `NotAllowed` if a call to `number` can't show `caller_id` (E.164) to whoever answers it."""

    def warnings(self) -> list[str]:
        """What an operator should know though calls can be placed: a trunk that is down beside one that is up."""

    async def close(self) -> None:
        """Hang up what is left, wait (bounded) until the far ends confirmed, give everything back; idempotent."""
