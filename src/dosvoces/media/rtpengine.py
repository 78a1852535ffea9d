"""
The `MediaRelay` that drives rtpengine daemons by their NG protocol: for kernel forwarding, or a farm of media machines.

rtpengine learns of a session by its description. Each connection is one call there with the tags `a` and `b`; what our
signalling has agreed on with a side is written down as a description of that side. What is not passed on is blocked.
The contract's tests name where it differs from the worker; `docs/howto/rtpengine.md` says what that means.
"""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dosvoces.errors import MediaError, NotAllowed
from dosvoces.media import Address, Digit, Format, Heard, Lost, MediaRelay, RelayEvent, Silent, Srtp, Statistics
from dosvoces.media.g711 import SILENCE
from dosvoces.media.ng import NgError, Node
from dosvoces.media.ng_call import Call, check_host, hears, statistics
from dosvoces.media.ng_session import Traffic, describe, local_address, traffic
from dosvoces.media.rtp import KEYS
from dosvoces.media.wav import ringing_wav, warning_wav
from dosvoces.model import ConnectionId, Side

PATIENCE_S = 1.0  # how long `allocate` waits for a daemon that comes back
LOOK_S = 1.0  # how often a connection is looked at until both sides were heard
LONGEST_LOOK_S = 10.0  # and after that
MAX_DIGIT_BYTES = 2048

# `port latching`: a side keeps its port when it moves. `asymmetric` and `strict source`: media only from the signalled
# address; rtpengine's learning would take whoever sends first, from any host, in the first three seconds.
FLAGS = ("port latching", "asymmetric", "strict source", "trust address")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RtpengineSettings:
    """Which daemons there are."""

    nodes: Sequence[tuple[str, int]]
    """Host and port of each one's `listen-ng`."""
    digits: tuple[str, int] | None = None
    """Where we listen for the keys that they see: their `dtmf-log-dest`. None: no key is told."""
    rest_s: int = 30
    """How long a port is drained after its connection is over."""
    silence_s: float = 30.0
    """How long a side that should send may be quiet before that is told; 0: for ever."""


