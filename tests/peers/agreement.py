"""
Does what the phones saw agree with our journal? Read from SIPp's own message logs, message by message.

The rules are those of RFC 3261 and of the design: each leg INVITEd at most once, every final answer acknowledged, one
BYE or CANCEL per leg that needed it, and a journal that tells the same story at the same times.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dosvoces.model import ConnectionId, Side, leg_id
from dosvoces.store import ConnectionRecord, Entry
from tests.peers.sipp import SipMessage, SippPhone

CLOCK_SLACK_S = 0.5  # between SIPp's clock reading and ours for the same event, on a busy machine
CHALLENGES = (401, 407, 422)
"""Answers to which the same request goes out again: for credentials, or for a longer session timer."""


def disagreements(
    records: Sequence[ConnectionRecord],
    journals: Mapping[ConnectionId, Sequence[Entry]],
    phones: Mapping[Side, SippPhone],
) -> list[str]:
    """Every contradiction in words; empty if there is none."""
    found: list[str] = []
    messages = {side: phone.messages for side, phone in phones.items()}
    known = {leg_id(record.id, side) for record in records for side in Side}
    for side, seen in messages.items():
        strangers = {m.call_id for m in seen if _leg_of(m) not in known}
        found += [f"phone {side} saw a call that the record doesn't know: {call}" for call in strangers]
    for record in records:
        for side in phones:
            leg = leg_id(record.id, side)
            mine = [m for m in messages[side] if _leg_of(m) == leg]
            astray = [m for other in phones for m in messages[other] if other is not side and _leg_of(m) == leg]
            found += [f"{leg}: {message} came to the other phone" for message in astray]
            journal = [entry for entry in journals[record.id] if entry.side is side]
            found += [f"{leg}: {what}" for what in _leg_disagreements(mine, journal, record)]
    return found


def _leg_of(message: SipMessage) -> str:
    """The Call-ID is the leg's id and something random."""
    return message.call_id.rpartition("-")[0]


def _leg_disagreements(seen: list[SipMessage], journal: list[Entry], record: ConnectionRecord) -> Iterator[str]:
    ours = [m for m in seen if m.status is None and not m.sent]
    yield from _dialed_once(ours, seen, journal)
    if ours:
        yield from _finals_acknowledged(seen)
        yield from _hung_up_once(seen)
        yield from _cancelled_rightly(seen)
        yield from _told_the_same(seen, journal)


def _dialed_once(ours: list[SipMessage], seen: list[SipMessage], journal: list[Entry]) -> Iterator[str]:
    dialed = [entry for entry in journal if entry.event == "dialed"]
    invites = _initial_invites(seen)
    if bool(invites) != bool(dialed) or len(dialed) > 1:
        yield f"{len(invites)} INVITEs seen, journal says dialed {len(dialed)} times"
    if len({m.call_id for m in ours}) > 1:
        yield "dialled under two Call-IDs"
    challenged = [m for m in seen if m.sent and m.status in CHALLENGES and m.method == "INVITE"]
    if len(invites) > 1 + len({m.branch for m in challenged}):
        yield f"{len(invites)} INVITEs, {len(challenged)} challenged"
    if invites and dialed and not _same_time(dialed[0], invites[0]):
        yield f"INVITE seen at {invites[0].at}, journalled at {dialed[0].at.timestamp()}"


def _initial_invites(seen: list[SipMessage]) -> list[SipMessage]:
    """One for each transaction of ours."""
    return _unrepeated(m for m in seen if not m.sent and m.status is None and m.method == "INVITE" and not m.to_tag)


def _unrepeated(requests: Iterable[SipMessage]) -> list[SipMessage]:
    """The first of each transaction: a repeat has the branch of what it repeats (RFC 3261 §17.1.3)."""
    first: dict[str, SipMessage] = {}
    for request in requests:
        first.setdefault(request.branch, request)
    return list(first.values())


def _answers(seen: list[SipMessage], method: str, first: int, last: int) -> list[SipMessage]:
    """The phone's own answers to our requests."""
    return [m for m in seen if m.sent and m.method == method and m.status is not None and first <= m.status <= last]


