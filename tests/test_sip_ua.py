"""Who is heard, what strangers get, and that no bytes whatever do harm."""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dosvoces.sip.api import CallEnd, CallHandler, EndCause, Hop, Invitation
from dosvoces.sip.message import MessageError, Request, compose, parse
from dosvoces.sip.orphan import CSEQ_LEAP
from dosvoces.sip.ua import MAX_KEPT_ANSWER, MAX_REMEMBERED, MAX_STRAYS, UserAgent
from tests.sip_stage import ANSWER, LOCAL, TRUNK, Stage

STRANGER = ("203.0.113.66", 5060)
NASTY = b'<>",;:=@[] \t\r\n\\%?\x00\xff1SIP'
METHODS = ["INVITE", "OPTIONS", "REGISTER", "BYE", "MESSAGE", "SUBSCRIBE", "CANCEL", "ACK", "INFO", "X"]


@pytest.mark.parametrize("method", METHODS)
def test_strangers_get_no_answer(method: str) -> None:
    stage = Stage(answers_calls=True)
    call = stage.invite()
    stage.sent()
    stage.ask(method, local_tag="", source=STRANGER)
    stage.ask(method, local_tag="made-up", source=STRANGER)
    stage.ask(method, local_tag=call.local_tag, source=STRANGER)
    assert (stage.sent(), stage.incoming, stage.ua.discarded) == ([], [], 3)


def test_peers_without_a_call() -> None:
    stage = Stage()
    answers = {}
    for method in METHODS:
        stage.ask(method, local_tag="")
        stage.ask(method, local_tag="made-up")
        answers[method] = stage.sent()
    assert answers == {
        "INVITE": [480, 481],  # nobody takes calls here
        "OPTIONS": [200, 481],
        "REGISTER": [405, 481],
        "BYE": [481, 481],
        "MESSAGE": [405, 481],
        "SUBSCRIBE": [405, 481],
        "CANCEL": [481, 481],
        "ACK": [],
        "INFO": [481, 481],
        "X": [501, 481],
    }
    stage.rest()


def test_everybody_is_a_peer_of_a_trial_phone() -> None:
    stage = Stage(answers_calls=True, peers=None)
    stage.ask("OPTIONS", local_tag="", source=STRANGER)
    stage.ask("INVITE", local_tag="", source=STRANGER)
    assert (stage.sent(), len(stage.incoming)) == ([200, 100], 1)


def test_trusted_later() -> None:
    stage = Stage()
    stage.ua.trust(STRANGER[0])
    stage.ask("OPTIONS", local_tag="", source=STRANGER)
    assert stage.sent() == [200]
    everybody = Stage(peers=None)
    everybody.ua.trust(STRANGER[0])


def test_a_peer_that_is_no_longer_one_is_heard_out_and_by_its_calls() -> None:
    stage = Stage()
    stage.talking()
    stage.ua.trust_only([STRANGER[0]])
    stage.ask("OPTIONS", local_tag="", source=STRANGER)
    stage.ask("OPTIONS", local_tag="")
    assert stage.sent() == [200, 200]
    stage.wait(70)
    stage.ask("OPTIONS", local_tag="")
    assert stage.sent() == []
    (call,) = stage.ua.calls.values()
    stage.ask("BYE", local_tag=call.local_tag)
    assert stage.sent() == [200]
    stage.rest()


def test_a_peer_that_comes_back_is_kept() -> None:
    stage = Stage()
    stage.ua.trust_only([])
    stage.ua.trust_only([TRUNK[0]])
    stage.wait(200)
    stage.ask("OPTIONS", local_tag="")
    assert stage.sent() == [200]


def invitation(peers: tuple[str, ...] = ()) -> Invitation:
    return Invitation(
        request_uri="sip:1@example.com",
        destination=("192.0.2.50", 5060),
        from_uri="sip:a@example.com",
        to_uri="sip:1@example.com",
        call_id="leg-a",
        body=b"",
        peers=peers,
    )


