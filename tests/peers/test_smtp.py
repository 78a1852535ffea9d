"""The SMTP mailbox against a real server: every field arrives, and every fault is told as what it is."""

import asyncio
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dosvoces.errors import MailError, SettingsError
from dosvoces.mail import Mail
from dosvoces.mail.messages import compose_lead
from dosvoces.mail.smtp import SmtpMailbox
from dosvoces.mail.smtp_url import parse_mail_url
from dosvoces.model import ConnectionId, Lead, Order, PhoneNumber
from tests.peers.smtp_server import (
    Certificate,
    Drop,
    FaultySmtp,
    Flood,
    Received,
    Reply,
    Script,
    Stall,
    make_certificate,
)

pytestmark = pytest.mark.peer

SENDER = "Dosvoces <leads@example.com>"
ORDER = Order(
    id=ConnectionId("01jd9q3m5c0000000000000000"),
    created_at=datetime(2025, 11, 23, 4, 10, tzinfo=UTC),
    first=PhoneNumber("+34222222222", "+34222222222"),
    second=PhoneNumber("+34111111111", "+34111111111"),
    lead=Lead(
        email="artur.temporal@milmoh.com",
        property_name="Propriedad",
        agent_name="Comercializador",
        url="milmoh.com",
        city="Valencia",
        area_m2="123",
        price="456",
    ),
    interval_s=15,
)
MAIL = compose_lead(ORDER, sender=SENDER)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def mailbox(server: FaultySmtp, options: str = "tls=none", *, user: str = "") -> AsyncIterator[SmtpMailbox]:
    """A mailbox for `server` with a short limit, closed at the end."""
    scheme, at = ("smtps" if options.startswith("tls=implicit") else "smtp"), f"{user}@" if user else ""
    url = f"{scheme}://{at}127.0.0.1:{server.port}?{options}"
    if "timeout=" not in options:
        url += "&timeout=5"
    box = SmtpMailbox(parse_mail_url(url), sender=SENDER)
    try:
        yield box
    finally:
        await box.close()
        await server.wait_idle()


async def refusal(script: Script, options: str = "tls=none") -> tuple[str, bool, bool, int]:
    """What delivering to a server with this script fails with: text, permanent, unknown; and how many mails it took."""
    async with FaultySmtp(script) as server, mailbox(server, options) as box:
        with pytest.raises(MailError) as caught:
            await box.deliver(MAIL)
        text = str(caught.value).replace(f"127.0.0.1:{server.port}", "SERVER")
        return text, caught.value.permanent, caught.value.unknown, len(server.received)


