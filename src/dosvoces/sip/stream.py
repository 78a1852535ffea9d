"""
SIP messages cut out of a stream of bytes (RFC 3261 §18.3), and the pings between them (RFC 5626 §3.5.1, §4.4.1).

Pure: bytes in, whole messages out, whatever pieces the network makes. A stream that has lost its measure can't be
mended, so every fault is the end of the connection. Nothing here parses more than it must.
"""

import re

from .message import MAX_LINE, MAX_MESSAGE

MAX_HEAD = 32_768  # bytes of start line and headers

LINE_BREAK = b"\r\n"
"""What `feed` gives for a line break between messages: a pong, or half a ping."""
PING = b"\r\n\r\n"  # RFC 5626 §3.5.1
PONG = b"\r\n"

# A folded value (RFC 3261 §7.3.1) is read as `message.parse` reads it: the two must see the same length.
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(?:\r\n[ \t]+)?([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_NAMED = re.compile(rb"\r\n(?:content-length|l)[ \t]*:", re.IGNORECASE)
_START = re.compile(rb"SIP/2\.0 [1-6][0-9][0-9]|[A-Za-z0-9\-.!%*_+`'~]{1,32} [^ \r\n]{1,4096} SIP/2\.0$", re.IGNORECASE)


class _Fault(ValueError):
    """What came can't be cut into messages."""


class Framer:
    """The bytes of one connection, until they make messages."""

    __slots__ = ("_buffer", "_scanned", "_started", "_wanted", "fault")

    def __init__(self) -> None:
        self.fault = ""
        """Why no more can be read, without quoting the peer; empty while all is well."""
        self._buffer = bytearray()
        self._scanned = 0
        """How much of the buffer is known to hold no end of headers."""
        self._started = False
        """Whether the start line at the front is known to be one."""
        self._wanted = 0
        """Length of the message at the front, 0 while its headers are incomplete."""

    @property
    def waiting(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """
        The messages that `data` completes, in order, and a `LINE_BREAK` for each line break between messages.

        See `fault` afterwards: what was complete before it is given, nothing after it is.
        """
        found: list[bytes] = []
        if not self.fault:
            self._buffer += data
            try:
                while self._take(found):
                    pass
            except _Fault as fault:
                self.fault = str(fault)
                self._buffer.clear()
        return found

    def _take(self, found: list[bytes]) -> bool:
        """Take one message or line break off the front; whether there was a whole one."""
        buffer = self._buffer
        if not buffer:
            return False
        if not self._wanted:
            if buffer[0] in PONG:
                return self._take_line_break(found)
            self._wanted = self._measure()
        if not self._wanted or len(buffer) < self._wanted:
            return False
        found.append(bytes(buffer[: self._wanted]))
        del buffer[: self._wanted]
        self._wanted = self._scanned = 0
        self._started = False
        return True

    def _take_line_break(self, found: list[bytes]) -> bool:
        buffer = self._buffer
        if buffer == b"\r":
            return False
        if buffer[:2] != LINE_BREAK:
            raise _Fault("a bare CR or LF between messages")
        found.append(LINE_BREAK)
        del buffer[:2]
        return True

    def _measure(self) -> int:
        """The length of the message at the front, 0 while that can't be told."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if not self._started:
            self._check_start()
        if end < 0:
            if len(buffer) > MAX_HEAD + 3:  # the last three may begin the end
                raise _Fault(f"headers of more than {MAX_HEAD} bytes")
            self._scanned = len(buffer)
            return 0
        if end > MAX_HEAD:
            raise _Fault(f"headers of more than {MAX_HEAD} bytes")
        head = bytes(buffer[: end + 2])
        lengths = set(_LENGTH.findall(head))
        # RFC 3261 §20.14: mandatory on a stream. Two that differ would let one message hide in another.
        if not lengths or len(_NAMED.findall(head)) != len(_LENGTH.findall(head)):
            raise _Fault("no Content-Length")
        if len(lengths) > 1:
            raise _Fault("two different Content-Lengths")
        total = end + 4 + int(lengths.pop())
        if total > MAX_MESSAGE:
            raise _Fault(f"a message of {total} bytes, {MAX_MESSAGE} at most")
        return total

    def _check_start(self) -> None:
        """Tell at once what isn't SIP: a TLS hello, HTTP, a port scan."""
        line, ended, _rest = bytes(self._buffer[: MAX_LINE + 1]).partition(b"\r\n")
        if ended and not _START.match(line):
            raise _Fault("not SIP")
        self._started = bool(ended)
        if not ended and (len(line) > MAX_LINE or line[0] < 0x21 or line[0] > 0x7E):
            raise _Fault("not SIP")


class Pulse:
    """Who has pinged whom on one connection (RFC 5626 §4.4.1)."""

    __slots__ = ("_answers", "_breaks", "_half", "_waits")

    def __init__(self) -> None:
        self._answers = False
        self._breaks = 0
        """Line breaks since our last ping: an odd number holds a pong, an even one the peer's own pings alone."""
        self._half = False
        self._waits = False

    def ping(self) -> bytes:
        """What to send now to hear whether the peer is there."""
        self._answers = self._answers or self._breaks % 2 == 1
        self._breaks = 0
        self._waits = True
        return PING

    def line_break(self) -> bytes:
        """A line break came; what to send back."""
        self._breaks += 1
        if self._waits:
            self._waits = self._half = False
            return b""
        self._half = not self._half
        return b"" if self._half else PONG

    def message(self) -> None:
        """A message came: the peer is there."""
        self._waits = self._half = False

    @property
    def dead(self) -> bool:
        """
        Whether the last ping should have been answered by now.

        RFC 5626 lets a peer that doesn't know of pings stay silent, so only one that has answered before is missed.
        """
        return self._waits and self._answers
