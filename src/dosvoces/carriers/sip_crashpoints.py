"""
The crash points of the signalling, found on the wire: only watched when one is wanted.
"""

import re

from dosvoces.crashpoints import reached

_CALL_ID = re.compile(rb"\r\n(?:Call-ID|i)\s*:\s*[0-9a-z]{26}-([ab])-", re.IGNORECASE)
_CSEQ = re.compile(rb"\r\n(?:CSeq)\s*:\s*[0-9]+\s+([A-Z]+)", re.IGNORECASE)

_SENT = {
    ("a", b"INVITE"): "k10_first_invite_sent",
    ("b", b"INVITE"): "k17_second_invite_sent",
    ("a", b"BYE"): "k22_one_bye_sent",
    ("b", b"BYE"): "k22_one_bye_sent",
}
_RECEIVED = {
    ("a", b"100"): "k11_first_100_received",
    ("a", b"180"): "k12_first_180_received",
    ("a", b"183"): "k12_first_180_received",
    ("a", b"200"): "k13_first_200_received",
    ("b", b"100"): "k18_second_100_received",
    ("b", b"180"): "k19_second_180_received",
    ("b", b"183"): "k19_second_180_received",
    ("b", b"200"): "k20_second_200_received",
}


def watch(ours: bool, data: bytes) -> None:
    """A message has left, or came and is not read yet."""
    call_id, cseq = _CALL_ID.search(data), _CSEQ.search(data)
    if call_id is None or cseq is None:
        return
    side, first, second = call_id[1].decode(), *data.split(b" ", 2)[:2]
    if ours:
        name = _SENT.get((side, first))
    else:
        name = _RECEIVED.get((side, second)) if cseq[1] == b"INVITE" and first == b"SIP/2.0" else None
    if name is not None:
        reached(name)