async def test_every_field_of_the_contract_arrives() -> None:
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(MAIL)
    assert server.received == [
        Received(
            mail_from="leads@example.com",
            recipients=("artur.temporal@milmoh.com",),
            content=MAIL.content,
            connection=1,
            encrypted=False,
            username=None,
        )
    ]
    body = email.message_from_bytes(server.received[0].content, policy=email.policy.default).get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines()[4:13] == [
        "Primer número: +34 222222222",
        "Segundo número: +34 111111111",
        "Inmueble: Propriedad",
        "Comercializador: Comercializador",
        "Ciudad: Valencia",
        "Superficie (m²): 123",
        "Precio: 456",
        "Anuncio: milmoh.com",
        "Espera entre llamadas: 15 s",
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            {"rcpt": Reply("550 5.1.1 No such user here")},
            ("SERVER (RCPT TO) refused: 550 5.1.1 No such user here", True, False, 0),
        ),
        (
            {"mail": Reply("552 5.2.2 Over quota")},
            ("SERVER (MAIL FROM) refused: 552 5.2.2 Over quota", True, False, 0),
        ),
        (
            {"banner": Reply("421 4.3.2 Busy")},
            ("SERVER (connecting) refused: 421 4.3.2 Busy", False, False, 0),
        ),
        (
            {"banner": Reply("554 5.3.2 Too busy")},
            ("SERVER (connecting) refused: 554 5.3.2 Too busy", False, False, 0),
        ),
        (
            {"mail": Reply("530 5.7.0 Authentication required")},
            ("SERVER (MAIL FROM) refused: 530 5.7.0 Authentication required", False, False, 0),
        ),
        (
            {"mail": Reply("421 4.3.2 Shutting down")},
            ("SERVER (MAIL FROM) refused: 421 4.3.2 Shutting down", False, False, 0),
        ),
        (
            {"rcpt": Reply("451 4.7.1 Greylisted, come back later")},
            ("SERVER (RCPT TO) refused: 451 4.7.1 Greylisted, come back later", False, False, 0),
        ),
        (
            {"data": Reply("554 5.5.1 No valid recipients")},
            ("SERVER (DATA) refused: 554 5.5.1 No valid recipients", True, False, 0),
        ),
        (
            {"dot": Reply("554 5.7.1 Looks like spam")},
            ("SERVER (the final dot) refused: 554 5.7.1 Looks like spam", True, False, 0),
        ),
        (
            {"dot": Reply("452 4.3.1 Disk full")},
            ("SERVER (the final dot) refused: 452 4.3.1 Disk full", False, False, 0),
        ),
        (
            {"data": Drop()},
            ("SERVER (DATA): Unexpected EOF received", False, False, 0),
        ),
        (
            {"body": Drop()},
            ("SERVER (the final dot): Unexpected EOF received", False, True, 0),
        ),
        (
            {"dot": Drop()},
            ("SERVER (the final dot): Unexpected EOF received", False, True, 0),
        ),
        (
            {"ehlo": Flood()},
            ("SERVER (EHLO): Response too long", False, False, 0),
        ),
        (
            {"mail": Reply("bonjour")},
            ("SERVER (MAIL FROM): Malformed SMTP response line: bonjour", False, False, 0),
        ),
        (
            {"rcpt": Reply("550 \x1b[31mred\x07 " + "x" * 300)},
            ("SERVER (RCPT TO) refused: 550 [31mred " + "x" * 191 + "…", True, False, 0),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_a_refusal_is_told_with_step_and_words(script: Script, expected: tuple[str, bool, bool, int]) -> None:
    assert await refusal(script) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"banner": Stall()}, ("SERVER (connecting): no answer within 0.2 s", False, False, 0)),
        ({"rcpt": Stall()}, ("SERVER (RCPT TO): no answer within 0.2 s", False, False, 0)),
        ({"data": Stall()}, ("SERVER (DATA): no answer within 0.2 s", False, False, 0)),
        ({"dot": Stall()}, ("SERVER (the final dot): no answer within 0.2 s", False, True, 0)),
    ],
    ids=["banner", "rcpt", "data", "dot"],
)
async def test_a_stall_ends_at_the_time_limit(script: Script, expected: tuple[str, bool, bool, int]) -> None:
    """After the final dot the mail may have been taken: unknown, not failed."""
    assert await refusal(script, "tls=none&timeout=0.2") == expected


async def test_nobody_listening_is_told() -> None:
    async with FaultySmtp() as server:
        port = server.port
    box = SmtpMailbox(parse_mail_url(f"smtp://127.0.0.1:{port}?tls=none"), sender=SENDER)
    with pytest.raises(MailError, match=rf":{port} \(connecting\): Error connecting .*Connect call failed") as caught:
        await box.deliver(MAIL)
    assert (caught.value.permanent, caught.value.unknown) == (False, False)
    await box.close()


async def test_greylisted_mail_is_taken_at_the_second_try() -> None:
    async with FaultySmtp({"rcpt": [Reply("451 4.7.1 Greylisted")]}) as server, mailbox(server) as box:
        with pytest.raises(MailError):
            await box.deliver(MAIL)
        await box.deliver(MAIL)
    assert [mail.content for mail in server.received] == [MAIL.content]


async def test_second_mail_takes_the_same_connection() -> None:
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await box.deliver(MAIL)
        assert server.commands == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]
    assert [mail.connection for mail in server.received] == [1, 1]


