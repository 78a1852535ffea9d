"""
A capture drawn as a ladder of messages, for a terminal: the first party's trunk, us, and the second party's trunk.

    seconds   A                    Dosvoces                   B
     0.000    |<------ INVITE ------- |                        |
     0.021    |------- 180 Ringing -->|                        |
"""

import re
from collections.abc import Iterator

from dosvoces.capture import Capture, Captured, Endpoint
from dosvoces.model import Side

ARROW = 30  # columns between two lines of life
SECONDS = 9  # columns of the time
REPEATED = "…again"

_CALL_ID = re.compile(rb"^(?:call-id|i)[ \t]*:[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
_CSEQ = re.compile(rb"^cseq[ \t]*:[ \t]*\d+[ \t]+([A-Z]+)", re.IGNORECASE | re.MULTILINE)
_SDP = re.compile(
    rb"^content-type[ \t]*:[ \t]*application/sdp|^c[ \t]*:[ \t]*application/sdp", re.IGNORECASE | re.MULTILINE
)


def ladder(capture: Capture) -> str:
    """The ladder, at most 80 columns; an empty capture says so."""
    if not capture.messages:
        return "No SIP messages were captured."
    return "\n".join(_lines(capture))


def side_of(data: bytes) -> Side | None:
    """Whose leg a message is of: our Call-IDs begin with the leg's id (`model.leg_id`)."""
    call_id = call_id_of(data)
    return Side(call_id[27]) if len(call_id) > 27 and call_id[26] == "-" and call_id[27] in "ab" else None


def call_id_of(data: bytes) -> str:
    """The message's Call-ID, `""` where there is none."""
    match = _CALL_ID.search(data)
    return match[1].decode("latin-1").strip() if match else ""


def _lines(capture: Capture) -> Iterator[str]:
    peers = {side: _peer(capture, side) for side in Side}
    yield f"{'':{SECONDS}}  {'A':<{ARROW}}{'Dosvoces':^9}{'B':>{ARROW}}"
    yield f"{'':{SECONDS}}  {peers[Side.A]:<{ARROW}}{'':9}{peers[Side.B]:>{ARROW}}"
    if capture.dropped:
        yield f"{'':{SECONDS}}  ({capture.dropped} older messages found no more room)"
    start = capture.messages[0].at_us
    seen: set[tuple[bool, Endpoint, bytes]] = set()
    for message in capture.messages:
        again = (message.ours, message.peer, message.data) in seen
        seen.add((message.ours, message.peer, message.data))
        seconds = (message.at_us - start) / 1_000_000
        yield f"{seconds:>{SECONDS}.3f}  {_rung(message, again)}".rstrip()


def _rung(message: Captured, again: bool) -> str:
    label = _label(message.data) + (f" {REPEATED}" if again else "")
    # A stands on the left: what we send goes to the left there, and to the right for B.
    left = side_of(message.data) is not Side.B
    arrow = _arrow(label, to_the_right=message.ours is not left)
    empty = " " * ARROW
    return f"|{arrow}|{'':7}|{empty}|" if left else f"|{empty}|{'':7}|{arrow}|"


def _arrow(label: str, *, to_the_right: bool) -> str:
    text = f" {label[: ARROW - 6]} "
    dashes = text.center(ARROW - 1, "-")
    return f"{dashes}>" if to_the_right else f"<{dashes}"


def _label(data: bytes) -> str:
    """`INVITE (SDP)`, `180 Ringing`, `200 OK (BYE)`: what a reader looks for."""
    first = data.partition(b"\r\n")[0].decode("latin-1")
    words = "".join(char if char.isprintable() else "?" for char in first).split(" ", 2)
    sdp = " (SDP)" if _SDP.search(data) else ""
    if not words[0].upper().startswith("SIP/"):
        return words[0] + sdp
    status = " ".join(words[1:])
    method = _CSEQ.search(data)
    of = method[1].decode() if method and method[1] != b"INVITE" else ""
    return f"{status}{f' ({of})' if of else ''}{sdp}"


def _peer(capture: Capture, side: Side) -> str:
    for message in capture.messages:
        if side_of(message.data) is side:
            host, port = message.peer
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            return f"{shown} {message.transport}"
    return ""
