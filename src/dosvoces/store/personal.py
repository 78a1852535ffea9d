"""
What the record knows of a person, by number or e-mail address: shown, or forgotten for good.

Every column of every table is here, either with what takes its place or among those that say nothing of anybody; a test
holds that complete. A person who is forgotten leaves the facts of a call (when, how long, how it ended), under one
made-up name so that calls can still be counted, and none of the texts that came with it.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import ColumnElement, Connection, LargeBinary, Table, Text, cast, delete, func, or_, select, update

from dosvoces.errors import NotAllowed, StoreError
from dosvoces.store.audit import newest_acts, write_act
from dosvoces.store.database import Database
from dosvoces.store.keys import Act
from dosvoces.store.tables import connection, delivery, dial_attempt, journal, leg, mail, metadata, report, spent

IDENTIFIERS: dict[Table, tuple[str, ...]] = {
    connection: ("first", "second", "email"),
    leg: ("number",),
    dial_attempt: ("number",),
}
"""Whose call it was: the made-up name takes their place, where they are that person's."""

ERASED: dict[Table, dict[str, Any]] = {
    connection: {
        "first_received": "",
        "second_received": "",
        **dict.fromkeys(("property_name", "agent_name", "url", "city", "area_m2", "price", "lead_more", "metadata")),
        "webhook_url": None,
        "idempotency_key": None,
        "fingerprint": "",
        "source": "",
        "answer_body": None,
    },
    leg: {"dialog": None},
    dial_attempt: {"facts": None},
    report: {"body": None},
    delivery: {"answer": ""},
}
"""What takes the place of what may say something of somebody."""

REWRITTEN: dict[Table, tuple[str, ...]] = {leg: ("detail",), journal: ("facts",)}
"""Of which what is no text about anybody stays: a SIP status, figures."""

DELETED = {"capture": ("packed",), "mail": ("recipient", "subject", "content"), "spent": ("counter",)}
"""Tables whose rows go whole."""

IMPERSONAL: dict[str, frozenset[str]] = {
    "connection": frozenset(
        "id created_at caller_id_first caller_id_second interval_s resumes owner not_before expires_at ring_timeout_s "
        "talk_limit_s locale asked_by cancel_by mail phase outcome ended_by failed_side started_at joined_at ended_at "
        "deadline answer_status version test".split()
    ),
    "leg": frozenset("connection_id side state dialed_at answered_at released_at ended_at reason".split()),
    "dial_attempt": frozenset("connection_id side attempt at trunk".split()),
    "journal": frozenset("connection_id seq position at event side before after".split()),
    "report": frozenset("connection_id number event side at passed_on".split()),
    "delivery": frozenset("connection_id number target state tries tried_at next_at".split()),
    "capture": frozenset({"connection_id"}),
    "mail": frozenset({"number", "message_id", "kept_at"}),
    "spent": frozenset({"since", "used", "alarmed"}),
    "reserved": frozenset(
        "connection_id day seconds money first_minute first_setup second_minute second_setup".split()
    ),
    # What operators did and run: an act has no numbers of people, by `store.keys.Act`.
    "audit": frozenset("id at who what subject facts".split()),
    "api_key": frozenset(
        "id digest name test scopes networks limits created_at expires_at revoked_at last_used_at replaces".split()
    ),
    "node": frozenset(
        "id name host pid born place url version started_at beat_at capacity open_connections draining drain_by "
        "drain_until heir".split()
    ),
    "trunk_pace": frozenset({"trunk", "next_at"}),
    "stopped": frozenset({"number", "at", "by"}),
    # Stays by intent: who is forgotten must not be called again for that.
    "do_not_call": frozenset({"number", "at", "by", "note"}),
    # Of a webhook: a status, or what the network said.
    "webhook_endpoint": frozenset("name failing_since disabled_at why".split()),
}
"""Columns that say nothing of those who were called or mailed to."""

SCRUB_LIMIT_S = 10.0
ID_CHARS = 26
"""Of a connection's id."""