async def test_connection_closed_while_idle_is_replaced() -> None:
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(MAIL)
        server.drop_connections()
        await server.wait_idle()
        await box.deliver(MAIL)
    assert [mail.connection for mail in server.received] == [1, 2]


@pytest.mark.parametrize("farewell", [Drop(), Reply("421 4.4.2 Idle too long")], ids=["drop", "421"])
async def test_connection_that_dies_at_its_second_mail_is_replaced_once(farewell: Drop | Reply) -> None:
    async with FaultySmtp({"mail": [None, farewell]}) as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await box.deliver(MAIL)
    assert [mail.connection for mail in server.received] == [1, 2]


async def test_refusal_on_a_kept_connection_is_not_tried_again() -> None:
    async with FaultySmtp({"mail": [None, Reply("452 4.3.1 Disk full")]}) as server, mailbox(server) as box:
        await box.deliver(MAIL)
        with pytest.raises(MailError, match=r"\(MAIL FROM\) refused: 452 4.3.1 Disk full"):
            await box.deliver(MAIL)
    assert (server.connections, len(server.received)) == (1, 1)


async def test_connection_that_fell_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.mail.smtp.REUSE_PATIENCE_S", 0.1)
    async with FaultySmtp({"mail": [None, Stall()]}) as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await box.deliver(MAIL)
    assert [mail.connection for mail in server.received] == [1, 2]


async def test_kept_connection_that_drops_after_the_dot_is_not_tried_again() -> None:
    async with FaultySmtp({"dot": [None, Drop()]}) as server, mailbox(server) as box:
        await box.deliver(MAIL)
        with pytest.raises(MailError) as caught:
            await box.deliver(MAIL)
    assert (caught.value.unknown, len(server.received), server.connections) == (True, 1, 1)


async def test_refused_recipient_leaves_no_envelope_for_the_next_mail() -> None:
    async with FaultySmtp({"rcpt": [Reply("550 5.1.1 No such user")]}) as server, mailbox(server) as box:
        with pytest.raises(MailError):
            await box.deliver(MAIL)
        await box.deliver(MAIL)
    assert [mail.recipients for mail in server.received] == [("artur.temporal@milmoh.com",)]


async def test_idle_connection_is_left_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.mail.smtp.IDLE_LIMIT_S", 0.05)
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await asyncio.wait_for(server.wait_idle(), 2)
        assert server.commands[-1] == "QUIT"


async def test_closing_does_not_wait_for_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosvoces.mail.smtp.GOODBYE_LIMIT_S", 0.05)
    async with FaultySmtp({"quit": Stall()}) as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await box.close()
        await asyncio.wait_for(server.wait_idle(), 2)


async def test_no_more_connections_than_allowed() -> None:
    async with FaultySmtp() as server, mailbox(server, "tls=none&connections=2") as box:
        await asyncio.gather(*(box.deliver(MAIL) for _ in range(10)))
        assert (len(server.received), server.connections) == (10, 2)


async def test_waiting_for_a_connection_counts_in_the_limit() -> None:
    async with (
        FaultySmtp({"dot": Stall()}) as server,
        mailbox(server, "tls=none&connections=1&timeout=0.2") as box,
    ):
        first, second = await asyncio.gather(box.deliver(MAIL), box.deliver(MAIL), return_exceptions=True)
    assert isinstance(first, MailError)
    assert isinstance(second, MailError)
    assert (first.unknown, second.unknown) == (True, False)


async def test_cancelled_delivery_closes_its_connection() -> None:
    async with FaultySmtp({"rcpt": Stall()}) as server, mailbox(server) as box:
        delivery = asyncio.create_task(box.deliver(MAIL))
        await server.said("RCPT")
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        await asyncio.wait_for(server.wait_idle(), 2)


async def test_starttls_with_verified_certificate(certificate: Certificate) -> None:
    async with (
        FaultySmtp(certificate=certificate) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}") as box,
    ):
        await box.deliver(MAIL)
        await box.deliver(MAIL)
    assert [(mail.encrypted, mail.connection) for mail in server.received] == [(True, 1), (True, 1)]


