"""The mail that tells how a connection ended."""

from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from dosvoces.errors import MailError
from dosvoces.mail import Mail
from dosvoces.mail.inbox import read_mail
from dosvoces.mail.messages import compose_lead, locales, words_of
from dosvoces.mail.outcome import compose_outcome
from dosvoces.model import Outcome
from dosvoces.testing import T0, an_order

SENDER = "Dosvoces <leads@example.com>"
ORDER = an_order(1)


def composed(outcome: Outcome = Outcome.COMPLETED, *, talked_s: float | None = 125, **more: str) -> Mail:
    ended = T0 + timedelta(hours=1)
    joined = None if talked_s is None else ended - timedelta(seconds=talked_s)
    return compose_outcome(ORDER, outcome, ended_at=ended, joined_at=joined, sender=SENDER, **more)


def test_it_answers_the_leads_mail_and_is_the_same_however_often_it_is_written() -> None:
    mail, lead = composed(), compose_lead(ORDER, sender=SENDER)
    message = message_from_bytes(mail.content, EmailMessage, policy=policy.default)
    assert mail == composed()
    assert mail.message_id == f"<{ORDER.id}.outcome@example.com>"
    assert message["Message-ID"] == mail.message_id
    assert message["In-Reply-To"] == message["References"] == lead.message_id
    assert (mail.recipient, message["To"]) == ("ana@example.com", "ana@example.com")


def test_it_says_what_became_of_the_call() -> None:
    assert composed(locale="en").text == (
        "Call result: Ático, Valencia\n\nBoth talked with each other.\n\n"
        "First number: +34 600 00 00 11\nSecond number: +34 960 00 00 22\nTalked for: 2:05\n"
        f"Ended: 2026-11-23 10:00:00 (UTC)\n\nSent to: ana@example.com\nReference: {ORDER.id}"
    )
    unanswered = read_mail(composed(Outcome.SECOND_NO_ANSWER, talked_s=None).content)
    assert unanswered.subject == "Resultado de la llamada: Ático, Valencia"
    assert "Nadie contestó en el segundo número." in unanswered.text
    assert "Duración" not in unanswered.text
    assert 'href="tel:+34600000011"' in unanswered.html
    assert "Nadie contestó en el segundo número." in unanswered.html
    assert "1:02:05" in composed(talked_s=3725).text


def test_it_tells_the_time_of_the_place() -> None:
    assert "Fin: 2026-11-23 11:00:00 (CET)" in composed(timezone="Europe/Madrid").text
    assert "Fin: 2026-11-23 10:00:00 (WET)" in composed(timezone="Atlantic/Canary").text


def test_every_outcome_has_its_sentence_in_every_language() -> None:
    for locale in locales():
        _, words = words_of("outcome", locale)
        assert set(words["outcomes"]) == set(Outcome)
        assert set(words["labels"]) == {"first_number", "second_number", "talked", "ended"}


def test_it_may_go_to_somebody_else() -> None:
    assert composed(recipient="sales@example.com").recipient == "sales@example.com"
    with pytest.raises(MailError):
        composed(recipient="nobody")