def test_a_dialog_brings_its_own_addresses_and_takes_them_away() -> None:
    """Contact and Record-Route of the dialog, the destination, and what the invitation names; for other calls they are
    nobody."""
    stage = Stage()
    call = stage.ua.invite(invitation(("192.0.2.51",)), CallHandler())
    other = stage.invite()
    ((data, destination), _) = stage.ua.outbox
    stage.ua.outbox.clear()
    invite = parse(data)
    assert isinstance(invite, Request)
    # The final answer comes from the destination, which is no configured peer.
    lines = [(name, invite.header(name)) for name in ("via", "from", "call-id", "cseq")]
    lines += [
        ("To", invite.header("to") + ";tag=peer"),
        ("Contact", "<sip:media@192.0.2.52>"),
        ("Record-Route", "<sip:192.0.2.53;lr>"),
    ]
    stage.receive(compose("SIP/2.0 200 OK", lines), destination)
    assert stage.sent() == ["ACK"]
    for host in ("192.0.2.50", "192.0.2.51", "192.0.2.52", "192.0.2.53"):
        stage.ask("OPTIONS", local_tag=call.local_tag, source=(host, 5060))
        stage.ask("OPTIONS", local_tag="", source=(host, 5060))
        stage.ask("OPTIONS", local_tag=other.local_tag, source=(host, 5060))
    assert stage.sent() == [200] * 4
    call.hangup()
    other.hangup()
    stage.rest()
    stage.ask("OPTIONS", local_tag="", source=("192.0.2.52", 5060))
    assert stage.ua.discarded == 1


@pytest.mark.parametrize(
    "wrong", [{"call_id": "leg-b"}, {"from_tag": "other"}, {"local_tag": "guess"}, {"from_tag": ""}]
)
def test_all_three_identifiers_must_fit(wrong: dict[str, str]) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    right = {"local_tag": call.local_tag, "call_id": "leg-a", "from_tag": "peer", **wrong}
    stage.ask("BYE", **right)  # type: ignore[arg-type]
    assert stage.sent() == [481]
    assert stage.recorder.told == []


def test_answers_need_an_open_transaction() -> None:
    stage = Stage()
    stage.invite()
    invite = stage.request()
    for line in ("via: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKguess", "via: SIP/2.0/UDP 198.51.100.7:5060"):
        stage.receive(
            f"SIP/2.0 486 Busy\r\n{line}\r\nf: {invite.header('from')}\r\nt: <sip:x>;tag=1\r\ni: leg-a\r\n"
            "CSeq: 1 INVITE\r\n\r\n".encode()
        )
    via = invite.header("via")
    stage.receive(f"SIP/2.0 486 Busy\r\nv: {via}\r\nf: a\r\nt: b\r\ni: leg-a\r\nCSeq: 1 BYE\r\n\r\n".encode())
    assert (stage.recorder.told, stage.sent()) == ([], [])


def restarted() -> tuple[Request, Stage]:
    """An INVITE of a process that is gone, and the next process."""
    before = Stage()
    before.invite()
    after = Stage()
    after.token_from(1000)
    return before.request(), after


def test_answer_of_an_earlier_process_is_hung_up() -> None:
    """The process died while it rang; someone answers now."""
    invite, after = restarted()
    after.answer(invite, 180)
    after.answer(invite, 486)
    after.answer(invite, 200, contact="")
    assert after.sent() == []
    after.answer(invite, 200, headers=[("Record-Route", "<sip:192.0.2.10;lr>")])
    bye = after.request("BYE")
    after.answer(invite, 200)
    assert after.sent() == []
    after.answer(bye, 200)
    ack = after.request("ACK")
    assert (ack.header("cseq"), ack.header("to")) == ("1 ACK", "<sip:600@example.com>;tag=peer")
    assert (bye.uri, bye.header("from")) == ("sip:agent@192.0.2.10:5060", invite.header("from"))
    assert bye.cseq == CSEQ_LEAP + 2
    after.answer(invite, 200)
    after.answer(invite, 180)
    assert after.sent() == ["ACK"]
    assert after.ua.strays == 1
    after.ua.unreachable(Hop(*TRUNK), b"", after.now)
    after.rest()


