"""
A mutator that knows SIP's grammar: valid messages of live calls in, plausible and broken ones out.

Random bytes die in the start line. Here a message is taken apart into start line, headers and body, changed in one to
three places as a broken or a hostile peer would, and put together again. All choices come from one `random.Random`, so
that a seed repeats a run.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

NUMBERS = [b"0", b"-1", b"1", b"255", b"65535", b"65536", b"2147483647", b"2147483648", b"4294967295", b"4294967296"]
NUMBERS += [b"18446744073709551616", b"1" + b"0" * 200, b"00000000000000000001", b"0x10", b"1e9", b"+5", b"\xc2\xb2"]
NUMBERS += [b"\xd9\xa3", b"", b" ", b"1 2", b"1.5", b"NaN"]

NASTY = [
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\nVia: SIP/2.0/UDP evil;branch=z9hG4bKevil",
    b"\xff",
    b"\xc3\x28",
]
NASTY += [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"%00", b"%0d%0a", b"%", b"%zz", b'"', b"\\", b'\\"', b"<", b">", b"<>"]
NASTY += [
    b",",
    b";",
    b";;",
    b"=",
    b"?",
    b"@",
    b":",
    b"[",
    b"]",
    b"[::",
    b"\t",
    b" " * 50,
    b"\xe2\x80\xae",
    b"\x7f",
    b"'",
]

COMPACT = {b"via": b"v", b"from": b"f", b"to": b"t", b"call-id": b"i", b"contact": b"m", b"content-type": b"c"}
COMPACT |= {b"content-length": b"l", b"supported": b"k", b"session-expires": b"x"}

METHODS = b"INVITE ACK BYE CANCEL OPTIONS UPDATE INFO PRACK REFER NOTIFY MESSAGE REGISTER SUBSCRIBE PUBLISH X".split()
CODES = [b"100", b"180", b"183", b"199", b"200", b"202", b"300", b"302", b"400", b"401", b"404", b"407", b"408", b"422"]
CODES += [b"423", b"481", b"486", b"487", b"488", b"491", b"500", b"503", b"600", b"603", b"699", b"0", b"99", b"700"]

URIS = [
    b"sip:a@[2001:db8::1]:5060",
    b"sip:a@[::ffff:192.0.2.10]",
    b"sip:a@2001:db8::1",
    b"sip:a@192.0.2.10:0",
    b"tel:+34",
]
URIS += [b"sip:a@192.0.2.10:65536", b"sip:a@192.0.2.10;transport=sctp", b"sip:a@192.0.2.10;transport=tls;lr", b"sip:"]
URIS += [
    b"sips:a@192.0.2.10",
    b"sip:a@" + b"h" * 300,
    b"sip:a@b?Route=%3Csip:evil%3E",
    b"sip:a@b;method=BYE",
    b"*",
    b"",
]
URIS += [b"sip:192.0.2.200;lr", b"sip:192.0.2.201", b"SIP:A@192.0.2.10;LR=on", b"http://x/", b"sip:a b@c", b"sip:%00@h"]

HEADERS = [b"Require: nobody-has-this", b"Replaces: leg-a;to-tag=x;from-tag=y", b"Refer-To: <sip:+34807000000@evil>"]
HEADERS += [b"Session-Expires: 1;refresher=uac", b"Session-Expires: 99999999999", b"Min-SE: 0", b"Min-SE: 99999999999"]
HEADERS += [
    b"RSeq: 0",
    b"RSeq: 4294967296",
    b"Require: 100rel\r\nRSeq: 7",
    b"Retry-After: 99999999999999999999",
    b"RAck: 1 1",
]
HEADERS += [b"Max-Forwards: 0", b"Contact: *", b"Contact:", b"Record-Route: <sip:192.0.2.11>", b"Record-Route: ,,,"]
HEADERS += [b"Content-Encoding: gzip", b"Content-Type: multipart/mixed;boundary=x", b"Reason: Q.850;cause=99999999"]
HEADERS += [b"X-" + b"n" * 3000 + b": " + b"v" * 3000, b"Expires: -1", b"Min-Expires: 1", b"Min-Expires: 99999999999"]
HEADERS += [
    b"Proxy-Authenticate: Basic realm=x",
    b"Warning: 399 x",
    b"Route: <sip:192.0.2.10;lr>",
    b"Supported: 100rel,timer",
]

CHALLENGES = [
    b"Digest",
    b"Digest ",
    b'Digest realm="r"',
    b'Digest realm="r", nonce=""',
    b'Digest realm="r",nonce="n",qop=""',
]
CHALLENGES += [
    b'Digest realm="r", nonce="n", algorithm=SHA-256-sess, qop="auth-int,auth"',
    b'Digest realm="r, nonce="n"',
]
CHALLENGES += [
    b'Digest realm="r", nonce="n", algorithm=X',
    b'Digest realm="r", nonce="n", qop="none"',
    b"Digest ,,,",
    b",",
]
CHALLENGES += [
    b'Digest realm="r", nonce="n", realm="s"',
    b'Digest realm="\xff", nonce="\\"',
    b"NTLM x, Digest realm=r,nonce=n",
]
CHALLENGES += [
    b'Digest realm="r", nonce="n", stale=true, opaque="\\"\\\\"',
    b'Digest realm="' + b"r" * 7000 + b'", nonce="n"',
]
CHALLENGES += [
    b'Digest realm="r", nonce="n"' + b', x="y"' * 500,
    b'Digest realm="r", nonce="n", nonce="n"',
    b'Digest =, ="',
]

_NUMBER = re.compile(rb"[0-9]+")
_TAG = re.compile(rb"(tag=)([^;,>\s]+)", re.IGNORECASE)
_BRANCH = re.compile(rb"(branch=)([^;,>\s]+)", re.IGNORECASE)
_URI = re.compile(rb"sips?:[^\s<>;,]+(?:;[^\s<>,]*)?", re.IGNORECASE)


@dataclass(slots=True)
class Parts:
    """A message taken apart; changed in place."""

    start: bytes
    headers: list[bytes]
    """Whole lines without their ends."""
    body: bytes
    keep_length: bool = False
    """Whether Content-Length stays what it is instead of what is right."""

    @classmethod
    def of(cls, data: bytes) -> "Parts":
        head, _, body = data.partition(b"\r\n\r\n")
        start, *headers = head.split(b"\r\n")
        return cls(start, headers, body)

    def data(self) -> bytes:
        headers = self.headers
        if not self.keep_length:
            headers = [line for line in headers if not line.lower().startswith((b"content-length", b"l:"))]
            headers = [*headers, b"Content-Length: %d" % len(self.body)]
        return b"\r\n".join([self.start, *headers]) + b"\r\n\r\n" + self.body


class Mutator:
    """Changes messages; `chance` is the only source of choice."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        headers = [self._drop, self._double, self._double_with_other, self._shuffle, self._move, self._compact]
        headers += [self._recase, self._fold, self._quote, self._huge, self._many, self._empty, self._separator]
        values = [self._number, self._nasty, self._add, self._uri, self._challenge]
        belonging = [self._retag, self._swap_tags, self._branch, self._call_id, self._cseq]
        rest = [self._nasty_start, self._length, self._start, self._body, self._body_bytes]
        self._changes: list[Callable[[Parts], None]] = [*headers, *values, *values, *belonging, *rest, *rest]

    def mutate(self, data: bytes) -> bytes:
        """`data` changed in one to three places, and now and then as a whole."""
        parts = Parts.of(data)
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            self.chance.choice(self._changes)(parts)
        return self._whole(parts.data())

    def foreign(self, data: bytes, secrets: list[bytes]) -> bytes:
        """`data` with every one of `secrets` replaced: a guess of somebody who doesn't know them."""
        for secret in secrets:
            data = data.replace(secret, b"%016x" % self.chance.getrandbits(64))
        return data

    # -- headers ----------------------------------------------------------------------------------------------------

    def _at(self, parts: Parts) -> int:
        if not parts.headers:
            parts.headers.append(b"X: y")
        return self.chance.randrange(len(parts.headers))

    def _named(self, parts: Parts, *names: bytes) -> int:
        """A header of one of these names, or any."""
        found = [at for at, line in enumerate(parts.headers) if line.partition(b":")[0].strip().lower() in names]
        return self.chance.choice(found) if found else self._at(parts)

    def _drop(self, parts: Parts) -> None:
        del parts.headers[self._at(parts)]

    def _double(self, parts: Parts) -> None:
        parts.headers.insert(self._at(parts), parts.headers[self._at(parts)])

    def _double_with_other(self, parts: Parts) -> None:
        one, other = parts.headers[self._at(parts)], parts.headers[self._at(parts)]
        parts.headers.insert(self._at(parts), one.partition(b":")[0] + b":" + other.partition(b":")[2])

    def _shuffle(self, parts: Parts) -> None:
        self.chance.shuffle(parts.headers)

    def _move(self, parts: Parts) -> None:
        parts.headers.insert(self._at(parts), parts.headers.pop(self._at(parts)))

    def _compact(self, parts: Parts) -> None:
        for at, line in enumerate(parts.headers):
            name, colon, value = line.partition(b":")
            parts.headers[at] = COMPACT.get(name.lower(), name) + colon + value

    def _recase(self, parts: Parts) -> None:
        at = self._at(parts)
        name, colon, value = parts.headers[at].partition(b":")
        parts.headers[at] = name.swapcase() + b" " * self.chance.randrange(3) + colon + b"\t" + value + b"  "

    def _number(self, parts: Parts) -> None:
        at = self._at(parts)
        name, colon, value = parts.headers[at].partition(b":")
        found = list(_NUMBER.finditer(value))
        if found:
            match = self.chance.choice(found)
            value = value[: match.start()] + self.chance.choice(NUMBERS) + value[match.end() :]
            parts.headers[at] = name + colon + value

    def _nasty(self, parts: Parts) -> None:
        at = self._at(parts)
        parts.headers[at] = self._inserted(parts.headers[at])

    def _nasty_start(self, parts: Parts) -> None:
        parts.start = self._inserted(parts.start)

    def _inserted(self, line: bytes) -> bytes:
        at = self.chance.randint(0, len(line))
        return line[:at] + self.chance.choice(NASTY) * self.chance.choice((1, 1, 1, 2, 40)) + line[at:]

    def _fold(self, parts: Parts) -> None:
        at = self._at(parts)
        parts.headers[at] = re.sub(rb"[ ;,]", lambda match: b"\r\n " + match[0], parts.headers[at], count=8)

    def _quote(self, parts: Parts) -> None:
        at = self._named(parts, b"from", b"to", b"contact", b"f", b"t", b"m")
        name, colon, value = parts.headers[at].partition(b":")
        text = self.chance.choice(
            (b'"', b'"a\\', b'"a, <sip:x>;tag=no" ', b'"\\""', b"a b ", b"\xc3\xa9 ", b'"' + b"q" * 900)
        )
        parts.headers[at] = name + colon + b" " + text + value

    def _separator(self, parts: Parts) -> None:
        at = self._at(parts)
        separator = self.chance.choice((b";", b",", b" ", b"=", b":"))
        parts.headers[at] = parts.headers[at].replace(separator, self.chance.choice((b"", separator * 2, b"\t", b";,")))

    def _huge(self, parts: Parts) -> None:
        at = self._at(parts)
        fill = self.chance.choice((b"a", b" ", b";", b"\xff", b"\\", b'"', b"<", b",", b"%41", b"=", b";x", b"1"))
        parts.headers[at] += fill * self.chance.choice((500, 4_000, 8_000, 9_000, 60_000))

    def _many(self, parts: Parts) -> None:
        parts.headers += [parts.headers[self._at(parts)]] * self.chance.choice((20, 100, 130, 2_000))

    def _add(self, parts: Parts) -> None:
        parts.headers.insert(self._at(parts), self.chance.choice(HEADERS))

    def _empty(self, parts: Parts) -> None:
        at = self._at(parts)
        parts.headers[at] = parts.headers[at].partition(b":")[0] + self.chance.choice((b":", b": ", b"", b":\r\n "))

    def _uri(self, parts: Parts) -> None:
        at = self._named(parts, b"contact", b"record-route", b"from", b"to", b"via")
        uri = self.chance.choice(URIS)
        if self.chance.random() < 0.2:
            parts.start = _URI.sub(lambda _match: uri, parts.start)
        parts.headers[at] = _URI.sub(lambda _match: uri, parts.headers[at])

    # -- who it belongs to ------------------------------------------------------------------------------------------

    def _token(self) -> bytes:
        made = b"%016x" % self.chance.getrandbits(64)
        return self.chance.choice((made, made, b"", b"x" * 2_000, b"peer", b'"q"', b"\xff"))

    def _retag(self, parts: Parts) -> None:
        at, made = self._named(parts, b"from", b"to"), self._token()
        parts.headers[at] = _TAG.sub(lambda match: match[1] + made, parts.headers[at])

    def _swap_tags(self, parts: Parts) -> None:
        one, other = self._named(parts, b"from"), self._named(parts, b"to")
        first, second = parts.headers[one].partition(b":"), parts.headers[other].partition(b":")
        parts.headers[one], parts.headers[other] = first[0] + b":" + second[2], second[0] + b":" + first[2]

    def _branch(self, parts: Parts) -> None:
        at, made = self._named(parts, b"via", b"v"), self._token()
        made = self.chance.choice((b"z9hG4bK" + made, made, b"z9hG4bK", b""))
        parts.headers[at] = _BRANCH.sub(lambda match: match[1] + made, parts.headers[at])

    def _call_id(self, parts: Parts) -> None:
        parts.headers[self._named(parts, b"call-id")] = b"Call-ID: " + self._token()

    def _cseq(self, parts: Parts) -> None:
        at = self._named(parts, b"cseq")
        number = self.chance.choice((*NUMBERS, b"%d" % self.chance.randrange(20), b"%d" % self.chance.randrange(2**31)))
        method = self.chance.choice((*METHODS, parts.start.split(b" ")[0], parts.headers[at].split(b" ")[-1]))
        parts.headers[at] = b"CSeq: " + number + b" " + method

    def _length(self, parts: Parts) -> None:
        parts.keep_length = True
        parts.headers = [line for line in parts.headers if not line.lower().startswith(b"content-length")]
        if self.chance.random() < 0.8:
            lie = self.chance.choice((*NUMBERS, b"%d" % (len(parts.body) + 1), b"%d" % max(0, len(parts.body) - 1)))
            parts.headers.append(b"Content-Length: " + lie)

    # -- start line, body, whole ------------------------------------------------------------------------------------

    def _start(self, parts: Parts) -> None:
        words = parts.start.split(b" ", 2)
        if parts.start.startswith(b"SIP/"):
            code = self.chance.choice(CODES)
            parts.start = self.chance.choice(
                (
                    b"SIP/2.0 " + code + b" X",
                    b"SIP/2.0 " + code,
                    b"SIP/3.0 200 OK",
                    b"SIP/2.0  200 OK",
                    b"sip/2.0 " + code,
                )
            )
            return
        method = self.chance.choice(METHODS)
        parts.start = b" ".join([method, *words[1:]])
        if self.chance.random() < 0.7:  # else the CSeq says another
            at = self._named(parts, b"cseq")
            parts.headers[at] = parts.headers[at].rpartition(b" ")[0] + b" " + method

    def _body(self, parts: Parts) -> None:
        """A line of the description, by its grammar."""
        lines = parts.body.split(b"\r\n")
        at = self.chance.randrange(len(lines))
        kind = self.chance.randrange(7)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, self.chance.choice(lines))
        elif kind == 2 and (found := list(_NUMBER.finditer(lines[at]))):
            match = self.chance.choice(found)
            lines[at] = lines[at][: match.start()] + self.chance.choice(NUMBERS) + lines[at][match.end() :]
        elif kind == 3:
            lines[at] = self._inserted(lines[at])
        elif kind == 4:
            lines += [self.chance.choice((b"m=audio 9 RTP/AVP 0", b"a=sendonly", b"a=rtpmap:8 X/0", b"a=fmtp:8"))] * 40
        elif kind == 5:
            lines[at] = lines[at].replace(
                b"RTP/AVP", self.chance.choice((b"RTP/SAVP", b"UDP/TLS/RTP/SAVPF", b"x", b""))
            )
        else:
            self.chance.shuffle(lines)
        parts.body = b"\r\n".join(lines)

    def _body_bytes(self, parts: Parts) -> None:
        size = self.chance.choice((0, 1, 100, 40_000))
        parts.body = self.chance.randbytes(size) if self.chance.random() < 0.7 else parts.body[: size // 2]

    def _challenge(self, parts: Parts) -> None:
        name = self.chance.choice((b"WWW-Authenticate: ", b"Proxy-Authenticate: "))
        parts.headers = [line for line in parts.headers if b"authenticate" not in line.lower()]
        parts.headers.append(name + self.chance.choice(CHALLENGES))
        if self.chance.random() < 0.3:
            parts.headers.append(name + self.chance.choice(CHALLENGES))

    def _whole(self, data: bytes) -> bytes:
        draw = self.chance.random()
        if draw < 0.03:
            return data[: self.chance.randrange(len(data) + 1)]
        if draw < 0.05:
            return data + data
        if draw < 0.07:
            return b"\r\n" * self.chance.choice((1, 2, 2_000)) + data
        if draw < 0.08:
            return data.replace(b"\r\n", self.chance.choice((b"\n", b"\r", b"\r\r\n")))
        if draw < 0.09:
            return self.chance.randbytes(self.chance.randrange(300))
        return data[:65_507]
