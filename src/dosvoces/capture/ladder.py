"""
A capture drawn as a ladder of messages, for a terminal: the first party's trunk, us, and the second party's trunk.

    seconds   A                    Dosvoces                   B
     0.000    |<------ INVITE ------- |                        |
     0.021    |------- 180 Ringing -->|                        |
"""

import re
from collections.abc import Iterator
from typing import TypeAlias

from dosvoces.capture import Capture, Captured, Endpoint
from dosvoces.model import Side

ARROW = 30  # columns between two lines of life
SECONDS = 9  # columns of the time
WIDTH = 2 * ARROW + 10  # of a line without its time
MICRO = 1_000_000
MOVED = "now"

_Key: TypeAlias = tuple[bool, Endpoint, bytes]
"""What makes two messages one and the same, sent again."""

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
    """
    A rung for each message that is new; repeats are counted on the first one's.

    Where a side's messages go to or come from another address than before, a failover or a route, that stands above.
    """
    messages = capture.messages
    times: dict[_Key, list[int]] = {}
    for message in messages:
        times.setdefault(_key(message), []).append(message.at_us)
    far = {side: next((_far(m) for m in messages if _side(m) is side), "") for side in Side}
    start = messages[0].at_us
    yield f"{'':{SECONDS}}  {'A':<{ARROW}}{'Dosvoces':^9}{'B':>{ARROW}}"
    yield f"{'':{SECONDS}}  {far[Side.A]:<{ARROW}}{'':9}{far[Side.B]:>{ARROW}}"
    if capture.dropped:
        yield f"{'':{SECONDS}}  ({capture.dropped} older messages found no more room)"
    for message in messages:
        at = times.pop(_key(message), None)
        if at is None:
            continue  # counted where it came first
        side = _side(message)
        if _far(message) != far[side]:
            far[side] = _far(message)
            yield f"{'':{SECONDS}}  {_moved(far[side], side)}".rstrip()
        yield f"{(at[0] - start) / MICRO:>{SECONDS}.3f}  {_rung(message, at, start)}".rstrip()


def _key(message: Captured) -> _Key:
    return message.ours, message.peer, message.data


def _side(message: Captured) -> Side:
    """A's, unless it is surely B's."""
    return side_of(message.data) or Side.A


def _far(message: Captured) -> str:
    host, port = message.peer
    return f"{f'[{host}]' if ':' in host else host}:{port} {message.transport}"


def _moved(far: str, side: Side) -> str:
    """The line that tells the address with which the messages below are exchanged."""
    text = f"{MOVED} {far}"
    left, right = (text, "") if side is Side.A else ("", text)
    return (
        f"|{left:<{ARROW}}|{'':7}|{right:>{ARROW}}|" if len(text) <= ARROW else f"{text:{'<' if left else '>'}{WIDTH}}"
    )


def _rung(message: Captured, at: list[int], start: int) -> str:
    repeats = f" \N{MULTIPLICATION SIGN}{len(at)} to {(at[-1] - start) / MICRO:.1f} s" if len(at) > 1 else ""
    label = _label(message.data)[: ARROW - 6 - len(repeats)] + repeats
    # A stands on the left: what we send goes to the left there, and to the right for B.
    left = _side(message) is Side.A
    arrow = _arrow(label, to_the_right=message.ours is not left)
    empty = " " * ARROW
    return f"|{arrow}|{'':7}|{empty}|" if left else f"|{empty}|{'':7}|{arrow}|"


def _arrow(label: str, *, to_the_right: bool) -> str:
    text = f" {label} "
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
