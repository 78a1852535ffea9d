"""Trial runs: connections that ring nobody. Everything about them is real but for what leaves the machine."""

from dataclasses import dataclass

from dosvoces.carriers import Carrier
from dosvoces.mail import Mailbox
from dosvoces.switchboard.admission import Admission
from dosvoces.switchboard.live import Parts

MAX_TRIALS = 100
"""Trial runs open at once on one node: they take no room from real connections, and are not let grow without end."""
MAX_TRIALS_WORDS = "there may be trial runs at once on one node"


@dataclass(frozen=True, slots=True)
class Trial:
    """What stands in the place of the carrier and the mailbox: a connection of a test key has no way to the others."""

    carrier: Carrier
    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class World:
    """What a connection works with, and the door to it: the real one, or that of trial runs."""

    parts: Parts
    admission: Admission
