"""The contract of `Store`, clause by clause, on every store there is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from dosvoces.core import Connection, Leg, LegState, MailState, Terms
from dosvoces.errors import AlreadyRecorded, NotOurs, StoreError
from dosvoces.mail import Mail
from dosvoces.model import ConnectionId, EndReason, Facts, NodeId, Outcome, PhoneNumber, Side, connection_id
from dosvoces.store import ConnectionRecord, DialRecord, Earlier, Entry, KeptMail, LegRecord, Store, Wanted
from dosvoces.store.sql import open_store
from dosvoces.testing import T0, A, B, an_order

Reopen = Callable[[], Awaitable[Store]]
ORDER = an_order(1, interval_s=3, key="k1")
NODE, OTHER = NodeId("0" * 25 + "1"), NodeId("0" * 25 + "2")
MAIL = Mail("<1@dosvoces>", "ana@example.com", "Ático", "Hola", b"Subject: Hola\r\n\r\nHola\r\n")


def at(seconds: float) -> Connection:
    """A connection of which A was dialled at the start and answered after `seconds`."""
    answered = T0 + timedelta(seconds=seconds)
    return Connection(Terms(), a=Leg(LegState.ANSWERED, dialed_at=T0, answered_at=answered, rang=True), started_at=T0)


def entry(event: str, *, number: int = 1, side: Side | None = None, **facts: str | int | float | None) -> Entry:
    return Entry(an_order(number).id, T0, event, side, "recorded", "mailing", facts)


@pytest.fixture
async def reopen(record_url: str) -> AsyncIterator[Reopen]:
    """Opens the same record again after closing it, as a restart does."""
    opened: list[Store] = []

    async def again() -> Store:
        for store in opened:
            await store.close()
        store = open_store(record_url, node=NODE)
        await store.open()
        opened.append(store)
        return store

    yield again
    for store in opened:
        await store.close()


@pytest.fixture
async def store(reopen: Reopen) -> Store:
    return await reopen()


# --- durable on return ---


async def test_durable_on_return_record(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    expected = ConnectionRecord(
        id=ORDER.id,
        created_at=T0,
        phase="recorded",
        outcome=None,
        ended_by="",
        first="+34600000011",
        second="+34960000022",
        email="ana@example.com",
        lead={
            "property_name": "Ático",
            "agent_name": None,
            "url": None,
            "city": "Valencia",
            "area_m2": None,
            "price": "456",
        },
        interval_s=3,
        joined_at=None,
        ended_at=None,
        answer_status=None,
        legs=(
            LegRecord(A, "+34600000011", "idle", None, None, None, None, ""),
            LegRecord(B, "+34960000022", "idle", None, None, None, None, ""),
        ),
        owner=NODE,
    )
    assert expected == await store.connection(ORDER.id)
    again = await reopen()
    assert [expected] == await again.unfinished()
    assert expected == await again.connection(ORDER.id)


async def test_durable_on_return_intend_dial_shows_a_dialled_leg(store: Store, reopen: Reopen) -> None:
    """The leg's own state is written behind; what matters after a crash is that somebody may have been rung."""
    await store.record(ORDER)
    await store.intend_dial(ORDER, A, attempt=1, at=T0)
    record = await (await reopen()).connection(ORDER.id)
    assert record is not None
    assert record.legs == (
        LegRecord(A, "+34600000011", "dialing", T0, None, None, None, ""),
        LegRecord(B, "+34960000022", "idle", None, None, None, None, ""),
    )


