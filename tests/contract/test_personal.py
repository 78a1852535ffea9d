"""Who is forgotten is gone from every table and from the file or dump, and calls can be counted; on each database."""

import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.deferred.retention import EVERYTHING
from dosvoces.errors import NotAllowed
from dosvoces.mail import Mail
from dosvoces.model import EndReason, Facts, Lead, NodeId, Order, Outcome, PhoneNumber, Side, connection_id
from dosvoces.store import Entry
from dosvoces.store.limits import Quota
from dosvoces.store.personal import (
    DELETED,
    ERASED,
    IDENTIFIERS,
    IMPERSONAL,
    REWRITTEN,
    Person,
    forget,
    known_of,
    person_of,
    scrub,
    was_forgotten,
)
from dosvoces.store.reports import ENDED
from dosvoces.store.sql import SqlStore, open_database, open_keys, open_store
from dosvoces.store.tables import metadata
from dosvoces.testing import T0, an_order
from dosvoces.web.recipient import check_recipient

NODE = NodeId("0" * 26)
NUMBER, EMAIL, NAME = "+34611222333", "eva.canary@example.org", "Canaria Pérez"
CANARIES = (NUMBER[1:], "611 222 333", EMAIL, "Canaria")
OTHERS = "+34699888777", "bruno@example.org"


def about(number: int, first: str, email: str, name: str) -> Order:
    order = an_order(number, key=f"key-of-{first}-{number}")
    lead = Lead(email, property_name=f"Casa de {name}", url=f"https://example.com/{first}", more=(("nombre", name),))
    spaced = f"{first[:3]} {first[3:6]} {first[6:9]} {first[9:]}"
    return Order(
        id=order.id,
        created_at=order.created_at,
        first=PhoneNumber(first, spaced),
        second=order.second,
        lead=lead,
        interval_s=0,
        idempotency_key=order.idempotency_key,
        fingerprint="f" * 64,
        metadata=(("widget.name", name),),
    )


async def lived(store: SqlStore, order: Order, *, over: bool = True) -> None:
    """A whole call, with something in every table."""
    await store.record(order)
    number = order.first.e164
    facts: Facts = {"Call-ID": f"{number}@host", "cseq": 1}
    await store.intend_dial(order, Side.A, attempt=1, at=T0, facts=facts)
    store.journal(
        Entry(order.id, T0, "statistics", Side.A, "joined", "joined", {"source": f"sip:{number}@x", "mos": 4.3})
    )
    store.keep_capture(order.id, f"INVITE sip:{number}".encode())
    await store.keep_mail(
        Mail(f"<{order.id}@example.com>", order.lead.email, f"Lead {number}", "", f"Tel: {number}".encode()), at=T0
    )
    if over:
        leg = Leg(LegState.ENDED, T0, T0, None, T0, True, EndReason.BUSY, f"486 {number} is busy")
        await store.settle(order.id, Connection(Terms(), a=leg), Outcome.FIRST_BUSY, at=T0 + timedelta(seconds=5))
        await store.remember_answer(order.id, status=500, body=f"Could not make call to {order.first.as_received}")
        report = next(each for each in await store.reports.to_pass_on(limit=99) if each.connection_id == order.id)
        await store.reports.prepare(report, body=f'{{"number": "{number}"}}', targets=["webhook:main"])


@pytest.fixture
async def store(record_url: str) -> AsyncIterator[SqlStore]:
    store = open_store(record_url, node=NODE, reported={ENDED}, quota=Quota())
    await store.open()
    await lived(store, about(1, NUMBER, EMAIL, NAME))
    await lived(store, about(2, NUMBER, OTHERS[1], NAME))
    await lived(store, about(3, OTHERS[0], OTHERS[1], "Bruno"))
    yield store
    await store.close()


