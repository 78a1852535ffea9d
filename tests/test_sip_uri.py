"""Where a URI leads, from whatever a peer writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.api import Address, Hop
from dosvoces.sip.uri import destination, host_port, is_loose, is_request_uri, literal, without_headers

UDP = Hop("192.0.2.200", 5060)
TLS = Hop("192.0.2.1", 5081, "tls", "sip.example.com")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:a@192.0.2.1", ("192.0.2.1", 5060)),
        ("SIP:192.0.2.1:5070;transport=UDP", ("192.0.2.1", 5070)),
        ("sip:a;b?c@192.0.2.1;lr?X=y", ("192.0.2.1", 5060)),
        ("sip:a@192.0.2.1:99999", ("192.0.2.1", 5060)),
        ("sip:a@192.0.2.1:0", ("192.0.2.1", 5060)),
        ("sip:a@192.0.2.1:²", ("192.0.2.1", 5060)),
        ("sip:a@pbx1:5070", None),
        ("sip:a@300.1.1.1", None),
        ("sip:", None),
        ("", None),
    ],
)
def test_destination(uri: str, expected: Address | None) -> None:
    assert destination(uri, UDP) == (Hop(*expected) if expected else None)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:[2001:db8::1]:5070", ("2001:db8::1", 5070)),
        ("sip:a@[2001:db8::2]", ("2001:db8::2", 5060)),
        ("sip:a@[2001:db8::2", ("2001:db8::2", 5060)),
        ("sip:2001:db8::1", ("2001:db8::1", 5060)),
    ],
)
def test_destination_of_ipv6(uri: str, expected: Address) -> None:
    assert destination(uri, Hop("2001:db8::9", 5060)) == Hop(*expected)


@pytest.mark.parametrize(
    ("uri", "known"),
    [
        ("sip:a@[2001:db8::1]:5060", "192.0.2.1"),
        ("sip:a@192.0.2.1", "2001:db8::1"),
        ("sip:a@0.0.0.0:5060", "192.0.2.1"),
        ("sip:a@[::]", "2001:db8::1"),
        ("sip:a@224.0.1.75", "192.0.2.1"),
        ("sip:a@127.0.0.1:25;transport=tcp", "192.0.2.1"),
        ("sip:[::1];lr", "2001:db8::1"),
    ],
)
def test_an_address_that_can_t_be_the_peer_s_leads_nowhere(uri: str, known: str) -> None:
    """What is sent there would never arrive, or come to this machine's own services."""
    assert destination(uri, Hop(known, 5060)) is None


def test_on_one_machine_all_its_addresses_are_fine() -> None:
    assert destination("sip:a@127.0.0.2:5070", Hop("127.0.0.1", 5060)) == Hop("127.0.0.2", 5070)
    assert destination("sip:a@127.0.0.2:5070", Hop("", 0)) == Hop("127.0.0.2", 5070)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:a@192.0.2.1", TLS),  # no word of a transport: the trunk's connection
        ("sip:a@192.0.2.1:5071", Hop("192.0.2.1", 5071, "tls", "sip.example.com")),
        ("sip:a@192.0.2.1:5081;transport=TLS", TLS),
        ("sips:a@192.0.2.1", Hop("192.0.2.1", 5061, "tls", "sip.example.com")),
        ("sip:a;transport=tls@192.0.2.1;transport=tcp", Hop("192.0.2.1", 5060, "tcp")),
        ("sip:192.0.2.9;lr", Hop("192.0.2.9", 5061, "tls", "sip.example.com")),
        ("sip:192.0.2.9;lr ; transport = udp", Hop("192.0.2.9", 5060)),
        ("sip:192.0.2.9;transport=ws", None),
    ],
)
def test_destination_of_a_secured_dialog(uri: str, expected: Hop | None) -> None:
    assert destination(uri, TLS) == expected


def test_host_port() -> None:
    assert host_port("sip:a@pbx1 : 5070 ;lr") == ("pbx1", 5070)


@pytest.mark.parametrize(
    ("uri", "loose"),
    [
        ("sip:h;lr", True),
        ("sip:u;lr@h", False),
        ("sip:h;LR=on;x", True),
        ("sip:h;lrx", False),
        ("sip:h?lr", False),
        ("sip:lr", False),
    ],
)
def test_is_loose(uri: str, loose: bool) -> None:
    assert is_loose(uri) is loose


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sip:a@h;method=INVITE;lr?Subject=x", "sip:a@h;lr"),
        ("sip:a?b;c@h", "sip:a?b;c@h"),
        ("sip:h?x", "sip:h"),
    ],
)
def test_without_headers(uri: str, kept: str) -> None:
    assert without_headers(uri) == kept


@given(st.text(max_size=60))
def test_never_raises(text: str) -> None:
    for uri in (text, f"sip:{text}", f"sip:{text}@{text}:{text}", f"sip:[{text}]"):
        destination(uri, TLS)
        is_loose(uri)
        without_headers(uri)
        is_request_uri(uri)
    literal(text)