def test_each_phone_that_answers_an_invite_of_an_earlier_process_is_hung_up() -> None:
    """The process died after a proxy had forked its INVITE; two phones answer, until each gets an ACK."""
    invite, after = restarted()
    acknowledged = []
    for to_tag in ("one", "two"):
        after.answer(invite, 200, to_tag=to_tag)
        bye = after.request("BYE")
        assert bye.header("to") == f"<sip:600@example.com>;tag={to_tag}"
        after.answer(invite, 200, to_tag=to_tag)
        assert after.sent() == []
        after.answer(bye, 200)
        acknowledged.append(after.request("ACK").header("to"))
    for to_tag in ("two", "one"):
        after.answer(invite, 200, to_tag=to_tag)
        acknowledged.append(after.request("ACK").header("to"))
    assert acknowledged == [f"<sip:600@example.com>;tag={to_tag}" for to_tag in ("one", "two", "two", "one")]
    after.rest()


def test_answer_of_a_live_call_with_another_branch_is_acknowledged_again() -> None:
    """A phone that changes the Via of its repeated 200, or repeats it after the transaction is gone."""
    stage = Stage()
    call, invite = stage.talking()
    stage.wait(100)  # the INVITE's transaction is gone
    for branch_then in ("z9hG4bKother", invite.header("via").rpartition("=")[2]):
        lines = [("Via", f"SIP/2.0/UDP {LOCAL[0]}:{LOCAL[1]};branch={branch_then}")]
        lines += [(name, invite.header(name)) for name in ("from", "call-id", "cseq")]
        lines += [("To", f"{invite.header('to')};tag=peer"), ("Contact", "<sip:agent@192.0.2.10:5060>")]
        stage.receive(compose("SIP/2.0 200 OK", lines, ANSWER))
        ack = stage.request("ACK")
        assert (ack.uri, ack.cseq, ack.header("to"), ack.header("from"), ack.header("call-id")) == (
            "sip:agent@192.0.2.10:5060",
            1,
            "<sip:600@example.com>;tag=peer",
            invite.header("from"),
            "leg-a",
        )
    # One that answers a request that we never sent gets nothing, and ends nothing either.
    stage.receive(compose("SIP/2.0 200 OK", [*lines[:3], ("CSeq", "7 INVITE"), *lines[4:]]))
    assert (stage.sent(), stage.recorder.told, stage.ua.strays) == ([], [], 0)
    call.hangup()
    stage.answer(stage.request("BYE"), 200)
    stage.rest()


def test_a_flood_in_a_peers_name_is_answered_but_not_remembered() -> None:
    stage = Stage()
    for number in range(MAX_REMEMBERED + 10):
        stage.ask("OPTIONS", local_tag="", branch=f"z9hG4bK{number}")
    stage.ask("INVITE", local_tag="", branch="z9hG4bKlast")
    assert len(stage.ua.outbox) == MAX_REMEMBERED + 11
    assert stage.ua.transactions == MAX_REMEMBERED
    stage.ua.outbox.clear()
    stage.rest()


def test_a_large_answer_is_not_remembered() -> None:
    stage = Stage()
    stage.ask("OPTIONS", local_tag="", headers=[("Via", f"SIP/2.0/UDP h;branch=z9hG4bK{'x' * MAX_KEPT_ANSWER}")])
    assert (stage.sent(), stage.ua.transactions) == ([200], 0)


def test_only_so_many_forgotten_answers_are_hung_up_at_a_time() -> None:
    """Under a peer's name someone could make us send BYEs, with their repeats, to any Contact."""
    stage = Stage()
    for number in range(MAX_STRAYS + 10):
        stage.receive(
            f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {LOCAL[0]}:{LOCAL[1]};branch=z9hG4bK{number}\r\n"
            "From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n"
            "Contact: <sip:c@192.0.2.77>\r\n\r\n".encode()
        )
    assert len(stage.ua.outbox) == MAX_STRAYS
    stage.rest()
    assert stage.ua.hanging_up == 0