async def test_durable_on_return_intend_dial_keeps_what_taking_it_back_needs(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    facts: Facts = {"call_id": "leg-a", "cseq": 1, "note": None}
    await store.intend_dial(ORDER, B, attempt=1, at=T0)
    await store.intend_dial(ORDER, A, attempt=2, at=T0, trunk="second", facts={})
    await store.intend_dial(ORDER, A, attempt=1, at=T0, trunk="first", facts=facts)
    expected = [
        DialRecord(A, 1, T0, "first", facts),
        DialRecord(A, 2, T0, "second", {}),
        DialRecord(B, 1, T0, None, {}),
    ]
    assert expected == await store.dials(ORDER.id)
    assert expected == await (await reopen()).dials(ORDER.id)


async def test_durable_on_return_settle(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    over = T0 + timedelta(seconds=9, microseconds=1)
    ended = Leg(LegState.ENDED, T0, T0, None, over, True, EndReason.HANGUP, "BYE")
    never = Leg(LegState.ENDED, T0, None, None, over, True, EndReason.BUSY, "486 Busy Here")
    state = at(1)._replace(a=ended, b=never, ended_by="b", failed_side=B, joined_at=T0)
    await store.settle(ORDER.id, state, Outcome.SECOND_BUSY, at=over)
    again = await reopen()
    record = await again.connection(ORDER.id)
    assert record is not None
    assert (record.phase, record.outcome, record.ended_by, record.joined_at, record.ended_at) == (
        "ended",
        "second_busy",
        "b",
        T0,
        over,
    )
    assert record.legs == (
        LegRecord(A, "+34600000011", "ended", T0, T0, over, "hangup", "BYE"),
        LegRecord(B, "+34960000022", "ended", T0, None, over, "busy", "486 Busy Here"),
    )
    assert await again.unfinished() == []


async def test_durable_on_return_keep_mail(store: Store, reopen: Reopen) -> None:
    await store.keep_mail(MAIL, at=T0)
    expected = KeptMail(1, MAIL.message_id, MAIL.recipient, MAIL.subject, T0, MAIL.content)
    again = await reopen()
    assert [expected] == await again.mails()
    assert expected == await again.mail(1)
    assert await again.mail(2) is None


async def test_settle_happens_once(store: Store) -> None:
    """The same outcome again changes nothing, so that a write whose fate is unknown may be repeated."""
    await store.record(ORDER)
    await store.settle(ORDER.id, at(1), Outcome.CANCELLED, at=T0)
    await store.settle(ORDER.id, at(2), Outcome.CANCELLED, at=T0 + timedelta(seconds=5))
    with pytest.raises(AlreadyRecorded):
        await store.settle(ORDER.id, at(2), Outcome.COMPLETED, at=T0)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert (record.outcome, record.ended_at, record.legs[0].answered_at) == (
        "cancelled",
        T0,
        T0 + timedelta(seconds=1),
    )


async def test_a_late_update_changes_no_outcome(store: Store) -> None:
    await store.record(ORDER)
    store.update(ORDER.id, at(1), None)
    await store.settle(ORDER.id, at(2), Outcome.CANCELLED, at=T0)
    settled = await store.connection(ORDER.id)
    store.update(ORDER.id, at(3), None)
    assert await store.connection(ORDER.id) == settled


# --- one dial per attempt, one key one request ---


async def test_one_dial_per_attempt(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    await store.intend_dial(ORDER, A, attempt=1, at=T0)
    with pytest.raises(AlreadyRecorded):
        await store.intend_dial(ORDER, A, attempt=1, at=T0)
    again = await reopen()
    with pytest.raises(AlreadyRecorded):
        await again.intend_dial(ORDER, A, attempt=1, at=T0)
    await again.intend_dial(ORDER, B, attempt=1, at=T0)


async def test_one_dial_per_attempt_also_at_the_same_moment(store: Store) -> None:
    await store.record(ORDER)
    tries = (store.intend_dial(ORDER, A, attempt=1, at=T0) for _ in range(10))
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results.count(0.0) == 1
    assert [type(result) for result in results].count(AlreadyRecorded) == 9


async def test_one_key_one_request(store: Store) -> None:
    """And the refusal is its own caller's alone: all of these are in one commit."""
    orders = [an_order(1, key="k"), an_order(2, key="k"), an_order(3, key="other"), an_order(4), an_order(4)]
    results = await asyncio.gather(*(store.record(order) for order in orders), return_exceptions=True)
    assert [type(result) for result in results] == [
        type(None),
        AlreadyRecorded,
        type(None),
        type(None),
        AlreadyRecorded,
    ]
    assert [record.id for record in await store.connections()] == [an_order(4).id, an_order(3).id, an_order(1).id]


async def test_one_key_one_request_is_found_with_its_answer(store: Store) -> None:
    assert await store.repeated(ORDER) is None
    await store.record(ORDER)
    assert await store.repeated(ORDER) == Earlier(ORDER.id, ORDER.fingerprint, None, None)
    await store.remember_answer(ORDER.id, status=200, body="Data received successfully")
    assert await store.repeated(ORDER) == Earlier(ORDER.id, ORDER.fingerprint, 200, "Data received successfully")


# --- only the owner writes ---


async def test_only_the_owner_writes(store: Store) -> None:
    await store.record(ORDER)
    await store.record(replace(ORDER, id=an_order(2).id, idempotency_key=None))
    await store.settle(an_order(2).id, at(1), Outcome.CANCELLED, at=T0)
    taken: list[ConnectionId] = []
    store.when_taken(taken.append)
    store.node = OTHER
    with pytest.raises(NotOurs):
        await store.intend_dial(ORDER, A, attempt=1, at=T0)
    with pytest.raises(NotOurs):
        await store.settle(ORDER.id, at(1), Outcome.COMPLETED, at=T0)
    store.update(ORDER.id, at(1), None)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert (record.owner, record.phase, record.outcome) == (NODE, "recorded", None)
    assert [leg.state for leg in record.legs] == ["idle", "idle"]
    assert taken == [ORDER.id]
    assert await store.unfinished(owner=OTHER) == []
    # Nobody beats for the first one: it is no node.
    await store.adopt_strays()
    assert [record.id for record in await store.unfinished(owner=OTHER)] == [ORDER.id]
    await store.intend_dial(ORDER, A, attempt=1, at=T0)
    await store.settle(ORDER.id, at(1), Outcome.COMPLETED, at=T0)
    store.node = NODE
    with pytest.raises(NotOurs):
        await store.intend_dial(ORDER, B, attempt=1, at=T0)
    assert await store.unfinished() == []


async def test_another_node_finds_the_whole_order(store: Store, reopen: Reopen) -> None:
    asked = replace(
        ORDER,
        first=PhoneNumber("+34600000011", "0034 600 00 00 11"),
        caller_id_first="+34910000001",
        caller_id_second="+34910000002",
        lead=replace(ORDER.lead, agent_name="Eva", url="https://example.com/1", city="Elx", area_m2="80"),
    )
    await store.record(asked)
    again = await reopen()
    assert asked == await again.order(asked.id)
    assert await again.order(ConnectionId("unknown")) is None


async def test_the_mail_s_state_is_in_the_record(store: Store) -> None:
    await store.record(ORDER)
    store.update(ORDER.id, at(1)._replace(mail=MailState.SENT), None)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert record.mail == "sent"


# --- journal in order ---


async def test_journal_in_order(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    await store.record(an_order(2))
    first = [entry("started"), entry("digit", side=A, digit="5", level=-12.5, gap=None), entry("answered", side=B)]
    for each in first:
        store.journal(each)
        store.journal(replace(each, connection_id=an_order(2).id))
    await store.intend_dial(ORDER, A, attempt=1, at=T0)
    again = await reopen()
    last = [entry(f"note_{number}") for number in range(50)]
    for each in last:
        again.journal(each)
    assert await again.entries(ORDER.id) == [*first, *last]
    assert len(await again.entries(an_order(2).id)) == 3
    assert await again.entries(ConnectionId("unknown")) == []


async def test_journal_is_written_on_close(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    store.update(ORDER.id, at(1), T0 + timedelta(seconds=30))
    store.journal(entry("started"))
    await store.close()
    await store.close()
    again = await reopen()
    record = await again.connection(ORDER.id)
    assert record is not None
    assert (record.phase, record.legs[0].state) == ("waiting", "answered")
    assert await again.entries(ORDER.id) == [entry("started")]


async def test_the_last_update_counts(store: Store) -> None:
    await store.record(ORDER)
    for seconds in range(5):
        store.update(ORDER.id, at(seconds), None)
    record = await store.connection(ORDER.id)
    assert record is not None
    assert record.legs[0] == LegRecord(A, "+34600000011", "answered", T0, T0 + timedelta(seconds=4), None, None, "")


async def test_journal_says_when_an_entry_is_on_disk(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    kept = asyncio.Event()
    entry = Entry(ORDER.id, T0, "dialog", A, "waiting", "waiting", {"call_id": "x"})
    store.journal(entry, kept=kept.set)
    assert not kept.is_set()
    await asyncio.wait_for(kept.wait(), 5)
    assert [entry] == await (await reopen()).entries(ORDER.id)


async def test_words_that_no_database_takes_hold_up_no_outcome(store: Store, reopen: Reopen) -> None:
    await store.record(ORDER)
    leg = Leg(LegState.ENDED, dialed_at=T0, ended_at=T0, reason=EndReason.FAILED, detail="500 a\x00b\udc80c")
    await store.settle(ORDER.id, Connection(Terms(), a=leg), Outcome.CANCELLED, at=T0)
    record = await (await reopen()).connection(ORDER.id)
    assert record is not None
    assert (record.outcome, record.legs[0].detail) == ("cancelled", "500 a\ufffdb\ufffdc")


# --- errors are ours ---


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.intend_dial(ORDER, A, attempt=1, at=T0),
        lambda store: store.settle(ORDER.id, at(1), Outcome.COMPLETED, at=T0),
        lambda store: store.remember_answer(ORDER.id, status=200, body=""),
        lambda store: store.record(replace(ORDER, lead=replace(ORDER.lead, city="\ud800"))),
        lambda store: store.record(replace(ORDER, created_at=T0.replace(tzinfo=None))),
        lambda store: store.mail(1 << 70),
    ],
    ids=["dial_of_nothing", "outcome_of_nothing", "answer_of_nothing", "surrogate", "no_time_zone", "huge_number"],
)
async def test_errors_are_ours_and_only_the_callers(store: Store, write: Callable[[Store], Awaitable[None]]) -> None:
    others = [an_order(number) for number in range(10, 20)]
    bad, *good = await asyncio.gather(write(store), *(store.record(order) for order in others), return_exceptions=True)
    assert isinstance(bad, StoreError)
    assert good == [None] * 10
    assert len(await store.connections()) == 10
    assert store.problems() == []


async def test_errors_are_ours_when_it_is_not_open(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError):
        await store.record(ORDER)
    with pytest.raises(StoreError):
        await store.connections()


# --- the rest ---


async def test_connections_come_newest_first_in_pages(store: Store) -> None:
    for number in range(1, 6):
        await store.record(an_order(number))
    page = await store.connections(limit=2)
    assert [record.id for record in page] == [an_order(5).id, an_order(4).id]
    rest = await store.connections(before=page[-1].id)
    assert [record.id for record in rest] == [an_order(3).id, an_order(2).id, an_order(1).id]
    assert await store.connection(ConnectionId("unknown")) is None


async def test_the_same_mail_is_kept_once(store: Store) -> None:
    await store.keep_mail(MAIL, at=T0)
    await store.keep_mail(replace(MAIL, subject="again"), at=T0)
    await store.keep_mail(replace(MAIL, message_id="<2@dosvoces>"), at=T0)
    assert [(kept.message_id, kept.subject) for kept in await store.mails()] == [
        ("<2@dosvoces>", "Ático"),
        ("<1@dosvoces>", "Ático"),
    ]
    assert len(await store.mails(limit=1)) == 1


# --- what a list is narrowed to ---


async def test_an_order_comes_back_with_its_own_terms(store: Store, reopen: Reopen) -> None:
    order = replace(
        ORDER,
        ring_timeout_s=20,
        talk_limit_s=600,
        locale="en",
        metadata=(("b", "1"), ("a", "ñ")),
        webhook_url="https://crm.example.com/dosvoces",
        lead=replace(ORDER.lead, more=(("rooms", "3"), ("lift", "true"))),
    )
    await store.record(order)
    again = await reopen()
    assert order == await again.order(order.id)
    record = await again.connection(order.id)
    assert record is not None
    assert (record.ring_timeout_s, record.talk_limit_s, record.locale) == (20, 600, "en")
    assert (record.metadata, record.lead["rooms"]) == ({"b": "1", "a": "ñ"}, "3")
    assert record.webhook_url == "https://crm.example.com/dosvoces"


async def test_a_list_has_what_is_wanted(store: Store) -> None:
    tagged = replace(an_order(1), metadata=(("lead.id", "4711"),))
    later = replace(an_order(2), not_before=T0 + timedelta(hours=1), second=PhoneNumber("+34911111111", ""))
    queued = an_order(3)
    tagged, later, queued = (replace(order, id=connection_id(T0, n)) for n, order in enumerate((tagged, later, queued)))
    await store.record(tagged)
    await store.record(later, waits=True)
    await store.record(queued, waits=True)
    await store.settle(tagged.id, at(1), Outcome.COMPLETED, at=T0)

    async def found(wanted: Wanted) -> list[ConnectionId]:
        return [record.id for record in await store.connections(wanted=wanted, now=T0)]

    everything = [queued.id, later.id, tagged.id]
    assert everything == await found(Wanted())
    assert [tagged.id] == await found(Wanted(outcome="completed"))
    assert [tagged.id] == await found(Wanted(phase="ended"))
    assert [later.id] == await found(Wanted(phase="scheduled"))
    assert [queued.id] == await found(Wanted(phase="queued"))
    assert [] == await found(Wanted(phase="recorded"))
    assert [later.id] == await found(Wanted(number="+34911111111"))
    assert [queued.id, tagged.id] == await found(Wanted(number="+34960000022"))
    assert [tagged.id] == await found(Wanted(metadata=(("lead.id", "4711"),)))
    assert [] == await found(Wanted(metadata=(("lead.id", "4712"),)))
    assert everything == await found(Wanted(created_after=T0, created_before=T0 + timedelta(hours=1)))
    assert [] == await found(Wanted(created_before=T0))


async def test_statistics_are_found_for_many_at_once(store: Store) -> None:
    for number in (1, 2):
        await store.record(an_order(number))
        store.journal(entry("statistics", number=number, side=A, mos=4.4))
        store.journal(entry("ringing", number=number, side=A))
    found = await store.statistics([an_order(1).id, an_order(2).id])
    expected = [(an_order(n).id, "statistics", {"mos": 4.4}, 1) for n in (1, 2)]
    assert expected == [(e.connection_id, e.event, e.facts, e.number) for e in found]


async def test_the_mails_of_a_connection_are_known_by_its_id(store: Store) -> None:
    first, again = an_order(1), replace(an_order(2), resumes=an_order(1).id)
    await store.record(first)
    await store.record(again)
    await store.record(an_order(3))
    about = replace(MAIL, message_id=f"<{first.id}@dosvoces>")
    await store.keep_mail(about, at=T0)
    await store.keep_mail(replace(MAIL, message_id="<other@dosvoces>"), at=T0)
    for order, expected in ((first, [about.message_id]), (again, [about.message_id]), (an_order(3), [])):
        record = await store.connection(order.id)
        assert record is not None
        assert expected == [kept.message_id for kept in await store.mails_of(record)]