def _finals_acknowledged(seen: list[SipMessage]) -> Iterator[str]:
    acks = [m for m in seen if not m.sent and m.status is None and m.method == "ACK"]
    initial = {m.branch for m in _initial_invites(seen)}
    for final in _answers(seen, "INVITE", 200, 699):
        if final.branch not in initial:
            continue  # the answer to a re-INVITE of ours
        if final.status is not None and final.status < 300:
            # RFC 3261 §13.2.2.4: an ACK of its own transaction, in the dialog of that To tag.
            if not any(a.to_tag == final.to_tag and a.cseq == final.cseq and a.branch not in initial for a in acks):
                yield f"{final} with tag {final.to_tag} was never acknowledged"
        elif not any(a.branch == final.branch and a.to_tag == final.to_tag for a in acks):
            yield f"{final} was never acknowledged (RFC 3261 §17.1.1.3)"


def _hung_up_once(seen: list[SipMessage]) -> Iterator[str]:
    """Each dialog that began has an end: one BYE of ours (again after a challenge), one of theirs, or both crossing."""
    for tag in {m.to_tag for m in _answers(seen, "INVITE", 200, 299)}:
        ours = {m.branch for m in seen if not m.sent and m.status is None and m.method == "BYE" and m.to_tag == tag}
        theirs = {m.branch for m in seen if m.sent and m.status is None and m.method == "BYE" and m.from_tag == tag}
        challenged = sum(1 for m in _answers(seen, "BYE", 401, 407) if m.status in CHALLENGES and m.branch in ours)
        if not ours and not theirs:
            yield f"nobody hung up the dialog with tag {tag}"
        if len(ours) - challenged > 1:
            yield f"{len(ours)} BYEs for the dialog with tag {tag}"
        for branch in theirs:
            if not any(not m.sent and m.status is not None and m.branch == branch for m in seen):
                yield f"the phone's BYE was never answered (tag {tag})"


def _cancelled_rightly(seen: list[SipMessage]) -> Iterator[str]:
    cancels = {m.branch: m for m in seen if not m.sent and m.status is None and m.method == "CANCEL"}
    if len(cancels) > 1:
        yield f"{len(cancels)} CANCELs"
    for branch, cancel in cancels.items():
        before = [m for m in seen if m.sent and m.method == "INVITE" and m.branch == branch and m.at <= cancel.at]
        if not before:
            yield "CANCEL before any provisional answer (RFC 3261 §9.1)"


def _told_the_same(seen: list[SipMessage], journal: list[Entry]) -> Iterator[str]:
    told = {name: [entry for entry in journal if entry.event == name] for name in ("ringing", "answered", "ended")}
    cancelled = any(not m.sent and m.method == "CANCEL" and m.status is None for m in seen)
    answered = _answers(seen, "INVITE", 200, 299)
    if len(told["ended"]) != 1:
        yield f"journal says ended {len(told['ended'])} times"
        return
    (ended,) = told["ended"]
    if len(told["answered"]) > 1 or (told["answered"] and not answered):
        yield "answered according to the journal, not to the phone"
    if told["ringing"] and not _answers(seen, "INVITE", 180, 183):
        yield "ringing according to the journal, not to the phone"
    if answered and not told["answered"] and not cancelled and ended.facts["reason"] != "failed":
        yield "the phone answered and the journal doesn't say so"
    if told["answered"] and not any(_same_time(told["answered"][0], message) for message in answered):
        yield "the phone answered at another time than the journal says"
    within = {m.branch for m in seen if m.status is None and m.method == "INVITE" and m.to_tag}
    refusals = [m for m in _answers(seen, "INVITE", 300, 699) if m.status not in CHALLENGES]
    refused = [m for m in refusals if m.branch not in within]
    if refused and not cancelled and not str(ended.facts["detail"]).startswith(str(refused[0].status)):
        yield f"the phone said {refused[0].first_line}, the journal {ended.facts}"
    # A phone that lost our 200 repeats its BYE when all is over.
    byes = _unrepeated(m for m in seen if m.method == "BYE" and m.status is None)
    if told["answered"] and ended.facts["reason"] == "hangup" and not byes:
        yield "hung up according to the journal, and nobody said BYE"
    if any(message.at > ended.at.timestamp() + CLOCK_SLACK_S for message in byes):
        yield "a BYE after the journal's end"


def _same_time(entry: Entry, message: SipMessage) -> bool:
    return abs(entry.at.timestamp() - message.at) <= CLOCK_SLACK_S
