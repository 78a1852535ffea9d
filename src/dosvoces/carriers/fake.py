"""
A scripted carrier that ships: no call leaves the machine, everything else is real.

For dry runs, for tests of what stands above the carriers, and as the smallest example of a driver.
"""

import asyncio
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dosvoces.carriers import Call, DialPlan, Leftover, Listener, Released
from dosvoces.errors import CarrierError, NotAllowed, NotOurs
from dosvoces.events import Answered, Dialed, Ended, Event, Ringing, Unjoined, Unreached
from dosvoces.model import ConnectionId, EndReason, LegId, PhoneNumber, Side, leg_id, mask_number


@dataclass(frozen=True, slots=True)
class Script:
    """What the far end does, in seconds from the dial; `None`: never."""

    rings_after_s: float | None = 0.0
    answers_after_s: float | None = 0.0
    fails_after_s: float | None = None
    """Ends before the answer, with `reason`."""
    reason: EndReason = EndReason.BUSY
    detail: str = ""
    hangs_up_after_s: float | None = None
    """Counted from the answer."""
    unreachable: bool = False
    """There is no way: `prepare` raises, and nothing leaves the machine."""
    dead_ways: int = 0
    """How many ways lead to nobody before the one that plays the rest of the script."""


ANSWERS = Script()
TRUNK = "script"
KEPT = 10_000
"""Of what was dialled, the newest calls that are remembered."""


@dataclass(frozen=True, slots=True)
class _FakePlan(DialPlan):
    script: Script


@dataclass(slots=True, eq=False)
class _FakeLeg:
    call: Call
    script: Script
    answered: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class FakeCarrier:
    """Plays `script(call)` for each leg; keeps in `dialed` what was dialled."""

    def __init__(
        self,
        script: Callable[[Call], Script] = lambda _call: ANSWERS,
        *,
        caller_ids: Collection[str] = (),
        trunk: str = TRUNK,
        before: "FakeCarrier | None" = None,
    ) -> None:
        """
        `caller_ids` are the numbers that a call may ask to show, `trunk` is the name that the record has. `before`
        plays the process before this one, whose calls this one can take back.
        """
        self._script = script
        self._caller_ids = caller_ids
        self._trunk = trunk
        self._before = before
        self._legs: dict[LegId, _FakeLeg] = {}
        self._joined: set[ConnectionId] = set()
        self._listener: Listener | None = None
        self.dialed: list[Call] = []
        self.hears_ringing: set[LegId] = set()
        self.hears_warning: set[LegId] = set()
        """Those who ever did."""

    @property
    def live_legs(self) -> list[LegId]:
        return list(self._legs)

    async def start(self, listener: Listener) -> None:
        self._listener = listener

    def prepare(self, call: Call) -> DialPlan:
        script = self._script(call)
        if script.unreachable:
            raise CarrierError(f"no route to {call.number.masked} in the script")
        if self._trunk in call.avoid:
            raise CarrierError(f"no further way to {call.number.masked} in the script")
        return _FakePlan(call, self._trunk, {"leg": call.id}, script)

    async def dial(self, plan: DialPlan) -> None:
        assert isinstance(plan, _FakePlan), "a plan of this driver"
        call, script = plan.call, plan.script
        if not call.may_leave():
            raise NotOurs(f"leg {call.id} may no longer be dialled here")
        way = f"way {len(call.avoid) + 1}"
        self.dialed.append(call)
        del self.dialed[:-KEPT]
        leg = self._legs[call.id] = _FakeLeg(call, script)
        self._tell(leg, Dialed(call.side, way))
        if len(call.avoid) < script.dead_ways:
            self._later(leg, 0.0, self._fail_way, leg, way)
            return
        if script.fails_after_s is not None:
            self._later(leg, script.fails_after_s, self._end, leg, script.reason, script.detail)
        if script.rings_after_s is not None:
            self._later(leg, script.rings_after_s, self._tell, leg, Ringing(call.side))
        if script.answers_after_s is not None and script.fails_after_s is None:
            self._later(leg, script.answers_after_s, self._answer, leg)

    def hangup(self, leg: LegId) -> None:
        if (known := self._legs.get(leg)) is not None:
            self._end(known, EndReason.HANGUP if known.answered else EndReason.CANCELLED, "")

    async def take_back(self, leftover: Leftover) -> Released:
        """A script's far end dies with its process, unless that is played by `before`."""
        leg = leg_id(leftover.connection_id, leftover.side)
        if self._before is None or leg not in self._before.live_legs:
            return Released.NOTHING
        answered = self._before._legs[leg].answered
        self._before.hangup(leg)
        return Released.HUNG_UP if answered else Released.CANCELLED

    def play_ringing(self, leg: LegId) -> None:
        if leg in self._legs:
            self.hears_ringing.add(leg)

    def play_warning(self, leg: LegId) -> None:
        if leg in self._legs:
            self.hears_warning.add(leg)

    async def join(self, connection_id: ConnectionId) -> None:
        for side in Side:
            leg = self._legs.get(leg_id(connection_id, side))
            if leg is None or not leg.answered:
                raise CarrierError(f"leg {side} of {connection_id} is not answered")
        self._joined.add(connection_id)

    def lose_media(self, connection_id: ConnectionId) -> None:
        """Pretend that the media relay died under this connection."""
        if connection_id in self._joined and self._listener is not None:
            self._joined.discard(connection_id)
            self._listener.happened(connection_id, Unjoined("media lost in the script"))

    def problems(self, *numbers: PhoneNumber) -> list[str]:
        return []

    def trunks(self, number: PhoneNumber) -> list[str]:
        return [self._trunk]

    def capacity(self) -> int:
        return sys.maxsize

    def check_caller_id(self, number: PhoneNumber, caller_id: str) -> None:
        if caller_id not in self._caller_ids:
            raise NotAllowed(f"{mask_number(caller_id)} is not among the trunk's caller_ids")

    def warnings(self) -> list[str]:
        return []

    async def close(self) -> None:
        for leg in list(self._legs):
            self.hangup(leg)

    def _later(self, leg: _FakeLeg, delay_s: float, act: Callable[..., None], *values: object) -> None:
        if leg.call.id not in self._legs:
            return  # Whoever was told of the last event hung up at once.
        leg.timers.append(asyncio.get_running_loop().call_later(delay_s, act, *values))

    def _answer(self, leg: _FakeLeg) -> None:
        leg.answered = True
        self._tell(leg, Answered(leg.call.side))
        if leg.script.hangs_up_after_s is not None:
            self._later(leg, leg.script.hangs_up_after_s, self._end, leg, EndReason.HANGUP, leg.script.detail)

    def _fail_way(self, leg: _FakeLeg, way: str) -> None:
        del self._legs[leg.call.id]
        self._tell(leg, Unreached(leg.call.side, way, "a dead way in the script"))

    def _end(self, leg: _FakeLeg, reason: EndReason, detail: str) -> None:
        del self._legs[leg.call.id]
        self._joined.discard(leg.call.connection_id)
        self.hears_ringing.discard(leg.call.id)
        for timer in leg.timers:
            timer.cancel()
        self._tell(leg, Ended(leg.call.side, reason, detail))

    def _tell(self, leg: _FakeLeg, event: Event) -> None:
        assert self._listener is not None, "start() comes before dial()"
        self._listener.happened(leg.call.connection_id, event)