def raw(record_url: str) -> bytes:
    """All bytes of the database, or its dump."""
    if record_url.startswith("sqlite"):
        file = Path(record_url.removeprefix("sqlite:///"))
        return b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*"))
    program = max(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
    return subprocess.run([str(program), record_url], capture_output=True, check=True, timeout=60).stdout


def found_in(content: bytes) -> list[str]:
    return [canary for canary in CANARIES if canary.lower().encode() in content.lower()]


def test_every_column_has_its_place() -> None:
    """A new table or column: say in `store/personal.py` whether it knows of people, and what takes its place."""
    for table in metadata.sorted_tables:
        personal = [
            *IDENTIFIERS.get(table, ()),
            *ERASED.get(table, {}),
            *REWRITTEN.get(table, ()),
            *DELETED.get(table.name, ()),
        ]
        placed = sorted([*personal, *IMPERSONAL.get(table.name, ())])
        assert placed == sorted(column.name for column in table.columns), table.name


async def test_who_is_forgotten_is_nowhere_any_more(store: SqlStore, record_url: str) -> None:
    await store.close()
    database = open_database(record_url)
    assert found_in(raw(record_url)) == list(CANARIES)
    assert forget(database, Person(NUMBER), by="test") == 2
    assert forget(database, Person(EMAIL), by="test") == 1
    assert scrub(database)
    assert found_in(raw(record_url)) == []
    # Others are as they were.
    assert b"Casa de Bruno" in raw(record_url)
    assert {name: len(rows) for name, rows in known_of(database, Person(OTHERS[0]), by="test").items()} == {
        "capture": 1, "connection": 1, "delivery": 1, "dial_attempt": 1, "journal": 1, "leg": 2, "mail": 1, "report": 1,
    }  # fmt: skip


async def test_calls_can_still_be_counted(store: SqlStore, record_url: str) -> None:
    forget(open_database(record_url), Person(NUMBER), by="test")
    records = [await store.connection(about(number, NUMBER, EMAIL, NAME).id) for number in (1, 2, 3)]
    firsts = [record.first for record in records if record is not None]
    assert firsts[0] == firsts[1] != firsts[2] == OTHERS[0]
    assert firsts[0].startswith("forgotten-")
    assert [record.outcome for record in records if record is not None] == ["first_busy"] * 3
    assert records[0] is not None
    assert (records[0].email, records[0].legs[0].detail) == (EMAIL, "486")
    entries = await store.entries(records[0].id)
    assert [dict(entry.facts) for entry in entries if entry.event == "statistics"] == [{"mos": 4.3}]


async def test_while_a_call_is_open_nobody_is_forgotten(store: SqlStore, record_url: str) -> None:
    order = about(4, NUMBER, EMAIL, NAME)
    await lived(store, order, over=False)
    with pytest.raises(NotAllowed, match=f"1 of these connections are not over \\({order.id}\\).*dosvoces hangup"):
        forget(open_database(record_url), Person(NUMBER), by="test")
    found = await store.connection(about(1, NUMBER, EMAIL, NAME).id)
    assert found is not None
    assert found.first == NUMBER


async def test_the_audit_knows_it_without_the_value(store: SqlStore, record_url: str) -> None:
    database = open_database(record_url)
    forget(database, Person(NUMBER), by="operator ana")
    known_of(database, Person(OTHERS[0]), by="operator ana")
    keys = open_keys(record_url)
    acts = await keys.acts(limit=10)
    await keys.close()
    assert [(act.who, act.what, act.facts["kind"]) for act in acts] == [
        ("operator ana", "person.export", "number"),
        ("operator ana", "person.forget", "number"),
    ]
    assert NUMBER[1:] not in str(acts)
    engine = database.attach()
    with engine.connect() as db:
        assert was_forgotten(db, Person(NUMBER))
        assert not was_forgotten(db, Person(OTHERS[0]))
    engine.dispose()


async def test_an_export_has_every_row_and_no_stranger(store: SqlStore, record_url: str) -> None:
    found = known_of(open_database(record_url), Person(EMAIL), by="test")
    assert [row["property_name"] for row in found["connection"]] == [f"Casa de {NAME}"]
    assert set(found) == {"capture", "connection", "delivery", "dial_attempt", "journal", "leg", "mail", "report"}
    assert "bruno" not in str(found).lower()


@pytest.mark.parametrize(
    ("person", "other"),
    [
        (("+4930123456", "ana@example.org"), ("+49301234567", "juliana@example.org")),
        (("+12125551234", "ana@example.com"), ("+5212125551234", "ana@example.com.mx")),
    ],
)
async def test_whose_number_or_address_is_a_part_of_anothers_is_another(
    store: SqlStore, record_url: str, person: tuple[str, str], other: tuple[str, str]
) -> None:
    await lived(store, about(4, *person, "Ana"))
    await lived(store, about(5, *other, "Juliana"))
    database = open_database(record_url)
    for who in map(Person, person):
        assert "Juliana" not in str(known_of(database, who, by="test"))
        assert forget(database, who, by="test") == 1
    left = await store.connection(about(5, *other, "Juliana").id)
    assert left is not None
    assert (left.first, left.email, left.lead["property_name"]) == (*other, "Casa de Juliana")
    assert other[1] in {mail.recipient for mail in await store.mails(limit=10)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ana@example.org", True),
        ("escríbele a ANA@example.org.", True),
        ("https://example.com/?para=juan%2Cana@example.org&x=1", True),
        ("<mailto:ana@example.org>", True),
        ('{"nota": "Avisa a\\nana@example.org"}', True),
        ("a...ana@example.org", True),
        ("juliana@example.org", False),
        ("ana@example.org.mx", False),
        ("m.ana@example.org", False),
    ],
)
def test_an_address_is_found_in_a_text(text: str, named: bool) -> None:
    assert Person("ana@example.org").stands_in(text) is named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sip:+34611222333@x", True),
        ("0034611222333", True),
        ("9934611222333", True),
        ("+5234611222333", False),
        ("+346112223334", False),
    ],
)
def test_a_number_is_found_in_a_text(text: str, named: bool) -> None:
    assert Person(NUMBER).stands_in(text) is named