async def test_implicit_tls_with_verified_certificate(certificate: Certificate) -> None:
    async with (
        FaultySmtp(certificate=certificate, implicit_tls=True) as server,
        mailbox(server, f"tls=implicit&ca={certificate.path}") as box,
    ):
        await box.deliver(MAIL)
    assert [(mail.encrypted, mail.content) for mail in server.received] == [(True, MAIL.content)]


async def test_no_starttls_offered_sends_nothing() -> None:
    async with FaultySmtp() as server, mailbox(server, "tls=starttls") as box:
        with pytest.raises(MailError, match="doesn't offer STARTTLS; nothing was sent") as caught:
            await box.deliver(MAIL)
    assert (caught.value.unknown, server.commands, server.received) == (False, ["EHLO", "QUIT"], [])


async def test_starttls_refused_sends_nothing(certificate: Certificate) -> None:
    async with (
        FaultySmtp({"starttls": Reply("454 4.7.0 TLS not available")}, certificate=certificate) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}") as box,
    ):
        with pytest.raises(MailError, match=r"\(STARTTLS\) refused: 454 4.7.0 TLS not available"):
            await box.deliver(MAIL)
    assert server.received == []


async def test_plain_text_where_tls_should_begin_sends_nothing(certificate: Certificate) -> None:
    async with (
        FaultySmtp({"starttls": Reply("220 2.0.0 go ahead")}, certificate=certificate) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}") as box,
    ):
        with pytest.raises(MailError, match=r"\(STARTTLS\): .*(wrong version number|record layer failure)"):
            await box.deliver(MAIL)
    assert server.received == []


async def test_tls_that_never_answers_ends_at_the_limit(certificate: Certificate) -> None:
    async with (
        FaultySmtp({"starttls": [Reply("220 2.0.0 go ahead")], "hello": Stall()}, certificate=certificate) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}&timeout=0.2") as box,
    ):
        with pytest.raises(MailError, match=r"\(STARTTLS\): no answer within 0.2 s"):
            await box.deliver(MAIL)
    assert server.received == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_certificate_of_a_stranger_sends_nothing(certificate: Certificate, tls: str) -> None:
    async with (
        FaultySmtp(certificate=certificate, implicit_tls=tls == "implicit") as server,
        mailbox(server, f"tls={tls}") as box,
    ):
        with pytest.raises(MailError, match="certificate verify failed: self-signed certificate") as caught:
            await box.deliver(MAIL)
    assert (caught.value.permanent, caught.value.unknown, server.received) == (False, False, [])


async def test_certificate_for_another_host_sends_nothing(tmp_path: Path) -> None:
    other = make_certificate(tmp_path, name="other.example")
    async with FaultySmtp(certificate=other) as server, mailbox(server, f"tls=starttls&ca={other.path}") as box:
        with pytest.raises(MailError, match="IP address mismatch"):
            await box.deliver(MAIL)
    assert server.received == []


def test_ca_file_that_is_no_certificate_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    settings = parse_mail_url(f"smtps://localhost?ca={tmp_path}/ca.pem")
    with pytest.raises(SettingsError, match=r"ca\.pem can't be read as PEM certificates"):
        SmtpMailbox(settings, sender=SENDER)


async def test_login_over_tls(certificate: Certificate) -> None:
    users = {"leads": "s3cret:/@ñ"}
    async with (
        FaultySmtp(certificate=certificate, users=users) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}", user="leads:s3cret%3A%2F%40%C3%B1") as box,
    ):
        await box.deliver(MAIL)
    assert [(mail.username, mail.encrypted) for mail in server.received] == [("leads", True)]


async def test_login_where_only_auth_login_is_offered() -> None:
    async with (
        FaultySmtp(users={"leads": "s3cret"}, plain_auth=True, mechanisms=["LOGIN"]) as server,
        mailbox(server, "tls=none", user="leads:s3cret") as box,
    ):
        await box.deliver(MAIL)
    assert [mail.username for mail in server.received] == ["leads"]


