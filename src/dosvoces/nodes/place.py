"""What this process says of itself to the others, and what it can see of them."""

import os
import socket
from pathlib import Path

from dosvoces import __version__
from dosvoces.model import NodeId
from dosvoces.store.roll import Identity

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


def identity_of(node: NodeId, *, name: str, capacity: int) -> Identity:
    """This process as node `node`; `name` is the host's unless given."""
    host = socket.gethostname()
    pid = os.getpid()
    return Identity(
        id=node,
        name=name or host,
        host=host,
        pid=pid,
        born=_born(pid),
        place=_place(),
        version=__version__,
        capacity=capacity,
    )


def _place() -> str:
    """
    The same for processes that see each other: those of one boot of one machine, in one container of it if any.

    A host's name would not do: two containers may share it, and both call themselves process 1.
    """
    try:
        return f"{_BOOT_ID.read_text('ascii').strip()}/{_PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return ""


def runs(pid: int, born: int) -> bool:
    """Whether the process of that number is the one that began then."""
    return _born(pid) == born


def _born(pid: int) -> int:
    """When a process began, in ticks since boot; 0 if there is none. proc(5), `/proc/pid/stat`, field 22."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0
    # The second field is the program's name in brackets, which may hold anything.
    return int(stat.rpartition(")")[2].split()[19])
