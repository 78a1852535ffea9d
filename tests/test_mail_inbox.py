"""The embedded mailbox on a shelf in memory, and mails as a person reads them."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosvoces.errors import MailError, StoreError
from dosvoces.mail import Mail
from dosvoces.mail.inbox import Inbox, ReadableMail, read_mail

NOW = datetime(2025, 11, 23, 4, 10, tzinfo=UTC)
MAIL = Mail("<1@example.com>", "ana@example.com", "Hola", "Hola\n", b"Subject: Hola\r\n\r\nHola\r\n")


class Shelf:
    """Keeps mails in a list; can be out of order."""

    def __init__(self, error: Exception | None = None, *, stuck: bool = False) -> None:
        self.kept: list[tuple[Mail, datetime]] = []
        self._error = error
        self._stuck = stuck

    async def keep_mail(self, mail: Mail, *, at: datetime) -> None:
        if self._stuck:
            await asyncio.Event().wait()
        if self._error:
            raise self._error
        self.kept.append((mail, at))


async def test_mail_is_kept_with_its_time() -> None:
    shelf = Shelf()
    inbox = Inbox(shelf, lambda: NOW)
    await inbox.check()
    await inbox.deliver(MAIL)
    await inbox.close()
    assert shelf.kept == [(MAIL, NOW)]


@pytest.mark.parametrize("permanent", [False, True])
async def test_store_that_cannot_write_is_a_mail_error(permanent: bool) -> None:
    with pytest.raises(MailError, match=r"^inbox: disk full$") as caught:
        await Inbox(Shelf(StoreError("disk full", permanent=permanent)), lambda: NOW).deliver(MAIL)
    assert (caught.value.permanent, caught.value.unknown) == (permanent, False)


async def test_store_that_is_stuck_ends_at_the_limit() -> None:
    with pytest.raises(MailError, match="may be kept or not") as caught:
        await Inbox(Shelf(stuck=True), lambda: NOW, time_limit_s=0.02).deliver(MAIL)
    assert caught.value.unknown


def test_mail_reads_as_it_was_written() -> None:
    content = (Path(__file__).parent / "data" / "mail" / "full.es.eml").read_bytes()
    mail = read_mail(content)
    assert (mail.subject, mail.sender, mail.recipient, mail.date) == (
        "Nuevo contacto: Ático en L'Eixample – 3ª planta €, Vitòria-Gasteiz",
        "Dosvoces <leads@example.com>",
        "leads+valencia@milmoh.com",
        NOW,
    )
    assert mail.text.splitlines()[4:6] == ["Primer número: +34 600 00 00 11", "Segundo número: +34 960 00 00 22"]
    assert mail.html.startswith('<!doctype html>\n<html lang="es">\n')
    assert "\r" not in mail.text + mail.html


def test_mail_of_text_only_has_no_html() -> None:
    assert read_mail(MAIL.content) == ReadableMail("Hola", "", "", None, "Hola\n", "")


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"Date: ", b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"]),
)
def test_reading_never_raises(noise: bytes, head: bytes) -> None:
    assert isinstance(read_mail(head + noise), ReadableMail)
