"""Writes the mail that tells how a connection ended, as an answer to the lead's. Pure; words and layout as there."""

from datetime import datetime
from zoneinfo import ZoneInfo

from dosvoces.mail import Mail
from dosvoces.mail.address import ascii_address, parse_sender
from dosvoces.mail.messages import Row, about_of, layout, lead_message_id, number_row, words_of
from dosvoces.mail.mime import alternative_message
from dosvoces.model import Order, Outcome


def compose_outcome(
    order: Order,
    outcome: Outcome,
    *,
    ended_at: datetime,
    joined_at: datetime | None,
    sender: str,
    recipient: str = "",
    locale: str = "es",
    timezone: str = "UTC",
) -> Mail:
    """
    The mail to `recipient` (whom the lead was mailed to, if empty): the same bytes however often it is composed.

    It tells the time in `timezone`, a name of the tz database.

    Raises `MailError` (permanent) if the recipient can't be written in ASCII, `SettingsError` if `sender` or `locale`
    can't be used.
    """
    code, words = words_of("outcome", locale if recipient else order.locale or locale)
    source, recipient = parse_sender(sender), ascii_address(recipient or order.lead.email)
    labels = words["labels"]
    rows = [
        number_row(labels["first_number"], order.first),
        number_row(labels["second_number"], order.second),
        *([Row(labels["talked"], _duration(joined_at, ended_at))] if joined_at is not None else []),
        Row(labels["ended"], ended_at.astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M:%S (%Z)")),
    ]
    facts: dict[str, object] = {
        "words": words,
        "locale": code,
        "about": about_of(order),
        "sentence": words["outcomes"][outcome],
        "rows": rows,
        "recipient": recipient,
        "reference": order.id,
    }
    templates = layout("outcome")
    subject, text = templates["subject.txt"].render(facts), templates["body.txt"].render(facts)
    message_id = f"<{order.id}.outcome@{source.domain}>"
    content = alternative_message(
        sender=source,
        recipient=recipient,
        subject=subject,
        created_at=ended_at,
        message_id=message_id,
        boundary=f"=_{order.id}.outcome",
        text=text,
        html=templates["body.html"].render(facts),
        in_reply_to=lead_message_id(order, source),
    )
    return Mail(message_id, recipient, subject, text, content)


def _duration(since: datetime, until: datetime) -> str:
    """`1:02:03`, `2:05`."""
    minutes, seconds = divmod(max(0, round((until - since).total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
