"""
Why a leg ended: a far end's status codes and Q.850 causes as `EndReason`s. Pure.

The carrier's own words stay beside it, in the detail.
"""

import re

from dosvoces.model import EndReason
from dosvoces.sip.api import CallEnd, EndCause, Withheld

STATUS_REASONS: dict[int, EndReason] = {
    486: EndReason.BUSY,  # Busy Here
    600: EndReason.BUSY,  # Busy Everywhere
    408: EndReason.NO_ANSWER,  # Request Timeout
    480: EndReason.NO_ANSWER,  # Temporarily Unavailable
    403: EndReason.REJECTED,  # Forbidden: what a decline becomes behind some PBXs
    603: EndReason.REJECTED,  # Decline
    404: EndReason.UNREACHABLE,  # Not Found
    410: EndReason.UNREACHABLE,  # Gone
    484: EndReason.UNREACHABLE,  # Address Incomplete
    604: EndReason.UNREACHABLE,  # Does Not Exist Anywhere
}
_VAGUE = frozenset({480})
"""Of those above: gateways use it for lack of a better one, so that a Q.850 cause beside it says more."""

_BY_Q850: dict[int, EndReason] = {
    # ITU-T Q.850 §2.2.7; what each would have been as a status: RFC 3398 §7.2.4.1, §8.2.6.1.
    1: EndReason.UNREACHABLE,  # unallocated number (404)
    17: EndReason.BUSY,  # user busy (486)
    18: EndReason.NO_ANSWER,  # no user responding (408)
    19: EndReason.NO_ANSWER,  # no answer from the user (480)
    20: EndReason.NO_ANSWER,  # subscriber absent (480)
    21: EndReason.REJECTED,  # call rejected (403)
    22: EndReason.UNREACHABLE,  # number changed (410)
    28: EndReason.UNREACHABLE,  # address incomplete (484)
}
"""What the network says of whoever was called. Causes of the network itself, such as 34 and 38, are not here."""

_BY_CAUSE: dict[EndCause, EndReason] = {
    EndCause.HANGUP: EndReason.HANGUP,
    EndCause.CANCELLED: EndReason.CANCELLED,
    EndCause.TIMEOUT: EndReason.UNREACHABLE,
    EndCause.TRANSPORT: EndReason.UNREACHABLE,
    # RFC 3261 §12.2.1.2: 481 to a request of ours; whoever knows nothing of the call has hung up, and its BYE was
    # overtaken or lost.
    EndCause.PROTOCOL: EndReason.HANGUP,
}

_QUOTED = re.compile(r'"[^"]*"')
_CAUSE = re.compile(r";\s*cause\s*=\s*([0-9]{1,3})\s*(?:;|$)", re.IGNORECASE)


def reason_of(end: CallEnd, *, answered: bool) -> EndReason:
    """Why the leg ended; `answered`: whether it was up before."""
    if end.cause is EndCause.REJECTED and end.status is not None:
        plain = STATUS_REASONS.get(end.status)
        if plain is None or end.status in _VAGUE:
            return callee_cause(end.detail) or plain or EndReason.FAILED
        return plain
    if end.cause is EndCause.HANGUP and end.by == "remote" and not answered:
        # A BYE in place of a refusal. After an answer it is a hang-up, whatever a gateway writes beside it.
        return callee_cause(end.detail) or EndReason.HANGUP
    return _BY_CAUSE.get(end.cause, EndReason.FAILED)


def callee_cause(detail: str) -> EndReason | None:
    """What a Q.850 cause in a Reason header (RFC 3326) tells of whoever was called; `None` if it tells nothing."""
    for value in _QUOTED.sub("", detail).split(","):
        protocol, _, rest = value.strip().partition(";")
        if protocol.strip().upper() == "Q.850":
            match = _CAUSE.search(f";{rest}")
            return _BY_Q850.get(int(match[1])) if match else None
    return None


def detail_of(end: CallEnd) -> str:
    """The carrier's own words: `486 Busy Here; Q.850;cause=17`."""
    status = f"{end.status} {end.phrase}".strip() if end.status is not None else end.phrase
    return "; ".join(part for part in (status, end.detail) if part)


def why_withheld(withheld: Withheld, trunk: str) -> str:
    """Why a challenge was left unanswered, and what to do if it should not have been."""
    if withheld.what == "address":
        here = f"{withheld.value} is no address of trunk {trunk}"
        return f"the challenge was not answered: {here}; if it should be, add it to `hosts` of that trunk"
    return (
        f'the challenge was not answered: its realm "{withheld.value}" is not one that trunk {trunk} asked'
        " with when the call began; if it should be answered, name it as `realm` of that trunk"
    )


# Reason headers (RFC 3326) of our own CANCEL and BYE.
NORMAL_CLEARING = 'Q.850;cause=16;text="Normal call clearing"'
TEMPORARY_FAILURE = 'Q.850;cause=41;text="Temporary failure"'
"""We give a leg up that nobody could talk on."""
