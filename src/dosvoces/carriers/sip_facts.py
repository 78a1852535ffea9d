"""
What hanging up needs after a crash, as texts and numbers for the record and back: of a dial, and of a dialog.
"""

from dosvoces.model import Facts
from dosvoces.sip.api import DialogFacts, Hop, InviteFacts, InviteMark


def dial_facts(facts: InviteFacts, trunk: str) -> Facts:
    return {
        "trunk": trunk,
        "call_id": facts.call_id,
        "local": facts.local,
        "remote": facts.remote,
        "request_uri": facts.request_uri,
        "local_tag": facts.mark.local_tag,
        "branch_seed": facts.mark.seed,
        "sent_by": facts.mark.sent_by,
        "destination": _written(facts.destination),
    }


def dial_of(facts: Facts) -> InviteFacts:
    """What `dial_facts` wrote. Raises `KeyError` or `ValueError` for anything else."""
    return InviteFacts(
        call_id=str(facts["call_id"]),
        local=str(facts["local"]),
        remote=str(facts["remote"]),
        request_uri=str(facts["request_uri"]),
        destination=_hop(str(facts["destination"])),
        mark=InviteMark(str(facts["local_tag"]), str(facts["branch_seed"]), str(facts["sent_by"])),
    )


def dialog_facts(facts: DialogFacts, trunk: str) -> Facts:
    return {
        "trunk": trunk,
        "call_id": facts.call_id,
        "local": facts.local,
        "remote": facts.remote,
        "local_tag": facts.local_tag,
        "remote_tag": facts.remote_tag,
        "invite_cseq": facts.invite_cseq,
        "local_cseq": facts.local_cseq,
        "remote_target": facts.remote_target,
        "route_set": "\n".join(facts.route_set),
        "destination": _written(Hop(*facts.destination)),
        "realms": "\n".join(facts.realms),
    }


def dialog_of(facts: Facts) -> DialogFacts:
    """What `dialog_facts` wrote. Raises `KeyError` or `ValueError` for anything else."""
    return DialogFacts(
        call_id=str(facts["call_id"]),
        local=str(facts["local"]),
        remote=str(facts["remote"]),
        local_tag=str(facts["local_tag"]),
        remote_tag=str(facts["remote_tag"]),
        invite_cseq=int(facts["invite_cseq"] or 0),
        local_cseq=int(facts["local_cseq"] or 0),
        remote_target=str(facts["remote_target"]),
        route_set=tuple(str(facts["route_set"]).splitlines()),
        destination=_hop(str(facts["destination"])),
        realms=tuple(str(facts["realms"]).splitlines()),
    )


def trunk_of(facts: Facts) -> str:
    """The name of the trunk in either of them; empty in a record from before it was written down."""
    return str(facts.get("trunk") or "")


def _written(hop: Hop) -> str:
    """The hop in words, the last ones left out where they say what is usual: `192.0.2.1 5060 udp - tcp`."""
    words = [hop.host, str(hop.port), hop.transport, hop.name or "-", "tcp" if hop.tcp_too else "-"]
    while words[-1] in ("-", "udp"):
        words.pop()
    return " ".join(words)


def _hop(text: str) -> Hop:
    host, port, *how = text.split(" ")
    transport, name, tcp = [*how, *("udp", "-", "-")[len(how) :]]
    return Hop(host, int(port), transport, "" if name == "-" else name, tcp == "tcp")
