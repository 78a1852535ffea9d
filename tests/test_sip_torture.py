"""
RFC 4475 and RFC 5118: each torture message from a peer, from a stranger and amid a call does what it must, raises
nothing, ends nothing, and a call can be made afterwards.
"""

import pytest

from dosvoces.sip.api import Hop
from dosvoces.sip.dialog import Dialog
from dosvoces.sip.message import MessageError, Request, Response, address_uri, branch, parse, split_values, tag
from dosvoces.sip.sdp import SdpError
from dosvoces.sip.sdp import parse as parse_sdp
from tests.rfc4475 import MESSAGES, Torture
from tests.sip_stage import Stage

STRANGER = ("203.0.113.66", 5060)
HOP = Hop("192.0.2.10", 5060)
BY_NAME = {message.name: message for message in MESSAGES}

every = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)


def a_call_can_be_made(stage: Stage) -> None:
    """Set up, answered, hung up; afterwards nothing remains of it nor of what came before."""
    call, _invite = stage.talking()
    call.hangup()
    stage.answer(stage.request("BYE"), 200)
    stage.rest()


def answers(stage: Stage) -> list[int]:
    """What waits to be sent, which must be answers."""
    messages = [message for message, _hop in stage.messages()]
    assert all(isinstance(message, Response) for message in messages)
    return [message.code for message in messages if isinstance(message, Response)]


def test_all_are_here() -> None:
    sections = [message.section for message in MESSAGES]
    assert len(BY_NAME) == len(MESSAGES) == 49
    assert sections == [
        *(f"3.1.1.{number}" for number in range(1, 14)),
        *(f"3.1.2.{number}" for number in range(1, 20)),
        "3.2.1",
        *(f"3.3.{number}" for number in range(1, 16)),
        "3.4.1",
    ]


@every
def test_read_or_refused(message: Torture) -> None:
    if message.readable:
        assert isinstance(parse(message.data), Request | Response)
    else:
        with pytest.raises(MessageError):
            parse(message.data)


@every
def test_from_a_peer(message: Torture) -> None:
    stage = Stage()
    stage.receive(message.data)
    expected = [] if message.answer is None else [message.answer]
    assert (answers(stage), stage.ua.discarded) == (expected, 0 if message.readable else 1)
    a_call_can_be_made(stage)


@every
def test_from_a_stranger(message: Torture) -> None:
    stage = Stage()
    stage.receive(message.data, STRANGER)
    assert (stage.sent(), stage.ua.transactions, stage.ua.discarded) == ([], 0, 1)
    a_call_can_be_made(stage)


@every
def test_amid_a_call(message: Torture) -> None:
    stage = Stage()
    call, _invite = stage.talking()
    stage.receive(message.data)
    assert answers(stage) == ([] if message.answer is None else [message.answer])
    stage.wait(40)
    stage.ua.outbox.clear()
    assert (call.over, stage.recorder.told) == (False, [])
    call.hangup()
    assert stage.sent() == ["BYE"]


@every
def test_to_a_phone_that_takes_calls(message: Torture) -> None:
    stage = Stage(answers_calls=True)
    stage.receive(message.data)
    stage.receive(message.data)  # and its repeat
    for call in stage.incoming:
        call.answer(b"v=0")
    stage.wait(100)
    assert len(stage.incoming) <= 1
    stage.ua.outbox.clear()
    stage.ua.hang_up_all()
    stage.rest()


# -- what was read ---------------------------------------------------------------------------------------------------


def request(name: str) -> Request:
    message = parse(BY_NAME[name].data)
    assert isinstance(message, Request)
    return message


def response(name: str) -> Response:
    message = parse(BY_NAME[name].data)
    assert isinstance(message, Response)
    return message


def test_wsinv() -> None:
    read = request("wsinv")
    assert (read.method, read.uri, read.cseq, branch(read), len(read.body)) == (
        "INVITE",
        "sip:vivekg@chair-dnrc.example.com;unknownparam",
        9,
        "390skdjuw",
        150,
    )
    assert (tag(read.header("to")), tag(read.header("from"))) == ("1918181833n", "98asjd8")
    assert (address_uri(read.header("to")), address_uri(read.header("from"))) == (
        "sip:vivekg@chair-dnrc.example.com",
        "sip:jdrosen@example.com",
    )
    assert (read.header("subject"), read.header("max-forwards"), read.header("unknownheaderwithunusualvalue")) == (
        "",
        "0068",
        ";;,,;;,;",
    )
    assert [value.split()[-1] for value in split_values(read.values("via"))] == [
        "192.0.2.2;branch=390skdjuw",
        "z9hG4bK9ikj8",
        "z9hG4bK30239",
    ]
    assert [address_uri(value) for value in split_values(read.values("contact"))] == ["sip:jdrosen@example.com"]
    assert [(media.kind, media.port, media.host) for media in parse_sdp(read.body).media] == [
        ("audio", 49217, "192.0.2.4"),
        ("video", 3227, "192.0.2.4"),
    ]


