"""Transactions over a reliable transport: no repeats, no lingering for them (RFC 3261 §17)."""

from dosvoces.sip.api import Hop
from dosvoces.sip.message import Response, compose, parse
from dosvoces.sip.server_transaction import AnsweredRequest, InviteServer
from dosvoces.sip.transaction import (
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
