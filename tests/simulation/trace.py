"""A readable account of one connection, written only when somebody wants to read it."""

import re

from tests.simulation.clock import Clock

_CALLED = re.compile(rb"^(?:To|From): [^\r\n]*sip:\+34([67])(\d{8})@", re.MULTILINE)
_CSEQ = re.compile(rb"^CSeq: ([^\r\n]*)", re.MULTILINE)


class Trace:
    """Lines about connection `only` of a world; with `only=None` it is off."""

    def __init__(self, clock: Clock, only: int | None) -> None:
        self.on = only is not None
        self.lines: list[str] = []
        self._clock = clock
        self._only = only

    def say(self, connection: int | None, text: str) -> None:
        """`connection=None`: it concerns all of them."""
        if self.on and connection in (None, self._only):
            self.lines.append(f"{self._clock.now:10.3f}  {text}")

    def message(self, way: str, data: bytes) -> None:
        called = _CALLED.search(data)
        if called is None:
            return
        cseq = _CSEQ.search(data)
        start = data.split(b"\r\n", 1)[0].decode("ascii", "replace")
        side = "A" if called[1] == b"6" else "B"
        number = cseq[1].decode("ascii", "replace") if cseq else ""
        self.say(int(called[2]), f"{side} {way}  {start}  [{number}]")