async def test_wrong_password_is_tried_once_and_never_told(certificate: Certificate) -> None:
    """A server counts every try; a few wrong ones lock the account."""
    async with (
        FaultySmtp(certificate=certificate, users={"leads": "s3cret"}) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}", user="leads:wr0ngpw") as box,
    ):
        with pytest.raises(
            MailError, match=r"\(AUTH\) refused: 535 5.7.8 Authentication credentials invalid"
        ) as caught:
            await box.deliver(MAIL)
    # The next mail may pass: somebody will set the password right.
    assert (caught.value.permanent, server.auth_tries, server.received) == (False, ["leads"], [])
    assert "wr0ngpw" not in str(caught.value)


async def test_login_wanted_but_no_user_set(certificate: Certificate) -> None:
    async with (
        FaultySmtp(certificate=certificate, users={"leads": "s3cret"}) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}") as box,
    ):
        with pytest.raises(MailError, match=r"\(MAIL FROM\) refused: 530 5.7.0 Authentication required"):
            await box.deliver(MAIL)


async def test_login_that_the_server_does_not_offer() -> None:
    async with FaultySmtp() as server, mailbox(server, "tls=none", user="leads:s3cret") as box:
        with pytest.raises(MailError, match="offers no way to log in that we know"):
            await box.deliver(MAIL)
    assert server.received == []


async def test_login_in_plain_text_to_our_own_machine() -> None:
    async with (
        FaultySmtp(users={"leads": "s3cret"}, plain_auth=True) as server,
        mailbox(server, "tls=none", user="leads:s3cret") as box,
    ):
        await box.deliver(MAIL)
    assert [mail.username for mail in server.received] == ["leads"]


async def test_check_says_hello_and_sends_nothing(certificate: Certificate) -> None:
    async with (
        FaultySmtp(certificate=certificate, users={"leads": "s3cret"}) as server,
        mailbox(server, f"tls=starttls&ca={certificate.path}", user="leads:s3cret") as box,
    ):
        await box.check()
        assert server.commands == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]


async def test_check_of_a_silent_server_ends_at_the_limit() -> None:
    async with FaultySmtp({"banner": Stall()}) as server, mailbox(server, "tls=none&timeout=0.1") as box:
        with pytest.raises(MailError, match=r"\(connecting\): no answer within 0.1 s"):
            await box.check()


async def test_a_mail_cannot_end_early_or_hold_a_second() -> None:
    """RFC 5321 §4.5.2, and SMTP smuggling: dots are doubled, a lone CR or LF is refused."""
    body = b"Subject: x\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\n..\r\n.x\r\n"
    dotted = Mail("<1@example.com>", "ana@example.com", "x", "", body)
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(dotted)
        for end in (b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"no end"):
            with pytest.raises(MailError, match="doesn't end in CRLF"):
                await box.deliver(Mail("<1@example.com>", "ana@example.com", "x", "", body + end))
    assert [mail.content for mail in server.received] == [body]


@pytest.mark.parametrize(
    "recipient",
    ["ana@example.com> <bob@example.com", "ana@example.com\r\nRCPT TO:<bob@example.com>", "ana", "ñ@example.com", ""],
)
async def test_recipient_that_is_not_one_address_is_refused(recipient: str) -> None:
    async with FaultySmtp() as server, mailbox(server) as box:
        with pytest.raises(MailError) as caught:
            await box.deliver(Mail("<1@example.com>", recipient, "x", "", b"Subject: x\r\n\r\n"))
        assert (caught.value.permanent, server.connections) == (True, 0)


async def test_close_is_idempotent_and_a_late_mail_keeps_nothing_open() -> None:
    async with FaultySmtp() as server, mailbox(server) as box:
        await box.deliver(MAIL)
        await box.close()
        await box.close()
        await box.deliver(MAIL)
        await asyncio.wait_for(server.wait_idle(), 2)
        assert server.open_connections == 0


def test_certificates_are_verified_by_default() -> None:
    context = SmtpMailbox(parse_mail_url("smtps://mail.example.com"), sender=SENDER)._tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
