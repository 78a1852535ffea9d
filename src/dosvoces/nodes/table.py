"""The nodes as a table for people. Pure text."""

from datetime import datetime, timedelta

from dosvoces.nodes.rules import Times
from dosvoces.store.roll import Glance, Node

_COLUMNS = ("NAME", "ID", "URL", "VERSION", "SINCE (UTC)", "BEAT", "OPEN", "STATE")


def render_nodes(glance: Glance, times: Times) -> str:
    """One line each, the oldest first; and whether all calls are stopped."""
    stop = glance.stopped
    told = "" if stop is None else f"ALL CALLS ARE STOPPED since {stop.at:%Y-%m-%d %H:%M:%S} UTC, by {stop.by}\n"
    return told + _table(glance, times)


def _table(glance: Glance, times: Times) -> str:
    if not glance.nodes:
        return "No node is running on this record."
    rows = [_COLUMNS, *(_row(node, glance.now, times) for node in glance.nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def state_of(node: Node, now: datetime, times: Times) -> str:
    """`up`, `draining`, `silent` (past its fence: it acts no more), `dead`, or whose it is to settle."""
    silence = now - node.beat_at
    if node.heir is not None:
        return f"dead, {node.heir} settles it"
    if silence > timedelta(seconds=times.dead_s):
        return "dead"
    if silence > timedelta(seconds=times.fence_s):
        return "silent"
    return "draining" if node.sign.draining or node.drain_by is not None else "up"


def _row(node: Node, now: datetime, times: Times) -> tuple[str, ...]:
    return (
        node.identity.name,
        node.id,
        node.sign.url or "-",
        node.identity.version,
        f"{node.started_at:%Y-%m-%d %H:%M:%S}",
        f"{max(0.0, (now - node.beat_at).total_seconds()):.1f} s",
        f"{node.sign.open_connections}/{node.identity.capacity}",
        state_of(node, now, times),
    )
