"""RFC 3263 and RFC 2782 as rules: a small zone in, hops in order out."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.sip.api import Hop
from dosvoces.sip.resolve import (
    PARTIAL_TTL_S,
    Answer,
    Located,
    Naptr,
    Place,
    Query,
    ResolveError,
    Srv,
    Target,
    locate,
    ordered,
)

Zone = dict[tuple[str, str], Answer]
ALL = ("tls", "tcp", "udp")
NAME = "example.com"


def found(
    target: Target, zone: Zone, *, transports: Sequence[str] = ALL, families: Sequence[str] = ("A",)
) -> tuple[Located, list[Query]]:
    """What is found, and what was asked for."""
    location = locate(target, transports=transports, families=families)
    asked: list[Query] = []
    try:
        queries = next(location)
        while True:
            asked += queries
            queries = location.send({query: zone.get((query.name, query.kind), Answer()) for query in queries})
    except StopIteration as end:
        return end.value, asked


def hops(target: Target, zone: Zone, **how: Sequence[str]) -> tuple[Hop, ...]:
    located, _asked = found(target, zone, **how)
    return ordered(located.places, lambda most: most)


def a(*addresses: str, ttl_s: float = 60) -> Answer:
    return Answer(addresses, ttl_s)


def srv(*records: Srv, ttl_s: float = 60) -> Answer:
    return Answer(records, ttl_s)


ONE_SRV = srv(Srv(0, 0, 5070, "one.example.com"))


def test_a_literal_address_is_asked_of_nobody() -> None:
    located, asked = found(Target("192.0.2.1"), {})
    assert (located, asked) == (Located((Place((Hop("192.0.2.1", 5060, "udp", "192.0.2.1"),)),), None), [])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("2001:db8::1", 5080, "tcp"), Hop("2001:db8::1", 5080, "tcp", "2001:db8::1")),
        (Target("192.0.2.1", None, "tls"), Hop("192.0.2.1", 5061, "tls", "192.0.2.1")),
        (Target("192.0.2.1", secure=True), Hop("192.0.2.1", 5061, "tls", "192.0.2.1")),
    ],
)
def test_a_literal_address_has_its_port_and_transport_from_the_uri(target: Target, expected: Hop) -> None:
    assert hops(target, {}) == (expected,)


def test_a_port_in_the_uri_asks_for_addresses_only() -> None:
    zone = {(NAME, "A"): a("192.0.2.1", "192.0.2.2"), (NAME, "AAAA"): a("2001:db8::1", ttl_s=30)}
    located, asked = found(Target(NAME, 5080), zone, families=("A", "AAAA"))
    expected = tuple(Hop(host, 5080, "udp", NAME) for host in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))
    assert (located, asked) == (Located((Place(expected),), 30), [Query(NAME, "A"), Query(NAME, "AAAA")])


def test_a_transport_in_the_uri_asks_for_its_srv() -> None:
    zone = {
        ("_sip._tcp.example.com", "SRV"): srv(
            Srv(20, 0, 5060, "two.example.com."), Srv(10, 0, 5070, "one.example.com.")
        ),
        ("one.example.com", "A"): a("192.0.2.1"),
        ("two.example.com", "A"): a("192.0.2.2"),
    }
    assert hops(Target(NAME, transport="tcp"), zone) == (
        Hop("192.0.2.1", 5070, "tcp", NAME),
        Hop("192.0.2.2", 5060, "tcp", NAME),
    )


def test_a_secure_uri_asks_for_tls_alone() -> None:
    zone = {("_sips._tcp.example.com", "SRV"): ONE_SRV, ("one.example.com", "A"): a("192.0.2.1")}
    located, asked = found(Target(NAME, secure=True), zone)
    assert located.places[0].hops == (Hop("192.0.2.1", 5070, "tls", NAME),)
    assert Query(NAME, "NAPTR") not in asked


@pytest.mark.parametrize(("transports", "chosen"), [(ALL, "tls"), (("tcp", "udp"), "udp"), (("udp",), "udp")])
def test_naptr_chooses_the_transport_among_those_that_we_speak(transports: Sequence[str], chosen: str) -> None:
    zone = {
        (NAME, "NAPTR"): Answer(
            (
                Naptr(30, 50, "s", "SIP+D2T", "_tcp.example.com"),
                Naptr(20, 50, "S", "sip+d2u", "_udp.example.com"),
                Naptr(10, 50, "s", "SIPS+D2T", "_tls.example.com."),
                Naptr(1, 1, "u", "E2U+sip", "."),
            ),
            60,
        ),
        **{(f"_{transport}.example.com", "SRV"): ONE_SRV for transport in ALL},
        ("one.example.com", "A"): a("192.0.2.1"),
    }
    assert hops(Target(NAME), zone, transports=transports) == (Hop("192.0.2.1", 5070, chosen, NAME),)


def test_without_naptr_the_first_transport_with_an_srv_is_taken() -> None:
    zone = {("_sip._udp.example.com", "SRV"): ONE_SRV, ("one.example.com", "A"): a("192.0.2.1")}
    assert hops(Target(NAME), zone) == (Hop("192.0.2.1", 5070, "udp", NAME),)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target(NAME), Hop("192.0.2.9", 5060, "udp", NAME)),
        (Target(NAME, transport="tcp"), Hop("192.0.2.9", 5060, "tcp", NAME)),
        (Target(NAME, secure=True), Hop("192.0.2.9", 5061, "tls", NAME)),
    ],
)
def test_without_any_srv_it_is_the_name_itself_at_the_default_port(target: Target, expected: Hop) -> None:
    assert hops(target, {(NAME, "A"): a("192.0.2.9")}) == (expected,)


def test_a_naptr_that_is_refused_is_as_good_as_none() -> None:
    zone = {(NAME, "NAPTR"): Answer(failure="the DNS answered REFUSED"), (NAME, "A"): a("192.0.2.9")}
    assert hops(Target(NAME), zone) == (Hop("192.0.2.9", 5060, "udp", NAME),)


def test_an_srv_that_nobody_answers_is_not_guessed() -> None:
    zone = {("_sip._udp.example.com", "SRV"): Answer(failure="SERVFAIL"), (NAME, "A"): a("192.0.2.9")}
    with pytest.raises(ResolveError, match=r"_sip\._udp\.example\.com: SERVFAIL") as caught:
        found(Target(NAME), zone)
    assert caught.value.temporary


def test_no_such_service_is_said_by_a_dot() -> None:
    with pytest.raises(ResolveError, match="no such service") as caught:
        found(Target(NAME, transport="udp"), {("_sip._udp.example.com", "SRV"): srv(Srv(0, 0, 0, "."))})
    assert not caught.value.temporary


def test_a_dot_for_one_transport_leaves_the_others() -> None:
    zone = {
        ("_sip._udp.example.com", "SRV"): srv(Srv(0, 0, 0, ".")),
        ("_sips._tcp.example.com", "SRV"): ONE_SRV,
        ("one.example.com", "A"): a("192.0.2.1"),
    }
    assert hops(Target(NAME), zone, transports=("udp", "tcp", "tls")) == (Hop("192.0.2.1", 5070, "tls", NAME),)


def test_a_dot_for_one_transport_and_no_others_is_final() -> None:
    zone = {("_sip._udp.example.com", "SRV"): srv(Srv(0, 0, 0, ".")), (NAME, "A"): a("192.0.2.9")}
    with pytest.raises(ResolveError, match="no such service") as caught:
        found(Target(NAME), zone)
    assert not caught.value.temporary


def test_a_target_without_an_address_is_left_out() -> None:
    zone = {
        ("_sip._udp.example.com", "SRV"): srv(Srv(1, 0, 5060, "gone.example.com"), Srv(2, 0, 5060, "one.example.com")),
        ("one.example.com", "A"): a("192.0.2.1", ttl_s=7),
    }
    located, _asked = found(Target(NAME, transport="udp"), zone)
    assert located == Located((Place((Hop("192.0.2.1", 5060, "udp", NAME),), 2, 0),), 7)


@pytest.mark.parametrize(
    ("unanswered", "hosts"),
    [
        (("two.example.com", "A"), ["192.0.2.1"]),
        (("two.example.com", "AAAA"), ["192.0.2.1", "192.0.2.2"]),
        (("_sips._tcp.example.com", "SRV"), ["192.0.2.1", "192.0.2.2"]),
    ],
)
def test_what_was_answered_in_part_is_asked_again_soon(unanswered: tuple[str, str], hosts: list[str]) -> None:
    zone = {
        ("_sip._tcp.example.com", "SRV"): srv(
            Srv(1, 0, 5060, "one.example.com"), Srv(2, 0, 5060, "two.example.com"), ttl_s=3600
        ),
        ("one.example.com", "A"): a("192.0.2.1", ttl_s=3600),
        ("two.example.com", "A"): a("192.0.2.2", ttl_s=3600),
    }
    assert found(Target(NAME), zone, families=("A", "AAAA"))[0].ttl_s == 3600
    zone[unanswered] = Answer(failure="SERVFAIL")
    located, _asked = found(Target(NAME), zone, families=("A", "AAAA"))
    assert [hop.host for hop in ordered(located.places, lambda most: 0)] == hosts
    assert located.ttl_s == PARTIAL_TTL_S


def test_a_name_of_which_one_family_is_unanswered_is_asked_again_soon() -> None:
    zone = {(NAME, "A"): a("192.0.2.1", ttl_s=3600), (NAME, "AAAA"): Answer(failure="SERVFAIL")}
    assert found(Target(NAME, 5060), zone, families=("A", "AAAA"))[0].ttl_s == PARTIAL_TTL_S


@pytest.mark.parametrize(("failure", "temporary"), [("", False), ("SERVFAIL", True)])
def test_nothing_found_says_whether_asking_again_may_help(failure: str, temporary: bool) -> None:
    with pytest.raises(ResolveError) as caught:
        found(Target(NAME, 5060), {(NAME, "A"): Answer(failure=failure)})
    assert (str(caught.value), caught.value.temporary) == (
        f"{NAME}: SERVFAIL" if failure else f"{NAME} has no address",
        temporary,
    )


# --- weights ---


def place(weight: int, priority: int = 0) -> Place:
    return Place((Hop(f"192.0.2.{weight}", 5060),), priority, weight)


def draws(*numbers: int) -> Callable[[int], int]:
    left = list(numbers)
    return lambda most: min(left.pop(0), most)


def test_priorities_go_before_weights() -> None:
    order = ordered((place(9, 2), place(1, 1)), lambda most: most)
    assert [hop.host for hop in order] == ["192.0.2.1", "192.0.2.9"]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [((0, 0, 0), [0, 10, 30]), ((10, 40, 0), [10, 30, 0]), ((11, 0, 0), [30, 0, 10]), ((40, 0, 10), [30, 0, 10])],
)
def test_the_running_sum_of_weights_is_compared_with_the_draw(drawn: tuple[int, ...], expected: list[int]) -> None:
    order = ordered((place(10), place(30), place(0)), draws(*drawn))
    assert [int(hop.host.rpartition(".")[2]) for hop in order] == expected


def test_the_share_of_first_places_is_the_weights() -> None:
    places = (place(1), place(3))
    first = Counter(ordered(places, draws(drawn, 0))[0].host for drawn in range(5))
    # 0 and 1 fall to the first, 2 to 4 to the second: as RFC 2782 draws, from 0 to the sum, both included.
    assert first == {"192.0.2.1": 2, "192.0.2.3": 3}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 65535)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_every_place_is_tried_once(ranks: list[tuple[int, int]], random: object) -> None:
    places = tuple(Place((Hop(f"192.0.2.{n}", 5060),), *rank) for n, rank in enumerate(ranks))
    order = ordered(places, lambda most: random.randint(0, most))  # type: ignore[attr-defined]
    assert sorted(order) == sorted(hop for each in places for hop in each.hops)