class RtpengineRelay(MediaRelay):
    """Spreads connections over the daemons that are alive; a connection stays with the one that it began with."""

    def __init__(self, settings: RtpengineSettings) -> None:
        self._settings = settings
        self._report: Callable[[RelayEvent], None] = _unheard
        self._nodes: list[Node] = []
        self._leftovers: dict[Node, set[str]] = {}
        """Calls that a lost daemon may still have; deleted when it comes back."""
        self._calls: dict[ConnectionId, Call] = {}
        self._allocating: set[ConnectionId] = set()
        self._up = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._digits: asyncio.DatagramTransport | None = None
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether a daemon is alive to take a connection."""
        return self._up.is_set()

    @property
    def connections(self) -> int:
        """How many are allocated now."""
        return len(self._calls)

    async def start(self, report: Callable[[RelayEvent], None]) -> None:
        self._report = report
        loop = asyncio.get_running_loop()
        if self._settings.digits is not None:
            try:
                self._digits, _ = await loop.create_datagram_endpoint(
                    lambda: _Digits(self._digit), local_addr=self._settings.digits
                )
            except OSError as error:
                raise MediaError(f"can't listen for rtpengine's digits: {error.strerror or error}") from error
        for host, port in self._settings.nodes:
            # A daemon that isn't there yet is no reason not to start: it is left out until it answers.
            self._nodes.append(Node(host, port, self._changed))
        self._leftovers = {node: set() for node in self._nodes}
        await asyncio.gather(*(node.open() for node in self._nodes))
        self._watching = asyncio.create_task(self._watch(), name="rtpengine calls")

    async def allocate(self, connection_id: ConnectionId, *, country: str) -> dict[Side, Address]:
        if connection_id in self._calls or connection_id in self._allocating:
            raise NotAllowed(f"connection {connection_id} has its media ports already")
        self._allocating.add(connection_id)
        try:
            call = await self._place(connection_id, country)
        finally:
            self._allocating.discard(connection_id)
        if not call.node.up:
            raise MediaError(f"rtpengine {call.node} is gone")
        self._calls[connection_id] = call
        return dict(call.ports)

    def connect(
        self,
        connection_id: ConnectionId,
        side: Side,
        remote: Address | None,
        format: Format,
        *,
        plays_from: Address | None = None,
        sends: bool = True,
        srtp: Srtp | None = None,
        rtcp_port: int | None = None,
    ) -> None:
        if (call := self._calls.get(connection_id)) is None:
            return
        if srtp is not None:
            raise MediaError('rtpengine makes SRTP keys of its own: use media.relay = "worker"', permanent=True)
        line = call.lines[side]
        if (place := remote or plays_from) is not None:
            check_host(place.host, call.ports[side].host)
            line.remote, line.rtcp_port = place, rtcp_port
        line.held, line.format = remote is None, format
        watched = sends and not line.held
        if watched and line.quiet_since is None:
            line.quiet_since = asyncio.get_running_loop().time()
        elif not watched:
            line.quiet_since = None
        line.sends = watched
        self._order(call, lambda: self._connect(call, side))

    def play_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._order(call, lambda: self._play(call, side))

    def stop_ringing(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._order(call, lambda: self._stop(call, side))

    def play_warning(self, connection_id: ConnectionId, side: Side) -> None:
        if call := self._calls.get(connection_id):
            self._order(call, lambda: self._warn(call, side))

    async def join(self, connection_id: ConnectionId) -> None:
        call = self._calls.get(connection_id)
        if call is None:
            raise MediaError(f"the media relay has no connection {connection_id}")
        formats = [line.format for line in call.lines.values() if line.format is not None]
        if len({(format.name, format.clock_rate) for format in formats}) > 1:
            raise MediaError(
                f"the sides of {connection_id} are coded differently, and nothing here transcodes", permanent=True
            )
        if len({format.payload_type for format in formats}) > 1:
            numbers = " and ".join(str(format.payload_type) for format in formats)
            raise MediaError(
                f"the sides of {connection_id} number their codec {numbers}, and rtpengine doesn't change numbers",
                permanent=True,
            )
        joined = asyncio.get_running_loop().create_future()
        self._order(call, lambda: self._join(call), joined)
        await joined

    async def release(self, connection_id: ConnectionId) -> dict[Side, Statistics]:
        call = self._calls.pop(connection_id, None)
        if call is None:
            return {}
        released = asyncio.get_running_loop().create_future()
        self._order(call, lambda: self._delete(call, self._settings.rest_s), released)
        try:
            await released
        except MediaError as error:
            # What a daemon knew that is gone is lost; it ends the call by itself, or when it comes back.
            self._leftovers[call.node].add(call.number)
            _log.warning("no statistics of connection %s: %s", connection_id, error)
            return {}
        return {side: statistics(line) for side, line in call.lines.items()}

    def capacity(self) -> int:
        return sys.maxsize  # Its daemons have ports of their own, and don't tell how many.

    def problems(self) -> list[str]:
        return [] if self.ready else ["no rtpengine of [media] rtpengine answers"]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._up.clear()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        calls = list(self._calls.values())
        self._calls.clear()
        waiting = []
        for call in calls:
            deleted = asyncio.get_running_loop().create_future()
            self._order(call, lambda call=call: self._delete(call, 0), deleted)  # type: ignore[misc]
            waiting.append(deleted)
        await asyncio.gather(*waiting, return_exceptions=True)
        for node in self._nodes:
            await node.close()
        if self._digits is not None:
            self._digits.close()

    # --- one thing after the other ---

    def _order(
        self, call: Call, action: Callable[[], Awaitable[None]], done: "asyncio.Future[None] | None" = None
    ) -> None:
        """Do `action` when all that was ordered for the call before is done; `done` gets its end."""
        before = call.tail

        async def act() -> None:
            if before is not None:
                await asyncio.wait([before])
            try:
                await action()
            except MediaError as error:
                if done is not None and not done.done():
                    done.set_exception(error)
                else:
                    _log.warning("connection %s: %s", call.id, error)
                if isinstance(error, NgError) and self._calls.get(call.id) is call:
                    await self._lose_if_unknown(call)
            else:
                if done is not None and not done.done():
                    done.set_result(None)

        call.tail = asyncio.create_task(act())

    def _ask(self, call: Call, command: str, **fields: Any) -> Awaitable[dict[str, Any]]:
        return call.node.ask(command, call_id=call.number, **fields)

    async def _describe(self, call: Call, command: str, offerer: Side, whose: Side) -> dict[str, Any]:
        """Tell the daemon of `whose` side within an exchange that `offerer` begins."""
        line, other = call.lines[whose], call.lines[whose.other]
        # A side that is not connected yet is described in the other one's codec, with media nowhere.
        body = describe(call.ports.get(whose), line.remote, line.format or other.format, line.rtcp_port)
        tags = {"from_tag": offerer.value, "to_tag": offerer.other.value}
        return await self._ask(call, command, **tags, sdp=body, flags=FLAGS, ICE="remove")

    async def _place(self, connection_id: ConnectionId, country: str) -> Call:
        if not self._up.is_set() and not self._closed:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._up.wait()
            except TimeoutError as error:
                raise MediaError("no rtpengine answers: see media.rtpengine") from error
        loads = {node: sum(call.node is node for call in self._calls.values()) for node in self._nodes if node.up}
        refusal = MediaError("no rtpengine answers: see media.rtpengine")
        for node in sorted(loads, key=lambda node: loads[node]):
            call = Call(connection_id, node, f"{connection_id}-{secrets.token_hex(4)}", country, {})
            try:
                offered = await self._describe(call, "offer", Side.A, Side.A)
                answered = await self._describe(call, "answer", Side.A, Side.B)
                for side in Side:
                    await self._ask(call, "block media", from_tag=side.value)
                # What is made for B of A's description is where B sends to, and the reverse.
                call.ports = {Side.A: local_address(answered), Side.B: local_address(offered)}
            except MediaError as error:
                node.tell("delete", call_id=call.number, delete_delay=0)
                refusal = error
            except BaseException:  # above all a cancelled caller: nobody would give these ports back
                node.tell("delete", call_id=call.number, delete_delay=0)
                raise
            else:
                return call
        raise refusal

    async def _connect(self, call: Call, side: Side) -> None:
        await self._describe(call, "offer", side, side)
        await self._describe(call, "answer", side, side.other)
        if call.lines[side].ringing:
            await self._stop(call, side)
            await self._play(call, side)
        await self._flow(call)

    async def _play(self, call: Call, side: Side) -> None:
        line = call.lines[side]
        if line.format is None or line.format.name not in SILENCE or line.held or line.ringing or call.joined:
            return
        wav = ringing_wav(call.country)
        await self._ask(call, "play media", from_tag=side.value, blob=wav, repeat_times=1_000_000)
        line.ringing = True

    async def _warn(self, call: Call, side: Side) -> None:
        # Nothing is passed on any more: rtpengine would send both.
        call.joined = False
        await self._flow(call)
        await self._stop(call, side)
        line = call.lines[side]
        if line.format is not None and line.format.name in SILENCE and not line.held:
            await self._ask(call, "play media", from_tag=side.value, blob=warning_wav(), repeat_times=1_000_000)

    async def _stop(self, call: Call, side: Side) -> None:
        if call.lines[side].ringing:
            call.lines[side].ringing = False
            await self._ask(call, "stop media", from_tag=side.value)

    async def _join(self, call: Call) -> None:
        call.joined = True
        call.count(await self._look(call))  # also where nothing changes: whoever joins hears that it is lost
        for side in Side:
            await self._stop(call, side)
        await self._flow(call)

    async def _flow(self, call: Call) -> None:
        """Pass on what each side says if it should be, and block it if not."""
        wanted = {side: call.joined and hears(call.lines[side.other], call.lines[side]) for side in Side}
        changing = [side for side in Side if wanted[side] is not call.lines[side].passed]
        if changing:
            call.count(await self._look(call))
        for side in changing:
            await self._ask(call, "unblock media" if wanted[side] else "block media", from_tag=side.value)
            call.lines[side].passed = wanted[side]

    async def _delete(self, call: Call, rest_s: int) -> None:
        call.count(await self._look(call))
        for side in Side:
            await self._ask(call, "block media", from_tag=side.value)
        # Until then rtpengine keeps the ports, and drops what comes.
        await self._ask(call, "delete", delete_delay=rest_s)

    # --- what the daemons see ---

    async def _look(self, call: Call) -> dict[Side, Traffic]:
        return traffic(await self._ask(call, "query"))

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S / 4)
            for call in [call for call in self._calls.values() if call.look_at <= loop.time()]:
                if self._calls.get(call.id) is not call:
                    continue
                try:
                    self._notice(call, await self._look(call), loop.time())
                except NgError:
                    await self._lose_if_unknown(call)
                except MediaError as error:
                    _log.debug("connection %s can't be looked at: %s", call.id, error)

    def _notice(self, call: Call, seen: dict[Side, Traffic], now: float) -> None:
        """Tell who is heard for the first time, and who is silent."""
        before = {side: line.received for side, line in call.lines.items()}
        call.count(seen)
        silence_s = self._settings.silence_s
        for side, line in call.lines.items():
            if line.received and not line.heard and line.remote is not None:
                line.heard = True
                self._report(Heard(call.id, side, line.remote))
            if line.received != before[side] and line.sends:
                line.quiet_since = now
            elif silence_s and line.quiet_since is not None and now - line.quiet_since >= silence_s:
                self._report(Silent(call.id, side, round(now - line.quiet_since, 1)))
                line.quiet_since = None
        heard = all(line.heard for line in call.lines.values())
        longest = min(LONGEST_LOOK_S, silence_s / 3) if silence_s else LONGEST_LOOK_S
        call.look_at = now + (longest if heard else min(LOOK_S, longest))

    def _digit(self, data: bytes) -> None:
        try:
            told = json.loads(data)
            number, side, key = str(told["callid"]), Side(told["source_tag"]), KEYS[int(told["event"])]
            duration_ms = int(told["duration"])
        except (ValueError, LookupError, TypeError):
            return  # Whatever it was, it was no key of ours.
        connection_id = ConnectionId(number.rpartition("-")[0])
        call = self._calls.get(connection_id)
        if call is not None and call.number == number:
            self._report(Digit(connection_id, side, key, duration_ms))

    # --- daemons that come and go ---

    def _changed(self, node: Node, up: bool) -> None:
        if any(each.up for each in self._nodes):
            self._up.set()
        else:
            self._up.clear()
        if up:
            leftovers, self._leftovers[node] = self._leftovers[node], set()
            for number in leftovers:
                node.tell("delete", call_id=number, delete_delay=0)
            return
        for call in [call for call in self._calls.values() if call.node is node]:
            self._leftovers[node].add(call.number)
            self._lose(call, f"rtpengine {node} is gone")

    async def _lose_if_unknown(self, call: Call) -> None:
        """A daemon that was started again answers, but knows nothing of the connection."""
        try:
            await self._look(call)
        except NgError as error:
            if self._calls.get(call.id) is call:
                self._lose(call, f"rtpengine {call.node} has lost it: {error}")
        except MediaError:
            return  # The node's own watch decides.

    def _lose(self, call: Call, why: str) -> None:
        del self._calls[call.id]
        self._report(Lost(call.id, why))


class _Digits(asyncio.DatagramProtocol):
    """Where the daemons' `dtmf-log-dest` goes."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) <= MAX_DIGIT_BYTES:
            self._heard(data)


def _unheard(event: RelayEvent) -> None:
    """Whom a relay reports to before it is started."""
