"""RFC 5118: each of its messages from a peer that speaks IPv6, from a stranger and amid a call."""

import pytest

from dosvoces.sip.api import Hop
from dosvoces.sip.message import Request, address_uri, parse, split_values
from dosvoces.sip.request import seen_address
from dosvoces.sip.sdp import parse as parse_sdp
from dosvoces.sip.uri import destination, host_port
from tests.rfc5118 import MESSAGES, data
from tests.sip_stage import TRUNK, Stage

PEER = ("2001:db8::9:1", 5060)
STRANGER = ("2001:db8::bad", 5060)
ALONG = Hop("2001:db8::9:1", 5060)

ANSWERS = {
    "4.1": 405,
    "4.2": 405,  # a REGISTER is refused as such; nobody reads its URI
    "4.3": 405,
    "4.4": 405,
    "4.5 bare": 481,
    "4.5 brackets": 481,
    "4.6": 480,
    "4.7": 481,
    "4.8": 480,
    "4.9": 480,
    "4.10": 200,
}

every = pytest.mark.parametrize("section", MESSAGES)


def read(section: str) -> Request:
    message = parse(data(section))
    assert isinstance(message, Request)
    return message


@every
def test_from_a_peer_a_stranger_and_amid_a_call(section: str) -> None:
    stage = Stage(peers=[PEER[0], TRUNK[0]])
    call, _invite = stage.talking()
    stage.receive(data(section), STRANGER)
    assert (stage.sent(), stage.ua.discarded) == ([], 1)
    stage.receive(data(section), PEER)
    assert stage.sent() == [ANSWERS[section]]
    stage.wait(40)
    stage.ua.outbox.clear()
    assert (call.over, stage.recorder.told) == (False, [])
    call.hangup()
    stage.answer(stage.request("BYE"), 200)
    stage.rest()
    stage.talking()


@every
def test_to_a_phone_that_takes_calls(section: str) -> None:
    stage = Stage(answers_calls=True, peers=[PEER[0]])
    stage.receive(data(section), PEER)
    for call in stage.incoming:
        call.answer(b"v=0")
    stage.wait(100)
    stage.ua.outbox.clear()
    stage.ua.hang_up_all()
    stage.rest()


def test_uris() -> None:
    """§4.1 to §4.4: brackets make a port a port; without them all of it is the address."""
    assert {section: host_port(read(section).uri) for section in ("4.1", "4.2", "4.3", "4.4")} == {
        "4.1": ("2001:db8::10", None),
        "4.2": ("2001:db8::10", None),
        "4.3": ("2001:db8::10:5070", None),
        "4.4": ("2001:db8::10", 5070),
    }
    contact = address_uri(read("4.1").header("contact"))
    assert destination(contact, ALONG) == Hop("2001:db8::1", 5060)


@pytest.mark.parametrize("section", ["4.5 bare", "4.5 brackets"])
def test_received_with_and_without_brackets(section: str) -> None:
    """§4.5. In a request it isn't believed; in an answer both spellings are our address as the other end saw it."""
    message = read(section)
    message.headers["via"] = [f"{message.header('via')};rport=5062"]
    assert seen_address(message) == ("2001:db8::9:255", 5062)
    stage = Stage(peers=[PEER[0]])
    stage.receive(data(section), PEER)
    ((answer, hop),) = stage.messages()
    assert (answer.header("via"), hop) == ("SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111", PEER)


def test_several_addresses_in_via() -> None:
    """§4.7: the topmost decides where the answer goes, all are sent back."""
    stage = Stage(peers=[PEER[0]])
    stage.receive(data("4.7"), (PEER[0], 6050))
    ((answer, hop),) = stage.messages()
    assert (hop, answer.values("via")) == ((PEER[0], 6050), split_values(read("4.7").values("via")))


def test_descriptions() -> None:
    """§4.6, §4.8: the address family is the line's own."""
    found = {section: [media.host for media in parse_sdp(read(section).body).media] for section in ("4.6", "4.8")}
    assert found == {"4.6": ["2001:db8::20", "2001:db8::20"], "4.8": ["192.0.2.1", "2001:db8::1"]}


def test_ipv4_mapped_addresses() -> None:
    """§4.9: the same machine as without the dress."""
    by_ipv4 = Hop("192.0.2.9", 5060)
    assert destination(address_uri(read("4.9").header("contact")), by_ipv4) == Hop("192.0.2.2", 5060)


def test_three_colons_lead_nowhere() -> None:
    """§4.10: what RFC 3261's first grammar produced is no address; a dialog stays with the hop that it began with."""
    assert destination(address_uri(read("4.10").header("contact")), ALONG) is None
