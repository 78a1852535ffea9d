"""
What happens to a connection (events, past or state) and what is to be done about it (commands): the core's vocabulary.

Pure values; `core.step` takes the first and gives the second.
"""

from dataclasses import dataclass, field

from dosvoces.model import EndReason, Outcome, Side

# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class Started:
    """The connection is in the durable record."""


@dataclass(frozen=True, slots=True)
class MailSent:
    """The mail was accepted."""


@dataclass(frozen=True, slots=True)
class MailRefused:
    """The mail was not accepted, or nobody knows whether it was."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Dialed:
    """The INVITE left: the interval and the ring time-out count from now."""

    side: Side
    via: str = field(default="", compare=False)
    """The way it took, for the journal: the trunk's name and address."""


@dataclass(frozen=True, slots=True)
class Ringing:
    side: Side


@dataclass(frozen=True, slots=True)
class Answered:
    side: Side


@dataclass(frozen=True, slots=True)
class Ended:
    """The leg is over and nobody is left on it. `detail` has the carrier's words: SIP code and text."""

    side: Side
    reason: EndReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unreached:
    """
    The dial is over and can have rung nobody, and the carrier has another way to the number.

    It stands in the place of `Ended`; whether the number is dialled again is the core's decision.
    """

    side: Side
    way: str
    """The way that failed, in the carrier's words: `Call.avoid` names it when the number is dialled again."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """Both hear each other."""


@dataclass(frozen=True, slots=True)
class Unjoined:
    """The media between them is gone, or could not be made."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Elapsed:
    """Time passed: whatever is due by now is done."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants it ended: a client, an operator, a shutdown."""

    by: str


@dataclass(frozen=True, slots=True)
class LostAtRestart:
    """The process that carried it died, or must let it go; whatever is up is hung up, nothing is dialled again."""

    by: str = "restart"
    """What took it away: `restart`, `fence`, `taken`."""


Event = (
    Started
    | MailSent
    | MailRefused
    | Dialed
    | Ringing
    | Answered
    | Ended
    | Unreached
    | Joined
    | Unjoined
    | Elapsed
    | Cancel
    | LostAtRestart
)


# --- commands: what is to be done ---


@dataclass(frozen=True, slots=True)
class SendMail:
    """E-mail the lead."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Ring this side: the intent, with the attempt's number, is in the record before the INVITE leaves."""

    side: Side
    attempt: int = 1
    """A further one only follows an attempt that rang nobody."""


@dataclass(frozen=True, slots=True)
class PlayRinging:
    """Let this side hear its country's ringing tone."""

    side: Side


@dataclass(frozen=True, slots=True)
class Join:
    """Let both hear each other."""


@dataclass(frozen=True, slots=True)
class Hangup:
    """Release this leg, whatever its state."""

    side: Side


@dataclass(frozen=True, slots=True)
class Report:
    """It is over: record the outcome and tell whoever waits."""

    outcome: Outcome


Command = SendMail | Dial | PlayRinging | Join | Hangup | Report
