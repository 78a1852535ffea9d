"""Who is dead, and who is to settle what the dead left: pure, from a look at the roll."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

from dosvoces.model import NodeId
from dosvoces.store.roll import Glance, Node


@dataclass(frozen=True, slots=True)
class Times:
    """How a node shows that it lives, and when it no longer counts as living. Each is longer than the one before."""

    beat_s: float = 2.0
    """From one beat to the next."""
    fence_s: float = 8.0
    """How long without one a node may act."""
    dead_s: float = 15.0
    """After how long without one others settle what it left."""


def inheritable(glance: Glance, *, me: NodeId, dead_s: float, steady: bool, gone: Callable[[Node], bool]) -> list[Node]:
    """
    Those that are dead and have no living heir but me.

    A node is dead when it is `gone` for certain, or has been silent for `dead_s`; that counts only if I am `steady`,
    having beaten for as long myself: after a failure of the database all look dead, and all of them are on their way
    back.
    """
    dead = {
        node.id for node in glance.nodes if node.id != me and (gone(node) or (steady and _silent(glance, node, dead_s)))
    }
    alive = {node.id for node in glance.nodes} - dead
    return [node for node in glance.nodes if node.id in dead and (node.heir is None or node.heir not in alive)]


def with_room(glance: Glance, *, me: NodeId, fence_s: float) -> list[Node]:
    """Other nodes that had room for a connection at their last beat, and may act still; the emptiest first."""
    found = [
        node
        for node in glance.nodes
        if node.id != me
        and node.heir is None
        and not node.sign.draining
        and not _silent(glance, node, fence_s)
        and node.sign.open_connections < node.identity.capacity
    ]
    return sorted(found, key=lambda node: node.sign.open_connections / node.identity.capacity)


def _silent(glance: Glance, node: Node, for_s: float) -> bool:
    return glance.now - node.beat_at > timedelta(seconds=for_s)


def gone_from(place: str, *, former: Collection[NodeId], runs: Callable[[int, int], bool]) -> Callable[[Node], bool]:
    """
    Whether a node is gone for certain, as seen from a process at `place`.

    It is if it was this process before it lost its lease (`former`), or ran where this one runs and its process, by
    number and birth, `runs` no more: then nobody has to wait for it to be silent long enough.
    """

    def gone(node: Node) -> bool:
        there = node.identity
        return node.id in former or (bool(place) and there.place == place and not runs(there.pid, there.born))

    return gone
