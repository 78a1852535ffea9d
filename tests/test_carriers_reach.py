"""Whether a trunk can send to us at all, by the addresses that we listen on."""

import pytest

from dosvoces.carriers.reach import why_cut_off
from dosvoces.carriers.trunks import Trunk, Trunks
from dosvoces.errors import CarrierError
from dosvoces.model import PhoneNumber
from dosvoces.sip.api import Hop
from dosvoces.sip.resolve import Place
from dosvoces.sip.transport import reachable_address

FAR, HERE = Hop("203.0.113.9", 5060), Hop("127.0.0.1", 5060)
NO_SIP = '203.0.113.9 can\'t reach us at 127.0.0.1; set [sip] bind = "0.0.0.0:5060"'
NO_AUDIO = (
    'audio of 203.0.113.9 can\'t come to 127.0.0.1; set [media] address = "0.0.0.0" and advertised = the IP address '
    "that the trunk shall send audio to"
)


@pytest.mark.parametrize(
    ("signalling", "media", "why"),
    [
        ("127.0.0.1", "127.0.0.1", NO_SIP),
        ("0.0.0.0", "127.0.0.1", NO_AUDIO),
        ("0.0.0.0", "198.51.100.7", ""),
        ("198.51.100.7", "", ""),
    ],
)
def test_a_trunk_far_away_is_cut_off_by_loopback(signalling: str, media: str, why: str) -> None:
    assert why_cut_off(FAR, signalling=signalling, media=media) == why


@pytest.mark.parametrize("hop", [HERE, Hop("127.0.0.2", 5070), Hop("::1", 5060)])
def test_a_trunk_on_this_machine_is_not(hop: Hop) -> None:
    ours = "::1" if ":" in hop.host else "127.0.0.1"
    assert why_cut_off(hop, signalling=ours, media=ours) == ""


def test_a_trunk_at_an_address_of_this_machine_is_not() -> None:
    own = reachable_address("0.0.0.0", "192.0.2.1")
    assert why_cut_off(Hop(own, 5060), signalling="127.0.0.1", media="127.0.0.1") == ""


def test_what_is_cut_off_is_a_problem_and_no_way_while_another_trunk_works() -> None:
    trunks = Trunks(
        [Trunk("far", FAR.host, prefixes=("+34",)), Trunk("here", HERE.host, prefixes=("+34", "+351"))],
        lambda most: most,
        lambda hop: why_cut_off(hop, signalling="0.0.0.0", media="127.0.0.1"),
    )
    far, here = trunks.lines
    far.found((Place((FAR,)),), None)
    number = PhoneNumber("+34600000011", "+34600000011")
    with pytest.raises(CarrierError):
        trunks.way(number, 0.0)
    assert f"trunk far can't be used: {NO_AUDIO}" in trunks.problems([number], 0.0)
    here.found((Place((HERE,)),), None)
    assert trunks.way(number, 0.0).trunk.name == "here"
    assert trunks.problems([number], 0.0) == []
    assert trunks.warnings(0.0) == [f"trunk far can't be used: {NO_AUDIO}"]
