"""
The far ends: two trunks with a phone for every number, each acting by a script drawn beforehand.

They are the ground truth: what they saw is kept in `Ring` and `FarCall`. They read only the headers that they echo and
answer with text put together once per call, as most of the simulator's time is to be the service's.
"""

import random
from dataclasses import dataclass, field

from dosvoces.model import Side
from tests.simulation.clock import Clock
from tests.simulation.network import Network
from tests.simulation.trace import Trace

TRUNKS = ("192.0.2.10", "192.0.2.20")
SERVICE = "192.0.2.1"
T1 = 0.5  # seconds, RFC 3261 §17.1.1.1
T2 = 4.0  # seconds, RFC 3261 §17.1.2.2
TIMEOUT = 64 * T1  # RFC 3261 §17.1.1.2
ENOUGH_S = 180.0  # a trunk's own limit for ringing, RFC 3261 §16.6, timer C

_SDP = "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio 40000 RTP/AVP {payload}\r\n"
_PHRASES = {100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 407: "Proxy Authentication Required"}
_CHALLENGE = 'Proxy-Authenticate: Digest realm="trunk", nonce="n1", qop="auth", algorithm=MD5\r\n'


@dataclass(frozen=True, slots=True)
class Script:
    """What happens when a number is called."""

    trunks: tuple[str, str]
    """Of each trunk: `ok`, `503`, `500`, or `silent`."""
    challenge: bool
    """Whether the trunk wants credentials first."""
    trying_after_s: float
    """When the trunk sends 100, unless it has said more by then: RFC 3261 §17.2.1 wants it within 0.2 s."""
    rings: int
    """180, 183, or 0: it doesn't say that it rings."""
    ring_after_s: float
    act: int
    """200, a refusal's status, or 0: it rings until the trunk has enough."""
    act_after_s: float
    """From ringing to that."""
    on_cancel: str
    """`obey`; `answer`: its 200 crosses the CANCEL; `late`: 487, then 200 all the same; `mute`: no 487."""
    body: str
    """Of its 200: `good`, `pcmu`, `none` or `broken`."""
    talk_s: float | None
    """From the answer to its hang-up; `None`: it waits for the other side."""
    fork_after_s: float | None
    """When a second phone answers too (RFC 3261 §13.2.2.4)."""
    crossing: bool
    """Whether it also hangs up when the other phone does, at almost the same moment."""

    @property
    def forgets(self) -> bool:
        """Whether it answers a CANCEL after its 200 with 481, as who ends the transaction there (RFC 3261 §17.2.1)."""
        return self.on_cancel in ("late", "mute")


def draw_script(dice: random.Random) -> Script:
    draw = dice.random
    kind = draw()
    act = 200 if kind < 0.68 else dice.choice((486, 603, 480, 404, 500, 0, 0))
    talk = draw()
    return Script(
        trunks=(_trunk(draw()), _trunk(draw())),
        challenge=draw() < 0.1,
        trying_after_s=dice.choice((0.0, 0.0, 0.0, 0.2, 0.2, 3.0 if draw() < 0.2 else 0.2)),
        rings=dice.choice((180, 180, 180, 183, 0)),
        ring_after_s=draw() ** 2,
        act=act,
        act_after_s=0.0 if draw() < 0.1 else draw() * (45.0 if draw() < 0.1 else 8.0),
        on_cancel=dice.choice(("obey", "obey", "answer", "late", "mute")),
        body=dice.choice(("none", "broken", "pcmu", "pcmu")) if draw() < 0.1 else "good",
        talk_s=None if talk < 0.3 else draw() * 0.05 if talk < 0.4 else draw() * 60.0,
        fork_after_s=draw() * 0.3 if draw() < 0.04 else None,
        crossing=draw() < 0.1,
    )


def _trunk(draw: float) -> str:
    return "ok" if draw < 0.93 else "503" if draw < 0.96 else "500" if draw < 0.98 else "silent"