def test_intmeth() -> None:
    read = request("intmeth")
    assert (read.method, read.cseq, branch(read), tag(read.header("from"))) == (
        "!interesting-Method0123456789_*+`.%indeed'~",
        139122385,
        "z9hG4bK-.!%66*_+`'~",
        "_token~1'+`*%!-.",
    )
    assert (read.header("call-id"), read.header("extensionheader-!.%*+_`'~")) == (
        "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
        "\ufeff大停電",
    )
    assert address_uri(read.header("to")) == "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com"


def test_percent_is_left_alone() -> None:
    escaped, nulls, header = request("esc01"), request("escnull"), request("esc02")
    assert (escaped.uri, address_uri(escaped.header("contact"))) == (
        "sip:sips%3Auser%40example.com@example.net",
        "sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31",
    )
    assert [address_uri(value) for value in nulls.values("contact")] == [
        "sip:%00@host5.example.com",
        "sip:%00%00@host5.example.com",
    ]
    assert (header.method, len(header.values("contact")), header.header("c%6fntact")) == (
        "RE%47IST%45R",
        2,
        "<sip:alias2@host2.example.com>",
    )


def test_longreq() -> None:
    read = request("longreq")
    assert (len(read.values("via")), branch(read), len(tag(read.header("from")))) == (34, "", 155)
    assert read.values("via")[0] == "SIP/2.0/TCP sip33.example.com"
    assert len(read.body) == 150


def test_what_follows_the_body_is_dropped() -> None:
    read = request("dblreq")
    assert (read.method, read.body) == ("REGISTER", b"")


def test_semiuri_and_transports() -> None:
    assert request("semiuri").uri == "sip:user;par=u%40example.net@example.com"
    assert [value.split()[0] for value in request("transports").values("via")] == [
        f"SIP/2.0/{name}" for name in ("UDP", "SCTP", "TLS", "UNKNOWN", "TCP")
    ]


def test_a_binary_body_is_kept() -> None:
    read = request("mpart01")
    assert (read.content_type, read.body[-22:]) == ("multipart/mixed", b"\r\n--7a9cbec02ceef655--")
    assert bytes(range(256)) in read.body


def test_responses() -> None:
    reason, none = response("unreason"), response("noreason")
    assert (reason.code, reason.phrase, len(reason.body)) == (
        200,
        "= 2**3 * 5**2 но сто девяносто девять - простое",
        154,
    )
    assert (none.code, none.phrase) == (100, "")


def test_spaces_and_missing_quotes_lose_nothing() -> None:
    spaces, quotes = request("badaspec"), request("baddn")
    assert (address_uri(spaces.header("to")), tag(spaces.header("from"))) == ("sip:t.watson@example.org", "433423")
    assert (address_uri(quotes.header("from")), tag(quotes.header("from"))) == ("sip:a.g.bell@example.com", "43")


def test_parameters_of_a_bare_contact_are_the_headers() -> None:
    """cparam01 and cparam02 differ in nothing but the brackets, and mean different things (RFC 3261 §20.10)."""
    assert [address_uri(request(name).header("contact")) for name in ("cparam01", "cparam02")] == [
        "sip:+19725552222@gw1.example.net",
        "sip:+19725552222@gw1.example.net;unknownparam",
    ]


def test_headers_of_a_contact_are_never_sent() -> None:
    dialog = Dialog(
        call_id="x", local="<sip:a@b>;tag=1", local_tag="1", remote="<sip:c@d>", remote_target="sip:c@d", fallback=HOP
    )
    dialog.refresh_target(request("regescrt"))
    assert dialog.remote_target == "sip:user@example.com"


def test_badbranch_does_not_mix_requests_up() -> None:
    """Two requests whose branch is the magic cookie alone are two transactions, each answered as itself."""
    stage = Stage()
    first = BY_NAME["badbranch"].data
    second = first.replace(b"CSeq: 8", b"CSeq: 9").replace(b"badbranch.", b"another.")
    stage.receive(first)
    stage.receive(second)
    stage.receive(first)
    assert [message.header("call-id").partition(".")[0] for message, _hop in stage.messages()] == [
        "badbranch",
        "another",
        "badbranch",
    ]
    stage.rest()


def test_refusals_say_what_would_do() -> None:
    stage = Stage()
    stage.receive(BY_NAME["bext01"].data)
    assert stage.response().header("unsupported") == "nothingSupportsThis, nothingSupportsThisEither"
    stage.receive(BY_NAME["invut"].data)
    assert stage.response().header("accept") == "application/sdp"
    stage.receive(BY_NAME["escnull"].data)
    assert "INVITE" in stage.response().header("allow")


@every
def test_bodies_are_descriptions_or_errors(message: Torture) -> None:
    if message.readable:
        try:
            parse_sdp(parse(message.data).body)
        except SdpError:
            pass