@pytest.mark.parametrize("via", ["SIP/2.0/UDP 203.0.113.9:5060;branch=z9hG4bKx", None])
def test_answer_to_somebody_else_is_not_hung_up(via: str | None) -> None:
    stage = Stage()
    vias = [via or f"SIP/2.0/UDP {LOCAL[0]}:5060;branch=z9hG4bKx", *([] if via else ["SIP/2.0/UDP 10.0.0.1"])]
    lines = [("Via", each) for each in vias]
    lines += [("From", "<sip:a@b>;tag=1"), ("To", "<sip:c@d>;tag=2"), ("Call-ID", "x"), ("CSeq", "1 INVITE")]
    stage.receive(compose("SIP/2.0 200 OK", [*lines, ("Contact", "<sip:c@192.0.2.10>")]))
    assert stage.sent() == []


def test_handler_that_raises_hurts_nobody_else() -> None:
    class Faulty(CallHandler):
        def on_answer(self, body: bytes, facts: object) -> None:
            raise RuntimeError("handler")

    stage = Stage()
    call = stage.ua.invite(invitation(), Faulty())
    ((data, _destination),) = stage.ua.outbox
    stage.ua.outbox.clear()
    invite = parse(data)
    assert isinstance(invite, Request)
    with pytest.raises(RuntimeError):
        stage.answer(invite, 200)
    assert stage.sent() == ["ACK"]  # the call is up all the same, and can be hung up
    call.hangup()
    assert stage.sent() == ["BYE"]


def test_ipv6_addresses_are_bracketed() -> None:
    ua = UserAgent(
        local=("2001:db8::1", 5062), user_agent="x\r\ny", clock=lambda: 0.0, token=lambda: "t", uniform=lambda a, b: a
    )
    assert (ua.contacts, ua.via_prefixes) == (
        {
            "udp": "Contact: <sip:dosvoces@[2001:db8::1]:5062>",
            "tcp": "Contact: <sip:dosvoces@[2001:db8::1]:5062;transport=tcp>",
            "tls": "Contact: <sip:dosvoces@[2001:db8::1]:5061;transport=tls>",
        },
        {
            "udp": "SIP/2.0/UDP [2001:db8::1]:5062;rport;branch=",
            "tcp": "SIP/2.0/TCP [2001:db8::1]:5062;rport;branch=",
            "tls": "SIP/2.0/TLS [2001:db8::1]:5061;rport;branch=",
        },
    )
    assert (ua.request_lines[1], ua.next_timer()) == ("User-Agent: x��y", None)


def test_bytes_that_are_not_utf8_are_no_reason_for_silence() -> None:
    """One such byte made sippy drop the message; ours goes back to the peer as it came."""
    stage = Stage()
    call, _invite = stage.talking()
    stage.receive(
        b"BYE sip:dosvoces@198.51.100.7 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKq\r\n"
        b'From: "Jos\xe9" <sip:600@example.com>;tag=peer\r\nTo: <sip:910@example.com>;tag='
        + call.local_tag.encode()
        + b'\r\nCall-ID: leg-a\r\nCSeq: 9 BYE\r\nReason: Q.850;text="a\xf1o"\r\n\r\n'
    )
    ((data, _destination),) = stage.ua.outbox
    assert b'From: "Jos\xe9" <sip:600@example.com>;tag=peer\r\n' in data
    assert stage.recorder.told == [CallEnd(EndCause.HANGUP, "remote", None, "BYE", 'Q.850;text="a�o"')]


# -- hostile bytes -------------------------------------------------------------------------------------------------