@dataclass(slots=True, eq=False)
class Ring:
    """One phone that was rung by one INVITE, with the dialog that its answer makes."""

    tag: str
    began_at: float
    answered_at: float | None = None
    acknowledged_at: float | None = None
    ended_at: float | None = None
    ended_by: str = ""
    """`service` or `phone`."""
    extra: bool = False
    """It answered beside what ended its INVITE: a second phone, or one that answers after the 487."""


@dataclass(slots=True, eq=False)
class FarCall:
    """One Call-ID as its trunk saw it."""

    call_id: str
    connection: int
    side: Side
    trunk: int
    script: Script
    invited_at: float
    rings: list[Ring] = field(default_factory=list)
    status: int | None = None
    """The final status that was said to its INVITE."""
    settled_at: float | None = None
    """When that was said."""
    left_at: float = 0.0
    """When its INVITE first left the service."""
    asked_cseq: int = 0
    asked_at: float = 0.0
    """When its newest INVITE first did: after a challenge that is another one, which begins to be waited for anew."""
    heard_at: float | None = None
    """When a process of the service first got any answer to its newest INVITE."""
    heard_ringing_at: float | None = None
    """When that was word of a phone: 18x, or 2xx."""
    heard_final_at: float | None = None
    """When it was a final one, not a challenge."""
    heard: set[int] = field(default_factory=set)
    """All statuses that it got."""
    cancelled_at: float | None = None
    cseq: int = 0
    head: str = ""
    """The INVITE's headers that every answer repeats, without To."""
    via: str = ""
    to: str = ""
    from_: str = ""
    last: bytes = b""
    """The newest answer, for repeats of the INVITE."""
    final_acknowledged: bool = False
    bye_cseq: int = 0
    byes: dict[int, Ring] = field(default_factory=dict)
    """BYEs of its own that nobody has answered yet."""

    @property
    def over_at(self) -> float | None:
        """When nobody was left on it; `None` while somebody may be."""
        ends = [ring.ended_at for ring in self.rings]
        if any(end is None for end in ends):
            return None
        return max([end for end in ends if end is not None], default=self.settled_at)


