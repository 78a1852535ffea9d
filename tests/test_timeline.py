"""What the record looks like to a person: golden texts."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from dosvoces.mail import Mail
from dosvoces.model import ConnectionId, NodeId, Side
from dosvoces.store import ConnectionRecord, Entry, KeptMail, LegRecord
from dosvoces.testing import T0, A, B
from dosvoces.timeline import WIDTH, render_connection, render_list, render_mail, render_mail_list

ID = ConnectionId("01m83ajpb70000000000000dk0")


def t(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


TALKED = ConnectionRecord(
    id=ID,
    created_at=t(0),
    phase="ended",
    outcome="completed",
    ended_by="a",
    first="+34600000011",
    second="+34960000022",
    email="ana@example.com",
    lead={
        "property_name": "Ático con terraza y vistas al mar, tres dormitorios, dos baños, garaje y trastero",
        "agent_name": None,
        "url": "https://example.com/1",
        "city": "Valencia",
        "area_m2": "82",
        "price": "456",
    },
    interval_s=3,
    joined_at=t(7.5),
    ended_at=t(72.6),
    answer_status=200,
    legs=(
        LegRecord(A, "+34600000011", "ended", t(0.121), t(2.221), t(72.5), "hangup", "BYE"),
        LegRecord(B, "+34960000022", "ended", t(3.121), t(7.4), t(72.6), "hangup", "200 OK"),
    ),
)
BUSY = replace(
    TALKED,
    outcome="second_busy",
    ended_by="b",
    joined_at=None,
    ended_at=t(4),
    answer_status=500,
    legs=(
        LegRecord(A, "+34600000011", "ended", t(0.1), t(2), t(4), "cancelled", ""),
        LegRecord(B, "+34960000022", "ended", t(3), None, t(3.9), "busy", "486 Busy\x1b[2J Here"),
    ),
)
OPEN = replace(
    TALKED,
    phase="ringing_first",
    outcome=None,
    ended_by="",
    joined_at=None,
    ended_at=None,
    answer_status=None,
    owner=NodeId("one"),
    legs=(
        LegRecord(A, "+34600000011", "ringing", t(0.1), None, None, None, ""),
        LegRecord(B, "+34960000022", "idle", None, None, None, None, ""),
    ),
)


def entry(
    seconds: float, event: str, side: Side | None, before: str, after: str, **facts: str | int | float | None
) -> Entry:
    return Entry(ID, t(seconds), event, side, before, after, facts)


def test_a_connection_reads_as_a_timeline() -> None:
    entries = [
        entry(0, "started", None, "recorded", "mailing"),
        entry(0.12, "mail_sent", None, "mailing", "dialing_first"),
        entry(0.121, "dialed", A, "dialing_first", "dialing_first"),
        entry(0.3214, "ringing", A, "dialing_first", "ringing_first"),
        entry(2.2214, "answered", A, "ringing_first", "waiting"),
        entry(2.5, "digit", A, "waiting", "waiting", digit="5", duration_ms=160),
        entry(7.5, "joined", None, "joining", "joined"),
        entry(72.5, "ended", A, "joined", "releasing", reason="no_answer", detail="408 Request\r\nTimeout"),
        entry(72.6, "statistics", B, "releasing", "releasing", packets=3250, lost=3, jitter_ms=1.23456, heard=None),
        entry(
            72.7,
            "dialog",
            B,
            "ended",
            "ended",
            call_id="01m83ajpb70000000000000dk0-b@198.51.100.7",
            route_set="<sip:edge1.example.com;lr>, <sip:edge2.example.com;lr>",
        ),
    ]
    expected = """\
Connection 01m83ajpb70000000000000dk0: completed, ended by A
  asked      2026-11-23 09:00:00.000 UTC
  interval   3 s
  A, first   +34600000011 · hangup · BYE
  B, second  +34960000022 · hangup · 200 OK
  mail to    ana@example.com
  property   Ático con terraza y vistas al mar, tres dormitorios, dos baños,
             garaje y trastero
  url        https://example.com/1
  city       Valencia
  area m²    82
  price      456
  answered   200
  A rang     1.900 s
  A waited   5.279 s
  talked     65.000 s

   seconds    what happened
     0.000    started                                          → mailing
     0.120    mail sent                                        → dialing first
     0.121 A  dialed
     0.321 A  ringing                                          → ringing first
     2.221 A  answered                                         → waiting
     2.500 A  digit · 5 · duration ms 160
     7.500    joined                                           → joined
    72.500 A  ended · no answer · 408 Request  Timeout         → releasing
    72.600 B  statistics · packets 3250 · lost 3 · jitter ms
                1.235
    72.700 B  dialog · call id
                01m83ajpb70000000000000dk0-b@198.51.100.7"""
    shown = render_connection(TALKED, entries, t(5))
    assert shown == expected
    assert max(len(line) for line in shown.splitlines()) <= WIDTH


def test_a_carriers_words_cannot_rewrite_the_terminal() -> None:
    """And a leg that was busy never rang."""
    ringing = entry(0.1, "ringing", A, "dialing_first", "ringing_first")
    lines = render_connection(BUSY, [ringing], t(5)).splitlines()
    assert lines[0] == "Connection 01m83ajpb70000000000000dk0: second busy, ended by B"
    assert lines[4] == "  B, second  +34960000022 · busy · 486 Busy [2J Here"
    assert lines[-5:-1] == ["  A rang     1.900 s", "  A waited   2.000 s", "", "   seconds    what happened"]


def test_nobody_knows_how_long_they_talked_when_the_service_died() -> None:
    """The legs' ends are those of the next start, which may be hours later."""
    lost = replace(TALKED, outcome="interrupted", ended_by="restart")
    assert "talked" not in render_connection(lost, [], t(5))
    assert "interrupted\n" in render_list([lost], t(5))


