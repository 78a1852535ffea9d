"""The contract of `Store` on repeated requests, on every store there is, one process and two."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dosvoces.core import Answer, AnswerKind, Connection, Leg, LegState, MailState, Terms
from dosvoces.errors import AlreadyRecorded
from dosvoces.model import EndReason, Order, Outcome, Repeats
from dosvoces.store import Earlier, Entry, Store
from dosvoces.store.answers import answer_of
from dosvoces.store.sql import open_store
from dosvoces.testing import T0, A, B, an_order

JOINS = Repeats(coalesce_s=30)
OVER = T0 + timedelta(seconds=40)
MAILED = Connection(Terms(), mail=MailState.SENT, started_at=T0)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'record.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = open_store(url)
    await opened.open()
    yield opened
    await opened.close()


def same(number: int, *, after_s: float = 0, key: str | None = None) -> Order:
    """One of many orders for the same."""
    at = T0 + timedelta(seconds=after_s)
    return replace(an_order(number, key=key, at=at), fingerprint="f" * 64, repeats=JOINS)


async def ends(store: Store, order: Order, outcome: Outcome, *, dialled: bool, mailed: bool = True) -> None:
    if dialled:
        await store.intend_dial(order, A, attempt=1, at=T0)
    state = MAILED._replace(mail=MailState.SENT if mailed else MailState.SENDING)
    await store.settle(order.id, state, outcome, at=OVER)


async def taken(store: Store, order: Order) -> bool:
    """Whether it is recorded, rather than the repeat of another."""
    try:
        await store.record(order)
    except AlreadyRecorded:
        return False
    return True


# --- identical requests are one ---


async def test_identical_requests_are_one_while_the_first_is_open(store: Store) -> None:
    assert await taken(store, same(1))
    assert not await taken(store, same(2, after_s=3600))
    assert await store.repeated(same(2)) == Earlier(same(1).id, "f" * 64, None, None)
    assert await taken(store, replace(same(3), fingerprint="e" * 64))
    assert await taken(store, same(4, key="k"))
    assert await taken(store, replace(same(5), repeats=Repeats()))


async def test_identical_requests_are_one_until_some_time_after_the_end(store: Store) -> None:
    await store.record(same(1))
    await ends(store, same(1), Outcome.FIRST_BUSY, dialled=True)
    assert not await taken(store, same(2, after_s=69))
    assert await store.repeated(same(2, after_s=70)) is None
    assert await taken(store, same(3, after_s=70))


async def test_identical_requests_are_two_when_the_first_ended_before_anybody_was_dialled(store: Store) -> None:
    await store.record(same(1))
    await ends(store, same(1), Outcome.MAIL_FAILED, dialled=False)
    assert await store.repeated(same(2, after_s=41)) is None
    assert await taken(store, same(2, after_s=41))


async def test_identical_requests_are_one_also_at_the_same_moment(store: Store, url: str) -> None:
    """Of many on two nodes, where two share a record."""
    other = store if url.startswith("sqlite") else open_store(url)
    if other is not store:
        await other.open()
    try:
        orders = [same(number) for number in range(1, 51)]
        tries = (taken(store if order.id[-1] in "02468" else other, order) for order in orders)
        assert sorted(await asyncio.gather(*tries)) == [False] * 49 + [True]
        under_key = [same(number, key="k") for number in range(51, 101)]
        tries = (taken(store if order.id[-1] in "02468" else other, order) for order in under_key)
        assert sorted(await asyncio.gather(*tries)) == [False] * 49 + [True]
    finally:
        if other is not store:
            await other.close()


# --- how long a key lasts, and to whom it goes ---


async def test_a_key_is_free_again_after_its_lifetime(store: Store) -> None:
    await store.record(same(1, key="k"))
    await ends(store, same(1), Outcome.COMPLETED, dialled=True)
    assert not await taken(store, same(2, key="k", after_s=24 * 3600))
    later = same(3, key="k", after_s=24 * 3600 + 1)
    assert await store.repeated(later) is None
    assert await taken(store, later)
    found = await store.repeated(later)
    assert found is not None
    assert found.connection_id == later.id


async def test_a_key_is_kept_while_its_request_is_open(store: Store) -> None:
    await store.record(same(1, key="k"))
    late = same(2, key="k", after_s=48 * 3600)
    assert not await taken(store, late)
    found = await store.repeated(late)
    assert found is not None
    assert found.connection_id == same(1).id


async def test_a_key_goes_to_the_order_that_resumes(store: Store) -> None:
    await store.record(same(1, key="k"))
    await ends(store, same(1), Outcome.INTERRUPTED, dialled=False)
    assert not await taken(store, same(2, key="k"))
    first = await store.repeated(same(2, key="k"))
    assert first == Earlier(
        same(1).id,
        "f" * 64,
        None,
        None,
        outcome=Outcome.INTERRUPTED,
        answer=Answer(AnswerKind.NOT_TRIED),
        mailed=True,
    )
    assert first.resumable
    resuming = [first.resumed_by(same(number, key="k")) for number in range(3, 13)]
    assert sorted(await asyncio.gather(*(taken(store, order) for order in resuming))) == [False] * 9 + [True]
    found = await store.repeated(same(2, key="k"))
    assert found is not None
    assert (found.resumes, found.mailed) == (same(1).id, True)
    again = await store.order(found.connection_id)
    assert again is not None
    assert (again.resumes, again.mailed) == (same(1).id, True)


@pytest.mark.parametrize("how", ["dialled", "told", "open"])
async def test_a_key_stays_with_what_can_not_be_resumed(store: Store, how: str) -> None:
    await store.record(same(1, key="k"))
    if how != "open":
        await ends(store, same(1), Outcome.INTERRUPTED, dialled=how == "dialled")
    if how == "told":
        await store.remember_answer(same(1).id, status=500, body="{}")
    found = await store.repeated(same(2, key="k"))
    assert found is not None
    assert not found.resumable
    assert not await taken(store, replace(same(2, key="k"), resumes=same(1).id))


# --- the answer, from the record ---

RANG = Entry(same(1).id, T0, "ringing", B, "dialing_second", "ringing_second", {})
UP = Leg(LegState.ENDED, T0, T0, None, OVER, True, EndReason.HANGUP, "BYE")
RUNG = Leg(LegState.ENDED, T0, None, None, OVER, True, EndReason.BUSY, "486")
MADE = Answer(AnswerKind.MADE)


@pytest.mark.parametrize(
    ("state", "rang", "outcome", "answer"),
    [
        (MAILED._replace(a=UP, b=UP, joined_at=T0), True, Outcome.COMPLETED, MADE),
        (MAILED._replace(a=UP, b=RUNG, failed_side=B), True, Outcome.SECOND_BUSY, MADE),
        (MAILED._replace(a=UP, b=RUNG, failed_side=B), False, Outcome.SECOND_BUSY, Answer(AnswerKind.CALL_FAILED, B)),
        (MAILED._replace(a=RUNG, failed_side=A), False, Outcome.FIRST_BUSY, Answer(AnswerKind.CALL_FAILED, A)),
        (MAILED._replace(a=UP, b=UP), True, Outcome.INTERRUPTED, Answer(AnswerKind.CALL_FAILED, B)),
        (MAILED._replace(a=RUNG), False, Outcome.INTERRUPTED, Answer(AnswerKind.CALL_FAILED, A)),
    ],
)
async def test_an_answer_follows_from_what_became_of_it(
    store: Store, state: Connection, rang: bool, outcome: Outcome, answer: Answer
) -> None:
    await store.record(same(1))
    await store.intend_dial(same(1), A, attempt=1, at=T0)
    if rang:
        store.journal(RANG)
    await store.settle(same(1).id, state, outcome, at=OVER)
    found = await store.earlier_of(same(1).id)
    assert found == Earlier(same(1).id, "f" * 64, None, None, outcome, answer, dialled=True, mailed=True)


async def test_the_answer_is_known_as_soon_as_the_second_party_rings(store: Store) -> None:
    await store.record(same(1))
    await store.intend_dial(same(1), B, attempt=1, at=T0)
    found = await store.earlier_of(same(1).id)
    assert (found and found.answer, found and found.known) == (None, False)
    store.journal(RANG)
    found = await store.earlier_of(same(1).id)
    assert (found and found.answer, found and found.known) == (MADE, True)


async def test_a_mail_that_failed_is_the_answer(store: Store) -> None:
    await store.record(same(1))
    await store.settle(same(1).id, MAILED._replace(mail=MailState.REFUSED), Outcome.MAIL_FAILED, at=OVER)
    found = await store.earlier_of(same(1).id)
    assert found is not None
    assert found.answer == Answer(AnswerKind.MAIL_FAILED)


async def test_an_answer_is_waited_for(store: Store) -> None:
    await store.record(same(1))
    waiting = asyncio.create_task(answer_of(store, same(1).id))
    with pytest.raises(TimeoutError):
        await answer_of(store, same(1).id, limit_s=0.05)
    await store.remember_answer(same(1).id, status=200, body="made")
    found = await asyncio.wait_for(waiting, 5)
    assert found is not None
    assert (found.status, found.body) == (200, "made")
    assert await answer_of(store, an_order(9).id) is None
