"""
Repeated requests: the `Idempotency-Key`, what makes two requests the same, and what a repeat is answered. Pure.

The header is that of draft-ietf-httpapi-idempotency-key-header: a string of Structured Fields (RFC 9651 §3.3.3), quotes
included. We diverge for those who send it without quotes, who are most: `k` and `"k"` are the same key.
"""

import hashlib
import json
import re

from dosvoces.core import Answer, AnswerKind
from dosvoces.model import ConnectionId, Order, Outcome, Side
from dosvoces.store import Earlier
from dosvoces.web.answers import REPLAYED, Header, Problem, Reply, message, quoted

MAX_IDEMPOTENCY_KEY = 255  # characters, quotes and backslashes before quotes not counted
RETRY_AFTER: Header = (b"retry-after", b"5")

KEY_REUSED = message(422, "This Idempotency-Key was used for another request")
NOT_TRIED = message(503, "The service stopped before anybody was called", RETRY_AFTER)
OPEN = message(409, "The first such request has no answer yet", RETRY_AFTER)

_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")  # visible ASCII but for `"`, `,`, `;` and `\`


def idempotency_key(headers: list[Header]) -> str | Problem | None:
    """The request's key, `None` if it has none."""
    values = [value for name, value in headers if name == b"idempotency-key"]
    if not values:
        return None
    value = values[0].decode("latin-1").strip(" \t")
    if len(values) == 1:
        if (string := _STRING.fullmatch(value)) is not None:
            value = re.sub(r'\\(["\\])', r"\1", string[1])
        elif _BARE.fullmatch(value) is None:
            value = ""
        if 0 < len(value) <= MAX_IDEMPOTENCY_KEY:
            return value
    return Problem(
        "idempotency_key",
        "format",
        f'is not one text of 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters, in quotes (`"..."`) where it has '
        "blanks, commas, semicolons, quotes or backslashes",
    )


def of_client(key: str | None, client: str) -> str | None:
    """
    The key as the record has it: each client has its own, so that none meets another's answers.

    What is before the point is an id, and no client's text has such a point: a key is ASCII.
    """
    return f"{client}·{key}" if key is not None and client else key


def fingerprint(path: str, order: Order, client: str = "") -> str:
    """
    SHA-256 (hex) of what was asked for at `path`: equal however it was written.

    The order of members, white space, the spelling of numbers, members left out that have a default, and members that
    we don't know make no difference. Nor does `client` under a key, which is the client's own already.
    """
    lead = order.lead
    asked: list[object] = [
        path,
        order.first.e164,
        order.second.e164,
        order.caller_id_first,
        order.caller_id_second,
        order.interval_s,
        [lead.email, lead.property_name, lead.agent_name, lead.url, lead.city, lead.area_m2, lead.price],
        *(None if moment is None else moment.isoformat() for moment in (order.not_before, order.expires_at)),
    ]
    terms = [lead.more, order.ring_timeout_s, order.talk_limit_s, order.locale, order.metadata]
    if any(terms):  # Else it stays what it was before there were any.
        asked += terms
    if order.webhook_url:
        asked.append(["webhook_url", order.webhook_url])
    if order.test:  # No real request may be taken for the repeat of a trial run, nor the reverse.
        asked.append("test")
    if client and order.idempotency_key is None:  # Else one client would get, and might cancel, another's call.
        asked.append(["client", client])
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def told(order: Order, connection: ConnectionId, answer: Answer, email: str) -> Reply:
    """The answer in the contract's words, about `connection`, which is `order`'s or that which it repeats."""
    match answer.kind:
        case AnswerKind.MADE:
            reply = Reply(200, "Data received successfully")
        case AnswerKind.MAIL_FAILED:
            reply = message(500, f"Could not send email to {email}")
        case AnswerKind.CALL_FAILED:
            reply = message(500, _call_failed(order, answer))
        case AnswerKind.NOT_TRIED if order.idempotency_key is not None:
            reply = NOT_TRIED
        case AnswerKind.NOT_TRIED:  # Its mail may have been sent: 503 would promise that it was not.
            reply = message(500, f"{_call_failed(order, answer)}: the service stopped before anybody was called")
    return reply.with_headers(_location(connection))


def repeat(earlier: Earlier, order: Order, email: str) -> Reply:
    """What the repeat of a request is answered, by what is known of the first."""
    first = earlier.connection_id
    if earlier.status is not None and earlier.body is not None:
        return Reply(earlier.status, earlier.body, (_location(first), REPLAYED))
    # Under a key the first answer is kept before it is given: until then, it may still come to nothing in a crash.
    if earlier.answer is None or (earlier.outcome is None and order.idempotency_key is not None):
        return OPEN.with_headers(_location(first))
    if earlier.resumable:
        # Who waited for it has no key by which it could be begun anew.
        return NOT_TRIED.with_headers(_location(first))
    if earlier.outcome is Outcome.INTERRUPTED:
        words = f"{_call_failed(order, earlier.answer)}: the service stopped meanwhile, and nobody is called twice"
        return message(500, words, _location(first), REPLAYED)
    return told(order, first, earlier.answer, email).with_headers(REPLAYED)


def _call_failed(order: Order, answer: Answer) -> str:
    return f"Could not make call to {quoted(order.number(answer.side or Side.A).as_received)}"


def _location(connection: ConnectionId) -> Header:
    return b"location", f"/v1/connections/{connection}".encode()