def test_an_open_connection_says_where_it_stands() -> None:
    lines = render_connection(OPEN, [], t(5)).splitlines()
    assert lines[0] == "Connection 01m83ajpb70000000000000dk0: ringing first"
    assert lines[3:5] == ["  A, first   +34600000011 · ringing", "  B, second  +34960000022 · not dialled"]


WAITS = replace(OPEN, phase="recorded", legs=(), owner=None, not_before=t(3600), expires_at=t(90_000), test=True)


@pytest.mark.parametrize(
    ("now", "phase", "listed"), [(t(3599), "scheduled", "scheduled, 11-23 10:00"), (t(3600), "queued", "queued …")]
)
def test_one_that_waits_says_what_for(now: datetime, phase: str, listed: str) -> None:
    lines = render_connection(WAITS, [], now).splitlines()
    assert lines[0] == f"Connection 01m83ajpb70000000000000dk0: {phase}"
    assert lines[3:5] == ["  begins     2026-11-23 10:00:00 UTC", "  expires    2026-11-24 10:00:00 UTC"]
    first = render_list([WAITS], now).splitlines()[0]
    assert first == f"2026-11-23 09:00:00  01m83ajpb70000000000000dk0  test: {listed}"
    assert len(first) <= WIDTH


def test_the_list_has_two_lines_each() -> None:
    assert render_list([TALKED, replace(BUSY, email="a" * 64 + "@example.com"), OPEN], t(5)) == (
        "2026-11-23 09:00:00  01m83ajpb70000000000000dk0  completed, 1:05\n"
        "                     +34600000011 → +34960000022  ana@example.com\n"
        "2026-11-23 09:00:00  01m83ajpb70000000000000dk0  second busy\n"
        "                     +34600000011 → +34960000022  aaaaaaaaaaaaaaaaaaaaaaaaaaaaa…\n"
        "2026-11-23 09:00:00  01m83ajpb70000000000000dk0  ringing first …\n"
        "                     +34600000011 → +34960000022  ana@example.com"
    )
    assert render_list([], t(5)) == "No connections yet."


MAIL = Mail(
    "<1@dosvoces>",
    "ana@example.com",
    "Ático",
    "Hola",
    b"From: Dosvoces <leads@example.com>\r\nTo: ana@example.com\r\nSubject: =?utf-8?q?=C3=81tico?=\r\n"
    b"Message-ID: <1@dosvoces>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\nLlama a Ana: +34600000011\r\n\r\n\x1b[31mrojo\r\n",
)
KEPT = KeptMail(7, MAIL.message_id, MAIL.recipient, MAIL.subject, t(1), MAIL.content)


def test_a_mail_reads_as_its_recipient_reads_it() -> None:
    assert render_mail(KEPT) == (
        "Mail 7, kept 2026-11-23 09:00:01 UTC for ana@example.com\n"
        "\n"
        "From: Dosvoces <leads@example.com>\n"
        "To: ana@example.com\n"
        "Subject: Ático\n"
        "Message-ID: <1@dosvoces>\n"
        "\n"
        "Llama a Ana: +34600000011\n"
        "\n"
        " [31mrojo"
    )


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"", ""),
        (b"Content-Type: text/plain; charset=klingon\r\n\r\nnuqneH", "(this mail's text can't be read)"),
        (b"Content-Type: image/png\r\n\r\nx", ""),
    ],
)
def test_a_mail_without_readable_text_is_still_shown(content: bytes, shown: str) -> None:
    lines = render_mail(replace(KEPT, content=content)).splitlines()
    assert lines[0] == "Mail 7, kept 2026-11-23 09:00:01 UTC for ana@example.com"
    assert lines[-1] == shown


def test_the_mails_are_listed_in_a_line_each() -> None:
    assert render_mail_list([KEPT, replace(KEPT, number=6, recipient="a" * 40, subject="s" * 40)]) == (
        "    no  kept (UTC)           to                        subject\n"
        "     7  2026-11-23 09:00:01  ana@example.com           Ático\n"
        "     6  2026-11-23 09:00:01  aaaaaaaaaaaaaaaaaaaaaaa…  ssssssssssssssssssssssss…"
    )
    assert render_mail_list([]) == "No mails kept."
