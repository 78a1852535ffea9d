"""The contract of `Keys`, clause by clause, on every database there is."""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dosvoces.errors import StoreError
from dosvoces.keys import ApiKey, Scope, digest_of, id_of, make
from dosvoces.model import ConnectionId, NodeId
from dosvoces.store.keys import Keys
from dosvoces.store.sql import SqlStore, open_keys, open_roll, open_store
from dosvoces.testing import an_order

ONE = NodeId("1".zfill(26))
AT = datetime(2026, 3, 2, tzinfo=UTC)


def a_key(number: int, **fields: object) -> ApiKey:
    digest = digest_of(make(number, test=False))
    key = ApiKey(
        id=id_of(digest),
        digest=digest,
        name=f"k{number}",
        test=number % 2 == 0,
        scopes=frozenset({Scope.CALL, Scope.READ}),
        networks=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32")),
        created_at=AT + timedelta(seconds=number),
        expires_at=AT + timedelta(days=number),
        limits={"calls_per_day": 5},
    )
    return replace(key, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def store(record_url: str) -> AsyncIterator[SqlStore]:
    store = open_store(record_url, node=ONE)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def keys(record_url: str, store: SqlStore) -> AsyncIterator[Keys]:
    keys = open_keys(record_url)
    yield keys
    await keys.close()


async def acts(keys: Keys) -> list[tuple[str, str, str]]:
    return [(act.who, act.what, act.subject) for act in await keys.acts(limit=10)]


async def test_what_was_made_is_there_as_it_was_made(keys: Keys) -> None:
    await keys.create(a_key(2), by="ana")
    await keys.create(a_key(1), by="ana")
    ring = await keys.ring()
    assert [a_key(1), a_key(2)] == list(ring.keys)
    assert abs(ring.now - datetime.now(UTC)) < timedelta(seconds=5)


async def test_never_forgotten(keys: Keys) -> None:
    await keys.create(a_key(1), by="ana")
    assert [True, False] == [await keys.revoke(a_key(1).id, by="eva") for _ in range(2)]
    (key,) = (await keys.ring()).keys
    assert key.state((await keys.ring()).now) == "revoked"
    assert not await keys.revoke("nobody", by="eva")


async def test_a_key_that_is_rotated_works_until_the_overlap_is_over(keys: Keys) -> None:
    old, new = a_key(1), a_key(2, replaces=a_key(1).id)
    await keys.create(old, by="ana")
    await keys.rotate(new, overlap=timedelta(hours=1), by="ana")
    ring = await keys.ring()
    ended, begun = ring.keys
    assert (begun, ended.state(AT)) == (new, "ending")
    assert ended.revoked_at is not None
    assert timedelta(minutes=59) < ended.revoked_at - ring.now <= timedelta(hours=1)
    assert await keys.revoke(old.id, by="ana")
    assert (await keys.ring()).keys[0].revoked_at < ended.revoked_at  # type: ignore[operator]


async def test_written_with_its_audit(keys: Keys, record_url: str) -> None:
    await keys.create(a_key(1), by="ana")
    with pytest.raises(StoreError):
        await keys.create(a_key(1), by="twice")
    await keys.rotate(a_key(2, replaces=a_key(1).id), overlap=timedelta(0), by="eva")
    await keys.revoke(a_key(2).id, by="eva")
    roll = open_roll(record_url)
    await roll.ask_to_drain(ONE, by="ana", limit_s=3)
    await roll.ask_to_cancel(ConnectionId("nobody"), by="ana")
    await roll.close()
    assert [
        ("ana", "node.drain", ONE),
        ("eva", "key.revoke", a_key(2).id),
        ("eva", "key.rotate", a_key(1).id),
        ("ana", "key.create", a_key(1).id),
    ] == await acts(keys)
    assert [{"limit_s": 3}] == [act.facts for act in await keys.acts(limit=1)]


async def test_ending_a_connection_is_audited_once(keys: Keys, store: SqlStore, record_url: str) -> None:
    await store.record(an_order(1))
    roll = open_roll(record_url)
    for _ in range(2):
        assert await roll.ask_to_cancel(an_order(1).id, by="eva")
    await roll.close()
    assert [("eva", "connection.hangup", an_order(1).id)] == await acts(keys)


async def test_the_last_use_only_moves_forward(keys: Keys) -> None:
    await keys.create(a_key(1), by="ana")
    for minute in (5, 3):
        await keys.used({a_key(1).id: AT + timedelta(minutes=minute), "nobody": AT})
    (key,) = (await keys.ring()).keys
    assert AT + timedelta(minutes=5) == key.last_used_at


async def test_errors_are_ours_and_the_next_call_connects_anew(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("none") / "record.db"
    keys = open_keys(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="there is no record at"):
        await keys.ring()
    store = open_store(f"sqlite:///{path}")
    await store.open()
    assert [] == list((await keys.ring()).keys)
    await keys.close()
    await store.close()
