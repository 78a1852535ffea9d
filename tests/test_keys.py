"""API keys as values: made, read, checked."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest

from dosvoces.keys import (
    KEYLESS,
    ApiKey,
    Principal,
    Refused,
    Scope,
    address_of,
    digest_of,
    id_of,
    is_key,
    make,
    verify,
    within,
)

NOW = datetime(2026, 3, 2, tzinfo=UTC)
KEY = make(0x0123456789ABCDEF_0123456789ABCDEF, test=False)
HERE = address_of("192.0.2.1")


def known(**fields: object) -> dict[str, ApiKey]:
    digest = digest_of(KEY)
    values: dict[str, object] = {
        "id": id_of(digest),
        "digest": digest,
        "name": "crm",
        "test": False,
        "scopes": frozenset({Scope.CALL}),
        "networks": (),
        "created_at": NOW,
        **fields,
    }
    key = ApiKey(**values)  # type: ignore[arg-type]
    return {key.id: key}


def test_a_key_is_a_prefix_128_bits_and_a_check() -> None:
    assert (len(KEY), KEY[:8], make(5, test=True)[:8]) == (8 + 26 + 4, "dv_live_", "dv_test_")
    assert make(1 << 128, test=False) == make(0, test=False)
    assert len({make(bit, test=False) for bit in (1 << n for n in range(128))}) == 128


@pytest.mark.parametrize("at", range(len(KEY)))
def test_no_single_wrong_character_is_a_key(at: int) -> None:
    other = "1" if KEY[at] != "1" else "2"
    assert is_key(KEY)
    assert not is_key(KEY[:at] + other + KEY[at + 1 :])


@pytest.mark.parametrize("text", ["", "wrong", "TESTKEY", KEY.upper(), KEY + "\n", " " + KEY, KEY[:-1], "é" * 38])
def test_what_is_no_key_stands_for_nobody(text: str) -> None:
    assert not is_key(text)
    assert verify(text, known(), peer=HERE, now=NOW) is Refused.UNKNOWN


def test_a_key_stands_for_its_principal() -> None:
    limits = {"calls_per_day": 10}
    key = known(test=True, limits=limits)
    found = verify(KEY, key, peer=HERE, now=NOW)
    assert found == Principal(id_of(digest_of(KEY)), "crm", test=True, scopes=frozenset({Scope.CALL}), limits=limits)
    assert (found.may(Scope.CALL), found.may(Scope.READ), found.who) == (True, False, f"key {found.key_id}")


def test_admin_may_do_all() -> None:
    found = verify(KEY, known(scopes=frozenset({Scope.ADMIN})), peer=HERE, now=NOW)
    assert isinstance(found, Principal)
    assert all(found.may(scope) for scope in Scope)
    assert not KEYLESS.may(Scope.ADMIN)


def test_another_key_of_the_same_id_is_unknown() -> None:
    (key,) = known().values()
    assert verify(KEY, known(digest=digest_of("other")), peer=HERE, now=NOW) is Refused.UNKNOWN
    assert verify(make(7, test=False), {key.id: key}, peer=HERE, now=NOW) is Refused.UNKNOWN


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"revoked_at": NOW}, Refused.REVOKED),
        ({"expires_at": NOW}, Refused.EXPIRED),
        ({"networks": (ipaddress.ip_network("10.0.0.0/8"),)}, Refused.NETWORK),
    ],
)
def test_a_key_opens_nothing_when_it_ended_or_elsewhere(fields: dict[str, object], found: Refused) -> None:
    assert verify(KEY, known(**fields), peer=HERE, now=NOW) is found


def test_a_key_works_until_the_moment_that_it_ends() -> None:
    later = NOW + timedelta(seconds=1)
    (key,) = known(revoked_at=later, expires_at=later).values()
    assert (key.state(NOW), key.state(later)) == ("ending", "revoked")
    assert isinstance(verify(KEY, {key.id: key}, peer=HERE, now=NOW), Principal)


def test_a_network_holds_its_addresses_and_no_unknown_one() -> None:
    networks = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
    inside = ("192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1", "2001:db8::1%eth0")
    outside = ("192.0.3.9", "2001:db9::1", "::192.0.2.9", "", "localhost", "192.0.2.9:80")
    assert [within(address_of(text), networks) for text in inside] == [True] * 4
    assert [within(address_of(text), networks) for text in outside] == [False] * 6