def exposed() -> tuple[Stage, list[bytes]]:
    """A stage in the midst of several calls, and messages that fit them."""
    stage = Stage(answers_calls=True)
    call, invite = stage.talking()
    ringing = stage.invite()
    second = stage.request()
    samples = [
        compose(
            f"{method} sip:dosvoces@198.51.100.7 SIP/2.0",
            [
                ("Via", f"SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bK{method}{tag[-3:]}"),
                ("From", "<sip:600@example.com>;tag=peer"),
                ("To", f"<sip:910@example.com>;tag={tag}" if tag else "<sip:910@example.com>"),
                ("Call-ID", "leg-a"),
                ("CSeq", f"5 {method}"),
                ("Contact", "<sip:agent@192.0.2.10:5060>"),
                ("Record-Route", "<sip:192.0.2.11;lr>, <sip:192.0.2.12>"),
                ("Content-Type", "application/sdp"),
            ],
            b"body",
        )
        for method in ["INVITE", "ACK", "BYE", "CANCEL", "UPDATE", "INFO", "OPTIONS", "REFER"]
        for tag in (call.local_tag, ringing.local_tag, "")
    ]
    for request in (invite, second):
        for code in (100, 183, 200, 302, 401, 407, 486, 491):
            samples.append(
                compose(
                    f"SIP/2.0 {code} Phrase",
                    [
                        ("Via", request.header("via")),
                        ("From", request.header("from")),
                        ("To", f"{request.header('to')};tag=t{code}"),
                        ("Call-ID", "leg-a"),
                        ("CSeq", request.header("cseq")),
                        ("Contact", "<sip:agent@192.0.2.10:5060;transport=UDP>"),
                        ("Record-Route", '"x, <y>" <sip:192.0.2.11;lr>'),
                        ("Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"'),
                    ],
                    ANSWER,
                )
            )
    return stage, samples


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed))
        kind = chance.randrange(5)
        if kind == 0:
            changed[at] = chance.randrange(256)
        elif kind == 1:
            del changed[at : at + chance.randint(1, 20)]
        elif kind == 2:
            changed[at:at] = bytes(chance.choice(NASTY) for _ in range(chance.randint(1, 8)))
        elif kind == 3:
            changed[at:at] = changed[at : at + 40]
        else:
            changed[at : at + 1] = chance.choice(string.digits).encode() * chance.randint(1, 12)
        changed = changed or bytearray(b"x")
    return bytes(changed)


@pytest.mark.parametrize("seed", range(5))
def test_mutated_messages_do_no_harm(seed: int) -> None:
    """PROTOS in small: each message that fits a call, broken in some places; the next call is fine."""
    stage, samples = exposed()
    chance = random.Random(seed)
    for _ in range(400):
        stage.receive(mutated(chance.choice(samples), chance))
        if chance.random() < 0.05:
            stage.wait(chance.random() * 5)
    stage.ua.outbox.clear()
    stage.ua.hang_up_all()
    stage.wait(300)
    assert (stage.ua.open_calls, stage.ua.transactions, stage.ua.idle) == (0, 0, True)
    _call, _invite = Stage().talking()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600))
def test_arbitrary_bytes_do_no_harm(data: bytes) -> None:
    stage = Stage(answers_calls=True)
    stage.receive(data)
    try:
        parse(data)
    except MessageError:
        assert stage.ua.discarded == 1


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["INVITE sip:x SIP/2.0", "SIP/2.0 200 OK", "BYE x SIP/2.0"]),
    st.lists(
        st.tuples(
            st.sampled_from(["Via", "v", "From", "To", "CSeq", "Call-ID", "Contact", "Record-Route", "Content-Length"]),
            st.text(max_size=40),
        ),
        max_size=9,
    ),
)
def test_arbitrary_headers_do_no_harm(start: str, headers: list[tuple[str, str]]) -> None:
    mandatory = ["Via: SIP/2.0/UDP h;branch=z9hG4bK1", "From: <sip:a>;tag=1", "To: <sip:b>", "Call-ID: c"]
    method = start.split(" ")[0].replace("SIP/2.0", "INVITE")
    given_names = {name.lower().replace("v", "via") if name == "v" else name.lower() for name, _ in headers}
    lines = [line for line in [*mandatory, f"CSeq: 1 {method}"] if line.partition(":")[0].lower() not in given_names]
    text = "\r\n".join([start, *lines, *(f"{name}: {value}" for name, value in headers)]) + "\r\n\r\n"
    stage = Stage(answers_calls=True)
    stage.receive(text.encode("utf-8", "surrogatepass"))
