"""The mail server of a run: it takes most mails, and misbehaves at random at every step."""

import random
from email import message_from_bytes
from typing import cast

from aiosmtpd.smtp import Envelope, Session

from tests.chaos.logs import Witness
from tests.peers.smtp_server import Drop, DropTaken, Fault, FaultySmtp, Reply, ScriptedSession, Stall, Step

FAULTS: dict[Step, tuple[Fault, ...]] = {
    "banner": (Drop(), Reply("421 4.3.2 come back later")),
    "mail": (Reply("451 4.7.1 greylisted"), Drop()),
    "rcpt": (Reply("450 4.2.1 busy"), Reply("550 5.1.1 nobody here"), Stall()),
    "data": (Reply("452 4.3.1 full"), Drop()),
    "body": (Drop(),),
    "dot": (Reply("554 5.6.0 not wanted"), Drop(), DropTaken(), Stall()),
}


class ChaoticSmtp(FaultySmtp):
    """`rate` is how often a step goes wrong; what was taken is with the witness, and not kept here."""

    def __init__(self, witness: Witness, faults: Witness, rng: random.Random, rate: float) -> None:
        super().__init__()
        self._witness = witness
        self._faults = faults
        self._rng = rng
        self._rate = rate

    def fault_at(self, step: Step) -> Fault | None:
        if step not in FAULTS or self._rng.random() >= self._rate:
            return None
        fault = self._rng.choice(FAULTS[step])
        self._faults.note(kind="mail", how=f"{step} {_words(fault)}")
        return fault

    def welcome(self, session: ScriptedSession) -> None:
        self._sessions = [each for each in self._sessions if each.is_open]
        super().welcome(session)

    def take(self, session: ScriptedSession, envelope: Envelope, peer: Session) -> None:
        message_id = message_from_bytes(cast(bytes, envelope.content))["Message-ID"]
        self._witness.note(to=envelope.rcpt_tos, message_id=message_id)


def _words(fault: Fault) -> str:
    return fault.line[:3] if isinstance(fault, Reply) else type(fault).__name__.lower()
