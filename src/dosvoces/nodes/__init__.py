"""
One of many: this process as a node beside others on the same record.

It beats, and acts while its beats arrive (`lease.py`). It settles what dead nodes left (`rules.py` says who is dead),
and does what is asked of it through the record. On SQLite it is the only one, and the same code runs.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import structlog

from dosvoces.errors import StoreError
from dosvoces.model import ConnectionId, NodeId, Outcome, node_id
from dosvoces.nodes.lease import Lease, awake_or_not
from dosvoces.nodes.place import runs
from dosvoces.nodes.rules import Times, gone_from, inheritable, with_room
from dosvoces.store import Store
from dosvoces.store.roll import Glance, Identity, Node, Roll, Sign

__all__ = ["Lease", "Membership", "Times"]

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""From one look at what is asked of this node to the next."""
FENCED = "the database doesn't answer: this node has hung up its calls, and takes new ones when it does"


class Calls(Protocol):
    """What a node has of connections: the switchboard."""

    @property
    def open_connections(self) -> int: ...
    @property
    def idle(self) -> bool:
        """Whether nothing is under way, nor beginning."""

    @property
    def draining(self) -> bool: ...
    @property
    def fenced(self) -> bool: ...
    def fence(self, why: str) -> None:
        """Let go of everything, hang up, and take nothing new until `unfence`."""

    def unfence(self) -> None: ...
    def cancel(self, connection_id: ConnectionId, *, by: str) -> bool: ...
    def drain(self, *, by: str, limit_s: float | None) -> object: ...
    def stop_calls(self, *, by: str) -> None:
        """End everything that is open, and take nothing new until `resume_calls`."""

    def resume_calls(self) -> None: ...
    async def settle_leftovers(self) -> None:
        """Hang up and settle what is this node's in the record and not under way here. Raises `StoreError`."""