async def test_who_had_more_than_a_thousand_calls_is_shown_and_forgotten(store: SqlStore, record_url: str) -> None:
    """An agent's number is in every call of a lead."""
    many = range(10, 1_060)
    for number in many:
        order = about(number, NUMBER, EMAIL, NAME)
        await store.record(order)
        await store.settle(order.id, Connection(Terms()), Outcome.FIRST_BUSY, at=T0)
    database = open_database(record_url)
    assert len(known_of(database, Person(NUMBER), by="test")["connection"]) == len(many) + 2
    assert forget(database, Person(NUMBER), by="test") == len(many) + 2
    assert (await store.mails(limit=10))[0].recipient == OTHERS[1]


async def test_who_is_unknown_leaves_all_as_it_was(store: SqlStore, record_url: str) -> None:
    assert forget(open_database(record_url), Person("+34600111000"), by="test") == 0
    assert await store.connection(about(1, NUMBER, EMAIL, NAME).id) is not None


async def test_an_export_reads_all_of_the_record_beside_those_who_write(store: SqlStore, record_url: str) -> None:
    """On SQLite one writes at a time: with a million connections no call could be made for half a minute."""
    database = open_database(record_url)
    made, statements = database.beside, []

    def watched() -> Engine:
        engine = made()

        @event.listens_for(engine, "before_cursor_execute")
        def _note(_: object, __: object, statement: str, *___: object) -> None:
            statements.append(" ".join(statement.split()))

        return engine

    database.beside = watched  # type: ignore[method-assign]
    assert known_of(database, Person(NUMBER), by="ops")["connection"]
    writes = statements.index(database.begin, statements.index(database.begin_reading) + 1)
    assert any(" FROM " in each for each in statements[:writes])
    assert not any(" FROM " in each for each in statements[writes:])
    assert statements[-1].startswith("INSERT INTO audit")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (" +34 611-222.333", NUMBER),
        ("0034611222333", NUMBER),
        ("Eva.Canary@Example.org", EMAIL),
    ],
)
def test_people_are_written_in_many_ways(written: str, value: str) -> None:
    assert person_of(written) == Person(value)


async def test_an_address_in_a_domain_that_is_not_ascii_is_found(store: SqlStore, record_url: str) -> None:
    """The record has what goes on the wire; people write what they read."""
    written = "Ana@España-pisos.es"
    address = check_recipient(written)
    assert address is not None
    assert address.isascii()
    await lived(store, about(4, OTHERS[0], address, "Ana"))
    await lived(store, about(5, OTHERS[0], OTHERS[1], f"Bruno, not {written.lower()}"))
    database, person = open_database(record_url), person_of(written)
    assert len(known_of(database, person, by="test")["connection"]) == 2
    assert forget(database, person, by="test") == 2
    left = await store.connection(about(4, OTHERS[0], address, "Ana").id)
    assert left is not None
    assert left.email.startswith("forgotten-")


@pytest.mark.parametrize("written", ["", "611222333", "eva@", "@x.org", "a b@x.org", "%", "+3461122233x", "+34"])
def test_what_is_nobody_is_refused(written: str) -> None:
    """A part of a number would take others with it."""
    with pytest.raises(NotAllowed):
        person_of(written)


async def test_old_leads_are_blanked_and_the_facts_stay(store: SqlStore, record_url: str) -> None:
    order = about(4, *OTHERS, "Bruno")
    await lived(store, order, over=False)
    ended = T0 + timedelta(seconds=5)
    later = ended + timedelta(days=400)
    first, late = connection_id(EVERYTHING, 0), connection_id(later - timedelta(days=1), 0)
    # Mails alone: nothing ended before.
    assert await store.blank_leads(before=ended, since=first, limit=10) == (4, None)
    assert await store.blank_leads(before=later, since=late, limit=10) == (0, None)
    third = an_order(3).id
    assert await store.blank_leads(before=later, since=first, limit=2) == (2, third)
    assert await store.blank_leads(before=later, since=third, limit=2) == (1, None)
    assert await store.blank_leads(before=later, since=first, limit=10) == (0, None)
    record = await store.connection(about(1, NUMBER, EMAIL, NAME).id)
    assert record is not None
    assert (record.first, record.outcome, dict(record.metadata)) == (NUMBER, "first_busy", {})
    assert set(record.lead.values()) <= {None}
    assert await store.capture(record.id) is None
    still = await store.order(order.id)
    assert still is not None
    assert still.lead == order.lead