_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_BEFORE_NUMBER = "".join(rf"(?<!\+\d{{{digits}}})" for digits in range(1, 5))
"""No country code before it; what is dialled ahead of it, 00 or a trunk's own digits, may stand there."""
_BEFORE_ADDRESS = r"(?:(?<!\w)(?<!\w[.+%-])|(?<=%[0-9a-f]{2})|(?<=\\[nrt]))"
"""No more of an address; what a link or JSON has escaped may stand there."""
_STATUS = re.compile(r"[1-6]\d\d(?!\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, by what the record knows them by."""

    value: str
    """A number in E.164, or an e-mail address in small letters and ASCII."""
    as_written: str = ""
    """The address with its domain as people write it, where that isn't ASCII."""

    @property
    def needles(self) -> tuple[str, ...]:
        """What is looked for in texts."""
        return tuple(filter(None, (self.value.removeprefix("+"), self.as_written)))

    @property
    def is_number(self) -> bool:
        return self.value.startswith("+")

    def stands_in(self, text: str) -> bool:
        """Whether `text` names them, and not somebody whose longer number or address theirs is a part of."""
        this = f"(?:{'|'.join(map(re.escape, self.needles))})"
        whole = rf"{_BEFORE_NUMBER}{this}(?!\d)" if self.is_number else rf"{_BEFORE_ADDRESS}{this}(?![\w-]|\.\w)"
        return re.search(whole, text, re.IGNORECASE | re.ASCII) is not None


def person_of(text: str) -> Person:
    """Raises `NotAllowed` for what is neither a number nor an e-mail address."""
    compact = text.strip()
    if "@" in compact:
        local, _, domain = compact.rpartition("@")
        if local and "." in domain and not any(char.isspace() for char in compact):
            return _mailbox_of(compact.lower())
    else:
        number = re.sub(r"[ .()-]", "", compact)
        number = f"+{number[2:]}" if number.startswith("00") else number
        if _E164.fullmatch(number):
            return Person(number)
    raise NotAllowed(f"{text!r} is no number with its country's code, +34600000011, and no e-mail address")


def _mailbox_of(address: str) -> Person:
    """As the record has it, its domain in ASCII."""
    if address.isascii():
        return Person(address)
    try:
        checked = validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise NotAllowed(f"{address!r} is no e-mail address: {error}") from error
    return Person((checked.ascii_email or address).lower(), address)


def known_of(database: Database, person: Person, *, by: str) -> dict[str, list[dict[str, Any]]]:
    """
    Every row about `person`, by table, as the record has it; that it was asked for is written down.

    Raises `StoreError`.
    """
    # Not among the writes: it reads all of the record, and on SQLite nobody else could write meanwhile.
    with _transaction(database, database.begin_reading) as db:
        found = {table.name: rows for table, rows in _rows(db, person) if rows}
    with _transaction(database, database.begin) as db:
        write_act(db, Act(by, "person.export", *_unnamed(person, sum(map(len, found.values())))))
    return found


def forget(database: Database, person: Person, *, by: str) -> int:
    """
    Take `person` out of the record, all or nothing; returns of how many connections.

    Raises `NotAllowed` while one of them is not over, and `StoreError`.
    """
    with _transaction(database, database.begin) as db:
        ids = _connections_of(db, person)
        live = db.scalars(select(connection.c.id).where(connection.c.id.in_(ids), connection.c.outcome.is_(None)))
        if still := sorted(live):
            raise NotAllowed(
                f"{len(still)} of these connections are not over ({', '.join(still[:5])}): end them with "
                "`dosvoces hangup ID`, then try again"
            )
        for table in metadata.sorted_tables:
            _erase(db, table, ids)
        _rename(db, person)
        db.execute(delete(mail).where(or_(_is_about(ids), _is(mail.c.recipient, person))))
        db.execute(delete(spent).where(_counts(person)))
        if left := [table.name for table, rows in _rows(db, person) if rows]:
            raise StoreError(f"it is still in {', '.join(left)}; nothing was changed", permanent=True)
        write_act(db, Act(by, "person.forget", *_unnamed(person, len(ids))))
        return len(ids)


def scrub(database: Database) -> bool:
    """
    Have the database overwrite what was deleted; `False` if somebody reads an old state of it for longer than that.

    What lies outside of it (copies, a PostgreSQL server's archived log, a disk's own blocks) is beyond our reach.
    Writers wait meanwhile: about a second for 100 MB.
    """
    engine = database.beside().execution_options(isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as db:
            if db.dialect.name == "postgresql":
                db.exec_driver_sql("SET statement_timeout = 0")
                for table in metadata.sorted_tables:
                    db.exec_driver_sql(f"VACUUM {db.dialect.identifier_preparer.format_table(table)}")
                return True
            db.exec_driver_sql("VACUUM")
            limit = time.monotonic() + SCRUB_LIMIT_S
            # The old pages are in the write-ahead log until it begins anew.
            while db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                if time.monotonic() > limit:
                    return False
                time.sleep(0.05)
            return True
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise database.explain(error) from error
    finally:
        engine.dispose()


def was_forgotten(db: Connection, person: Person, *, acts: int = 10_000) -> bool:
    """Whether the audit has an act that forgot `person`: for whoever restores a copy that is older."""
    done = (act for act in newest_acts(db, acts) if act.what == "person.forget")
    return any(act.subject == _hash(person, str(act.facts.get("salt"))) for act in done)


def _unnamed(person: Person, rows: int) -> tuple[str, dict[str, str | int | float | None]]:
    """For the audit: what tells who knows the person already that it was they, and nothing to others at a glance."""
    salt = secrets.token_hex(8)
    return _hash(person, salt), {"salt": salt, "kind": "number" if person.is_number else "email", "found": rows}


def _hash(person: Person, salt: str) -> str:
    return hashlib.sha256(f"{salt} {person.value}".encode()).hexdigest()[:26]


@contextmanager
def _transaction(database: Database, begin: str) -> Iterator[Connection]:
    """One that may take its time, beside a running service. Raises `StoreError`."""
    engine = database.beside()
    try:
        with engine.connect() as db, db.begin():
            db.exec_driver_sql(begin)
            if db.dialect.name == "postgresql":
                db.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield db
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise database.explain(error) from error
    finally:
        engine.dispose()


# --- looking ---


def _is(column: ColumnElement[Any], person: Person) -> ColumnElement[bool]:
    return func.lower(column) == person.value


def _counts(person: Person) -> ColumnElement[bool]:
    """A counter ends with whom it is about."""
    return spent.c.counter.endswith(f" {person.value}", autoescape=True)


def _may_hold(column: ColumnElement[Any], person: Person) -> ColumnElement[bool]:
    return or_(*(cast(column, Text).icontains(needle, autoescape=True) for needle in person.needles))


def _names(value: Any, person: Person) -> bool:
    """Whether a text, or one that stands anywhere in JSON, names `person`."""
    match value:
        case str():
            return person.stands_in(value)
        case dict():
            return any(_names(each, person) for item in value.items() for each in item)
        case list():
            return any(_names(each, person) for each in value)
        case _:
            return False


def _connections_of(db: Connection, person: Person) -> list[str]:
    """Those in which it is a party or the recipient, and those whose texts name it."""
    ids: set[str] = set()
    for table in metadata.sorted_tables:
        names = IDENTIFIERS.get(table, ())
        who = [table.c[name] for name in names]
        texts = [table.c[name] for name in _personal(table).difference(names) if _is_text(table.c[name])]
        key = connection.c.id if table is connection else table.c.get("connection_id")
        if key is None:
            continue
        if who:
            ids |= set(db.scalars(select(key).where(or_(*(_is(column, person) for column in who)))))
        if texts:
            found = db.execute(select(key, *texts).where(or_(*(_may_hold(column, person) for column in texts))))
            ids |= {each for each, *values in found if _names(values, person)}
    return sorted(ids)


def _rows(db: Connection, person: Person) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    ids = _connections_of(db, person)
    for table in metadata.sorted_tables:
        if table is mail:
            which = or_(_is_about(ids), _is(mail.c.recipient, person))
        elif table is spent:
            which = _counts(person)
        elif table is connection or "connection_id" in table.c:
            which = (table.c.id if table is connection else table.c.connection_id).in_(ids)
        else:
            continue
        yield table, [dict(row._mapping) for row in db.execute(select(table).where(which))]


def _is_about(ids: Sequence[str]) -> ColumnElement[bool]:
    """A mail's Message-ID begins with its connection's id. One condition: SQLite takes no thousand of them."""
    return func.substr(mail.c.message_id, 2, ID_CHARS).in_(ids)


def _personal(table: Table) -> set[str]:
    return {
        *IDENTIFIERS.get(table, ()),
        *ERASED.get(table, {}),
        *REWRITTEN.get(table, ()),
        *DELETED.get(table.name, ()),
    }


def _is_text(column: ColumnElement[Any]) -> bool:
    return not isinstance(column.type, LargeBinary)


# --- forgetting ---


def _erase(db: Connection, table: Table, ids: Sequence[str]) -> None:
    """Take the texts out of these connections' rows."""
    key = table.c.id if table is connection else table.c.get("connection_id")
    if key is None:
        return
    if table.name in DELETED:
        db.execute(delete(table).where(key.in_(ids)))
    if table in ERASED:
        db.execute(update(table).where(key.in_(ids)).values(ERASED[table]))
    if table is leg:
        for row in db.execute(select(leg.c.connection_id, leg.c.side, leg.c.detail).where(key.in_(ids))).all():
            status = _STATUS.match(row.detail)
            one = leg.c.connection_id == row.connection_id, leg.c.side == row.side
            db.execute(update(leg).where(*one).values(detail=status[0] if status else ""))
    if table is journal:
        for entry in db.execute(
            select(journal.c.connection_id, journal.c.seq, journal.c.facts).where(key.in_(ids))
        ).all():
            figures = {name: fact for name, fact in (entry.facts or {}).items() if not isinstance(fact, str)}
            one = journal.c.connection_id == entry.connection_id, journal.c.seq == entry.seq
            db.execute(update(journal).where(*one).values(facts=figures or None))


def _rename(db: Connection, person: Person) -> None:
    """One made-up name for this person, in all of their calls; made by chance, so that nothing leads back."""
    name = f"forgotten-{secrets.token_hex(3)}"
    for table, columns in IDENTIFIERS.items():
        for column in columns:
            if (column == "email") != person.is_number:
                new = name if person.is_number else f"{name}@invalid"
                db.execute(update(table).where(_is(table.c[column], person)).values({column: new}))