class Phones:
    """All trunks and phones of a world."""

    def __init__(self, clock: Clock, dice: random.Random, network: Network, trace: Trace) -> None:
        self.calls: dict[str, FarCall] = {}
        self.of: dict[tuple[int, Side], list[FarCall]] = {}
        self.scripts: dict[tuple[int, Side], Script] = {}
        self.deliver = lambda data, host: None
        """Where datagrams to the service go, set by the world."""
        self._left: dict[tuple[str, int], float] = {}
        self.strays = 0
        """Requests within a dialog that no trunk knows."""
        self._clock = clock
        self._dice = dice
        self._network = network
        self._trace = trace

    # --- what comes ---

    def receive(self, data: bytes, host: str) -> None:
        head = data.partition(b"\r\n\r\n")[0].decode("ascii")
        lines = head.split("\r\n")
        start = lines[0]
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            headers[name] = value
        if start.startswith("SIP/2.0 "):
            self._answered(headers, int(start[8:11]))
            return
        method = start.partition(" ")[0]
        if method == "INVITE":
            self._invited(start, headers, host)
            return
        call = self.calls.get(headers["Call-ID"])
        if method == "ACK":
            if call is not None:
                self._acknowledged(call, headers)
        elif method == "CANCEL":
            self._cancelled(call, headers, host)
        elif method == "BYE":
            self._hung_up(call, headers, host)
        else:
            self._reply(headers, host, 200 if call is not None else 481)

    def _invited(self, start: str, headers: dict[str, str], host: str) -> None:
        cseq = int(headers["CSeq"].partition(" ")[0])
        call = self.calls.get(headers["Call-ID"])
        if call is None:
            number = start.partition("+34")[2].partition("@")[0]
            side = Side.A if number[0] == "6" else Side.B
            connection = int(number[1:])
            call = FarCall(
                headers["Call-ID"],
                connection,
                side,
                TRUNKS.index(host),
                self.scripts[connection, side],
                self._clock.now,
                from_=headers["From"],
                left_at=self._left[headers["Call-ID"], cseq],
                asked_cseq=cseq,
                asked_at=self._left[headers["Call-ID"], cseq],
            )
            self.calls[call.call_id] = call
            self.of.setdefault((connection, side), []).append(call)
        elif ";tag=" in headers["To"]:
            self._reply(headers, host, 488)  # no phone here changes its session
            return
        elif cseq <= call.cseq:
            if call.last and cseq == call.cseq:
                self._send(call, call.last)
            return
        call.cseq = cseq
        call.via, call.to = headers["Via"], headers["To"]
        call.head = (
            f"Via: {headers['Via']}\r\nFrom: {headers['From']}\r\nCall-ID: {call.call_id}\r\nCSeq: {cseq} INVITE\r\n"
        )
        self._route(call, "Proxy-Authorization" in headers)

    def _route(self, call: FarCall, authorized: bool) -> None:
        script, trunk = call.script, call.script.trunks[call.trunk]
        if trunk == "silent":
            return
        if not script.trying_after_s:
            self._provisional(call, 100)
        else:
            self._clock.after(script.trying_after_s, self._try, call, call.cseq)
        if trunk in ("503", "500"):
            self._refuse(call, int(trunk))
        elif script.challenge and not authorized:
            self._refuse(call, 407)
        else:
            call.status = call.settled_at = None
            call.final_acknowledged = False
            self._clock.after(script.ring_after_s, self._ring, call)

    def _try(self, call: FarCall, cseq: int) -> None:
        if call.status is None and call.cseq == cseq and not (call.rings and call.script.rings):
            self._provisional(call, 100)

    def _ring(self, call: FarCall) -> None:
        if call.status is not None:
            return
        script = call.script
        call.rings.append(Ring(f"{len(self.calls):x}r", self._clock.now))
        self._trace.say(call.connection, f"{call.side.upper()} phone rings")
        if script.rings:
            self._provisional(call, script.rings)
        self._clock.after(script.act_after_s if script.act else ENOUGH_S, self._act, call)

    def _act(self, call: FarCall) -> None:
        if call.status is not None:
            return
        if call.script.act != 200:
            self._refuse(call, call.script.act or 408)
            return
        self._answer(call, call.rings[0])
        if call.script.fork_after_s is not None:
            self._clock.after(call.script.fork_after_s, self._fork, call)

    def _fork(self, call: FarCall) -> None:
        ring = Ring(f"{len(self.calls):x}f", self._clock.now, extra=True)
        call.rings.append(ring)
        self._answer(call, ring)

    # --- what the phones do ---

    def _answer(self, call: FarCall, ring: Ring) -> None:
        now, script = self._clock.now, call.script
        ring.answered_at = now
        if call.status is None or call.status != 200:
            call.status, call.settled_at = 200, now
        self._trace.say(call.connection, f"{call.side.upper()} phone {ring.tag} answers")
        host = TRUNKS[call.trunk]
        body = ""
        if script.body == "broken":
            body = "v=0\r\nm=nothing\r\n"
        elif script.body != "none":
            body = _SDP.format(host=host, payload=0 if self._payload(call) == 0 else 8)
        kind = "Content-Type: application/sdp\r\n" if body else ""
        data = (
            f"SIP/2.0 200 OK\r\n{call.head}To: {call.to};tag={ring.tag}\r\nContact: <sip:phone@{host}:5060>\r\n"
            f"{kind}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        call.last = data
        self._repeat_answer(call, ring, data, T1, now)
        if script.talk_s is not None:
            self._clock.after(script.talk_s, self._hang_up, call, ring)

    def _payload(self, call: FarCall) -> int:
        """PCMU (0) or PCMA (8): B answers with what A has, as it is offered nothing else."""
        first = self.scripts[call.connection, Side.A]
        return 0 if first.body == "pcmu" else 8

    def _repeat_answer(self, call: FarCall, ring: Ring, data: bytes, wait_s: float, since: float) -> None:
        if ring.acknowledged_at is not None or (ring.ended_at is not None and wait_s > T1):
            return
        if self._clock.now - since >= TIMEOUT:
            self._hang_up(call, ring)  # RFC 3261 §13.3.1.4: no ACK came
            return
        self._send(call, data)
        self._clock.after(wait_s, self._repeat_answer, call, ring, data, min(2 * wait_s, T2), since)

    def _hang_up(self, call: FarCall, ring: Ring) -> None:
        if ring.ended_at is not None:
            return
        self._end(call, ring, "phone")
        call.bye_cseq += 1
        call.byes[call.bye_cseq] = ring
        host = TRUNKS[call.trunk]
        data = (
            f"BYE sip:dosvoces@{SERVICE}:5060 SIP/2.0\r\nVia: SIP/2.0/UDP {host}:5060;branch=z9hG4bK{call.call_id}"
            f"{call.bye_cseq}\r\nMax-Forwards: 70\r\nFrom: {call.to};tag={ring.tag}\r\nTo: {call.from_}\r\n"
            f"Call-ID: {call.call_id}\r\nCSeq: {call.bye_cseq} BYE\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        self._repeat_bye(call, call.bye_cseq, data, T1, self._clock.now)

    def _repeat_bye(self, call: FarCall, cseq: int, data: bytes, wait_s: float, since: float) -> None:
        if cseq in call.byes and self._clock.now - since < TIMEOUT:
            self._send(call, data)
            self._clock.after(wait_s, self._repeat_bye, call, cseq, data, min(2 * wait_s, T2), since)

    def _answered(self, headers: dict[str, str], status: int) -> None:
        call = self.calls.get(headers["Call-ID"])
        if call is not None and status >= 200:
            call.byes.pop(int(headers["CSeq"].partition(" ")[0]), None)

    def _end(self, call: FarCall, ring: Ring, by: str) -> None:
        if ring.ended_at is not None:
            return
        ring.ended_at, ring.ended_by = self._clock.now, by
        self._trace.say(call.connection, f"{call.side.upper()} phone {ring.tag} is free, by the {by}")
        if ring.answered_at is not None:
            for other in self.of.get((call.connection, call.side.other), ()):
                for theirs in other.rings if other.script.crossing else ():
                    if theirs.answered_at is not None and theirs.ended_at is None:
                        self._clock.after(self._dice.random() * 0.05, self._hang_up, other, theirs)

    # --- what the service asks of them ---

    def _acknowledged(self, call: FarCall, headers: dict[str, str]) -> None:
        tag = headers["To"].partition(";tag=")[2]
        if headers["Via"] == call.via:  # of the INVITE's own transaction: it was refused, RFC 3261 §17.1.1.3
            call.final_acknowledged = True
            return
        for ring in call.rings:
            if ring.tag == tag and ring.answered_at is not None and ring.acknowledged_at is None:
                ring.acknowledged_at = self._clock.now

    def _cancelled(self, call: FarCall | None, headers: dict[str, str], host: str) -> None:
        if call is not None and call.script.trunks[call.trunk] == "silent":
            return
        if call is None or int(headers["CSeq"].partition(" ")[0]) != call.cseq:
            self._reply(headers, host, 481)
            return
        if call.status == 200 and call.script.forgets:
            self._reply(headers, host, 481)
            return
        first = call.cancelled_at is None
        call.cancelled_at = self._clock.now if first else call.cancelled_at
        if first and call.status is None:
            if call.script.on_cancel == "answer" and call.rings:
                self._answer(call, call.rings[0])
            else:
                self._stop_ringing(call)
        self._reply(headers, host, 200, call.rings[0].tag if call.rings else "t")

    def _stop_ringing(self, call: FarCall) -> None:
        for ring in call.rings:
            self._end(call, ring, "service")
        if call.script.on_cancel == "mute":
            call.status, call.settled_at = 487, self._clock.now
            return
        self._refuse(call, 487)
        if call.script.on_cancel == "late" and call.rings:
            self._clock.after(0.1 + self._dice.random(), self._answer_late, call)

    def _answer_late(self, call: FarCall) -> None:
        ring = Ring(call.rings[0].tag, self._clock.now, extra=True)
        call.rings.append(ring)
        self._answer(call, ring)

    def _hung_up(self, call: FarCall | None, headers: dict[str, str], host: str) -> None:
        tag = headers["To"].partition(";tag=")[2]
        rings = [ring for ring in call.rings if ring.tag == tag] if call is not None else []
        if call is None or not any(ring.answered_at is not None for ring in rings):
            self.strays += 1
            self._reply(headers, host, 481)
            return
        for ring in rings:
            if ring.answered_at is not None:
                self._end(call, ring, "service")
        self._reply(headers, host, 200)

    # --- what leaves ---

    def _provisional(self, call: FarCall, status: int) -> None:
        to = call.to if status == 100 else f"{call.to};tag={call.rings[0].tag}"
        call.last = f"SIP/2.0 {status} {_PHRASES[status]}\r\n{call.head}To: {to}\r\nContent-Length: 0\r\n\r\n".encode()
        self._send(call, call.last)

    def _refuse(self, call: FarCall, status: int) -> None:
        call.status, call.settled_at = status, self._clock.now
        call.final_acknowledged = False
        for ring in call.rings:
            self._end(call, ring, "phone")
        tag = call.rings[0].tag if call.rings else "t"
        extra = _CHALLENGE if status == 407 else ""
        call.last = (
            f"SIP/2.0 {status} {_PHRASES.get(status, 'No')}\r\n{call.head}To: {call.to};tag={tag}\r\n{extra}"
            "Content-Length: 0\r\n\r\n"
        ).encode()
        self._repeat_refusal(call, call.cseq, call.last, T1, self._clock.now)

    def _repeat_refusal(self, call: FarCall, cseq: int, data: bytes, wait_s: float, since: float) -> None:
        if call.final_acknowledged or call.cseq != cseq or self._clock.now - since >= TIMEOUT:
            return
        self._send(call, data)
        self._clock.after(wait_s, self._repeat_refusal, call, cseq, data, min(2 * wait_s, T2), since)

    def _reply(self, headers: dict[str, str], host: str, status: int, tag: str = "t") -> None:
        to = headers["To"] if ";tag=" in headers["To"] else f"{headers['To']};tag={tag}"
        data = (
            f"SIP/2.0 {status} OK\r\nVia: {headers['Via']}\r\nFrom: {headers['From']}\r\nTo: {to}\r\n"
            f"Call-ID: {headers['Call-ID']}\r\nCSeq: {headers['CSeq']}\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        self._network.carry(data, "<-", self.deliver, host)

    def _send(self, call: FarCall, data: bytes) -> None:
        self._network.carry(data, "<-", self.deliver, TRUNKS[call.trunk])

    # --- what the service knows ---

    def left_service(self, data: bytes) -> None:
        if not data.startswith(b"INVITE "):
            return
        call_id, cseq = _call_id(data), _cseq(data)
        self._left.setdefault((call_id, cseq), self._clock.now)
        call = self.calls.get(call_id)
        if call is not None and cseq > call.asked_cseq:
            call.asked_cseq, call.asked_at, call.heard_at = cseq, self._clock.now, None

    def reached_service(self, data: bytes) -> None:
        """A process that lives got this: from now on it can know it."""
        if not data.startswith(b"SIP/2.0 ") or b" INVITE\r\n" not in data:
            return
        call, now, status = self.calls[_call_id(data)], self._clock.now, int(data[8:11])
        call.heard.add(status)
        if call.heard_at is None and _cseq(data) == call.asked_cseq:
            call.heard_at = now
        if 100 < status < 300 and call.heard_ringing_at is None:
            call.heard_ringing_at = now
        if status >= 200 and status != 407 and call.heard_final_at is None:
            call.heard_final_at = now


def _call_id(data: bytes) -> str:
    return data.partition(b"Call-ID: ")[2].partition(b"\r\n")[0].decode("ascii")


def _cseq(data: bytes) -> int:
    return int(data.partition(b"CSeq: ")[2].partition(b" ")[0])
