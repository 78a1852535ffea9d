"""Transactions over a reliable transport: no repeats, no lingering for them (RFC 3261 §17)."""

from dosvoces.sip.api import Hop
from dosvoces.sip.message import Response, compose, parse
from dosvoces.sip.reply import via_hop
from dosvoces.sip.server_transaction import AnsweredRequest, InviteServer
from dosvoces.sip.transaction import (
    LINGER_STEP,
    TIMEOUT,
    Failure,
    Head,
    InviteClient,
    NonInviteClient,
    State,
    Wire,
)

PEER = Hop("192.0.2.10", 5060, "tcp")
HEAD = Head(
    uri="sip:a@b",
    via="Via: v;branch=z9",
    branch="z9",
    routes=(),
    from_="<sip:f>;tag=1",
    to="<sip:t>",
    call_id="c",
    cseq=1,
)


def response(code: int, method: str = "INVITE") -> Response:
    lines = [("Via", "v;branch=z9"), ("From", "<sip:f>;tag=1"), ("To", "<sip:t>;tag=2"), ("Call-ID", "c")]
    message = parse(compose(f"SIP/2.0 {code} x", [*lines, ("CSeq", f"1 {method}")]))
    assert isinstance(message, Response)
    return message


def wait(wire: Wire, seconds: float) -> list[bytes]:
    until = wire.now + seconds
    while (due := wire.timers.next()) is not None and due <= until:
        wire.now = due
        wire.timers.run(due)
    wire.now = until
    sent = [data for data, _destination in wire.outbox]
    wire.outbox.clear()
    return sent


def test_invite_is_sent_once() -> None:
    wire = Wire()
    told: list[Response | Failure] = []
    InviteClient(wire, HEAD, b"INVITE", PEER, told.append)
    assert wait(wire, 31) == [b"INVITE"]
    wait(wire, 2)
    assert told == [Failure.TIMEOUT]
    wait(wire, 33)
    assert wire.clients == {}


def test_refused_invite_lingers_not_at_all() -> None:
    wire = Wire()
    told: list[Response | Failure] = []
    client = InviteClient(wire, HEAD, b"INVITE", PEER, told.append)
    refusal = response(486)
    client.receive(refusal)
    wait(wire, 0)
    assert (told, wire.clients, client.state, len(wire.timers)) == ([refusal], {}, State.TERMINATED, 0)


def test_refused_over_tcp_goes_at_once_between_two_steps_too() -> None:
    wire = Wire()
    wire.now = 7 * LINGER_STEP + 0.03
    InviteClient(wire, HEAD, b"INVITE", PEER, lambda event: None).receive(response(486))
    wait(wire, 0)
    assert wire.clients == {}


def test_what_lingers_goes_together() -> None:
    wire = Wire()
    for number in range(9):
        wire.now = 1.005 + number * LINGER_STEP / 10
        AnsweredRequest(wire, f"k{number}", b"200", PEER._replace(transport="udp"))
    due = wire.timers.next()
    assert due is not None
    assert wire.now + TIMEOUT <= due <= 1.005 + TIMEOUT + LINGER_STEP
    wire.timers.run(due)
    assert (wire.servers, wire.timers.next()) == ({}, None)


def test_refusal_after_the_answer_of_another_fork_is_ignored() -> None:
    wire = Wire()
    told: list[Response | Failure] = []
    client = InviteClient(wire, HEAD, b"INVITE", PEER, told.append)
    answer = response(200)
    client.receive(answer)
    client.receive(response(486))
    client.abandon()
    client.unreachable()
    assert (told, client.state) == ([answer], State.ACCEPTED)
    client.forget()
    client.receive(response(200))
    assert told == [answer]


def test_other_requests_are_sent_once() -> None:
    wire = Wire()
    told: list[Response | Failure] = []
    client = NonInviteClient(wire, "k", b"BYE", PEER, told.append)
    assert (client.takes(response(200)), client.takes(response(200, "BYE"))) == (False, True)
    assert wait(wire, 33) == [b"BYE"]
    assert (told, wire.clients) == ([Failure.TIMEOUT], {})
    client.unreachable()
    silent = NonInviteClient(wire, "k", b"CANCEL", PEER, None)
    silent.receive(response(200, "CANCEL"))
    assert wire.clients == {}


def test_what_a_broken_connection_took_is_sent_again() -> None:
    wire = Wire()
    told: list[Response | Failure] = []
    client = InviteClient(wire, HEAD, b"INVITE", PEER, told.append)
    client.lost()
    assert (wait(wire, 1), told) == ([b"INVITE", b"INVITE"], [])
    client.lost()
    assert (wait(wire, 1), told, client.state) == ([], [Failure.TRANSPORT], State.ABANDONED)
    bye = NonInviteClient(wire, "k", b"BYE", PEER, told.append)
    for _ in range(5):
        bye.lost()
    bye.lost()
    assert (wait(wire, 1), told[1:]) == ([b"BYE"] * 5, [Failure.TRANSPORT])
    server = InviteServer(wire, "i", 1, PEER, None)
    server.lost()
    server.respond(486, b"486")
    server.lost()
    assert wait(wire, 1) == [b"486", b"486"]


def test_a_ringing_call_waits_when_its_connection_breaks() -> None:
    """The INVITE could ring a second phone behind another address of the trunk; the answer finds another connection."""
    wire = Wire()
    told: list[Response | Failure] = []
    client = InviteClient(wire, HEAD, b"INVITE", PEER, told.append)
    ringing = response(180)
    client.receive(ringing)
    client.lost()
    assert (wait(wire, 60), told, client.state) == ([b"INVITE"], [ringing], State.PROCEEDING)


def test_where_an_answer_goes_when_its_connection_is_gone() -> None:
    head = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP %b;branch=z9;received=192.0.2.10\r\nVia: x\r\n"
    assert via_hop(head % b"10.0.0.1:5070", PEER) == Hop("192.0.2.10", 5070, "tcp")
    assert via_hop(head % b"pbx", Hop("192.0.2.10", 40_000, "tls", "a")) == Hop("192.0.2.10", 5061, "tls", "a")
    assert via_hop(head % b"[2001:db8::1]:5070", PEER) == Hop("192.0.2.10", 5070, "tcp")
    assert (via_hop(b"SIP/2.0 200 OK\r\nVia: nonsense\r\n", PEER), via_hop(b"SIP/2.0 200", PEER)) == (None, None)


def test_answers_are_sent_once() -> None:
    wire = Wire()
    AnsweredRequest(wire, "k", b"200", PEER)
    assert (wait(wire, 1), wire.servers) == ([b"200"], {})
    server = InviteServer(wire, "i", 1, PEER, None)
    server.repeated()
    server.respond(486, b"486")
    server.respond(200, b"never")
    assert wait(wire, 20) == [b"486"]
    assert server.acknowledged()
    wait(wire, 0)
    assert (wire.servers, server.acknowledged()) == ({}, False)


def test_answer_to_an_invite_is_repeated_even_so() -> None:
    """RFC 3261 §13.3.1.4: the next hop may be UDP."""
    wire = Wire()
    server = InviteServer(wire, "i", 1, PEER, None)
    server.cancelled("")
    server.respond(200, b"200")
    assert wait(wire, 40) == [b"200"] * 11
    assert wire.servers == {}