class Membership:
    """This process's place among the nodes; `calls` is given when it starts."""

    def __init__(
        self,
        *,
        roll: Roll,
        store: Store,
        identify: Callable[[NodeId], Identity],
        times: Times = Times(),  # noqa: B008  # frozen
        alone: bool = False,
        clock: Callable[[], float] = awake_or_not,
    ) -> None:
        """
        `identify`: what this process says of itself as a node. `alone`: nobody else can work on the record, so nobody
        is waited for, and none can take what is ours.
        """
        self._roll = roll
        self._store = store
        self._identify = identify
        self._times = times
        self._alone = alone
        self._clock = clock
        self._lease = self._new_lease()
        self._joined_at = clock()
        self._beat_due = clock()
        self._former: set[NodeId] = set()
        self._unsettled = True
        self._sweep_due = clock() + times.dead_s
        self._settling: asyncio.Task[None] | None = None
        self._calls: Calls | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._glance: Glance | None = None
        self._stopped = False
        self._drain_asked: tuple[str | None, datetime | None] = (None, None)
        """Who asked to drain, and until when, as last heard: asked again with a limit, that counts as well."""
        self.tell_inherited: Callable[[], None] = lambda: None
        """Called when a node was declared dead, and its heir is this one."""
        self.url = ""
        """Where this node's API listens, once it does."""

    def holds_lease(self) -> bool:
        """Whether this node may act now."""
        return self._lease.held()

    def others_with_room(self) -> list[Node]:
        """Living nodes that had room for one more connection when they were last seen; the emptiest first."""
        if self._glance is None or self._alone:
            return []
        return with_room(self._glance, me=self._store.node, fence_s=self._times.fence_s)

    async def cancel(self, connection_id: ConnectionId, *, by: str, who: str = "") -> bool | None:
        """
        End a connection of any node, in whatever state. The audit is told that `who` did it, else `by`.

        Returns `False` if it is over already, `None` if there is no such connection. Raises `StoreError`.
        """
        if self._calls is not None and self._calls.cancel(connection_id, by=by):
            await self._note_hangup(connection_id, who or by)
            return True
        # One that waits for its time or for a node has nobody to ask.
        if await self._store.waiting.end(connection_id, Outcome.CANCELLED, by=by, at=datetime.now(UTC)):
            await self._note_hangup(connection_id, who or by)
            return True
        return await self._roll.ask_to_cancel(connection_id, by=by, who=who)

    async def _note_hangup(self, connection_id: ConnectionId, who: str) -> None:
        try:
            await self._roll.note_hangup(connection_id, who=who)
        except StoreError as error:  # It is done: who asked for it is told so.
            log.warning("hang-up not in the audit", connection=connection_id, who=who, error=str(error))

    async def stop_calls(self, *, by: str) -> bool:
        """End all calls on all nodes, and let none be begun; `False` if that is so already. Raises `StoreError`."""
        return await self._roll.stop_calls(by=by)

    async def resume_calls(self, *, by: str) -> bool:
        """Let calls be made again; `False` if they may be already. Raises `StoreError`."""
        return await self._roll.resume_calls(by=by)

    async def live_nodes(self) -> list[NodeId]:
        """Those on the roll that nobody has declared dead, this one among them. Raises `StoreError`."""
        glance = await self._roll.look()
        return [self._store.node, *(node.id for node in glance.nodes if node.heir is None)]

    async def start(self, calls: Calls) -> None:
        """Join, and settle what is left of processes that are gone for certain. Raises `StoreError`."""
        self._calls = calls
        await self._roll.open()
        await self._join()
        await self._look()
        self._tasks = [
            asyncio.create_task(self._beat_and_look(), name="node"),
            asyncio.create_task(self._watch_lease(), name="lease"),
        ]
        await self._settle()

    async def close(self) -> None:
        """Leave, after the switchboard has closed; idempotent."""
        tasks, self._tasks = self._tasks, []
        if self._settling is not None:
            tasks.append(self._settling)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if tasks:
            try:
                await asyncio.wait_for(self._roll.leave(self._store.node), self._times.beat_s)
            except (StoreError, TimeoutError) as error:
                log.warning("node not taken off the roll", error=str(error))
        await self._roll.close()

    # --- beating ---

    async def _beat_and_look(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, self._times.beat_s / 2))
            try:
                await self._once()
            except StoreError as error:
                log.warning("node not noted", error=str(error))
            except Exception:  # The loop's edge: without beats this node would hang up all its calls, for ever.
                log.exception("node failed inside")

    async def _once(self) -> None:
        assert self._calls is not None
        if self._calls.fenced:
            await self._come_back()
            return
        if self._clock() >= self._beat_due:
            await self._beat()
        await self._look()
        if self._unsettled and (self._settling is None or self._settling.done()):
            # Apart from the beats: far ends may take their time to confirm.
            self._settling = asyncio.create_task(self._settle_later(), name="settle leftovers")

    async def _beat(self) -> None:
        calls = self._calls
        assert calls is not None
        sent_at = self._clock()
        sign = Sign(open_connections=calls.open_connections, draining=calls.draining, url=self.url)
        if not await self._roll.beat(self._store.node, sign):
            self._lease.lose()
            self._fence()
            return
        self._lease.renew(sent_at)
        self._beat_due = sent_at + self._times.beat_s

    async def _watch_lease(self) -> None:
        """On its own: a database that answers nothing holds the beats up, and not this."""
        while True:
            await asyncio.sleep(self._times.beat_s / 4)
            if not self._lease.held():
                self._fence()

    def _fence(self) -> None:
        assert self._calls is not None
        if not self._calls.fenced:
            log.error("lease lost", node=self._store.node, open_connections=self._calls.open_connections)
            self._calls.fence(FENCED)

    async def _come_back(self) -> None:
        """As another node, once nothing is left of this one: others may have taken what was its own."""
        assert self._calls is not None
        if not self._calls.idle:
            return
        await self._roll.look()  # The database answers: what follows will most likely be done.
        self._former.add(self._store.node)
        self._store.node = node_id(datetime.now(UTC), secrets.randbits(80))
        await self._join()
        self._unsettled = True
        self._calls.unfence()
        log.info("back as another node", node=self._store.node)

    async def _join(self) -> None:
        sent_at = self._clock()
        await self._roll.join(self._identify(self._store.node))
        self._lease = self._new_lease()
        self._lease.renew(sent_at)
        self._joined_at = sent_at
        self._beat_due = sent_at + self._times.beat_s

    def _new_lease(self) -> Lease:
        return Lease(None if self._alone else self._times.fence_s, self._clock)

    # --- looking ---

    async def _look(self) -> None:
        """See what is asked of this node, and take over what the dead left."""
        calls, me = self._calls, self._store.node
        assert calls is not None
        glance = self._glance = await self._roll.look(me)
        if glance.stopped is not None and not self._stopped:
            calls.stop_calls(by=glance.stopped.by)
        elif glance.stopped is None and self._stopped:
            calls.resume_calls()
        self._stopped = glance.stopped is not None
        if not self._lease.held():
            return
        for connection_id, by in glance.cancels:
            if not calls.cancel(connection_id, by=by):
                await self._store.waiting.end(connection_id, Outcome.CANCELLED, by=by, at=datetime.now(UTC))
        for node in glance.nodes:
            asked = (node.drain_by, node.drain_until)
            if node.id == me and node.drain_by is not None and asked != self._drain_asked:
                self._drain_asked = asked
                left = None if node.drain_until is None else (node.drain_until - glance.now).total_seconds()
                calls.drain(by=node.drain_by, limit_s=left)
                self._beat_due = self._clock()  # Who asked wants to see it.
        await self._inherit(glance)

    async def _inherit(self, glance: Glance) -> None:
        me = self._store.node
        steady = self._clock() - self._joined_at >= self._times.dead_s
        gone = gone_from(self._identify(me).place, former=self._former, runs=runs)
        for node in inheritable(
            glance, me=me, dead_s=self._times.dead_s, steady=steady, gone=lambda node: self._alone or gone(node)
        ):
            if await self._roll.inherit(node, me):
                log.warning("node is dead, its connections are ours to settle", dead=node.id, name=node.identity.name)
                self._unsettled = True
                self.tell_inherited()
        # Left unsettled by a failure in between: this node is the heir, and must go on until it has settled.
        self._unsettled = self._unsettled or any(node.heir == me for node in glance.nodes)
        if self._clock() >= self._sweep_due:
            # What a process wrote that was frozen until nobody knew it any more has no owner on the roll.
            self._sweep_due = self._clock() + self._times.dead_s
            self._unsettled = True

    async def _settle(self) -> None:
        calls = self._calls
        assert calls is not None
        self._unsettled = False
        try:
            await calls.settle_leftovers()
            await self._roll.retire(self._store.node)
        except BaseException:
            self._unsettled = True
            raise

    async def _settle_later(self) -> None:
        try:
            await self._settle()
        except StoreError as error:
            log.warning("leftovers not settled yet", error=str(error))
        except Exception:  # The loop's edge: it is tried again.
            log.exception("leftovers not settled")
