"""
`POST /call`: the contract's one request, from bytes to an order, and from its outcome to an answer.

A plain ASGI application rather than a FastAPI route: what it accepts is stricter than pydantic's JSON, and it is the
hot path. It knows the ports of `ports.py` and nothing behind them.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog
from starlette.types import Receive, Scope, Send

from dosvoces.core import Answer, AnswerKind
from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed, NotNow, StoreError
from dosvoces.model import ConnectionId, Order, Side, connection_id
from dosvoces.store import Earlier
from dosvoces.web.answers import INTERNAL_ERROR, Header, Problem, Reply, finish, message, quoted, refusal
from dosvoces.web.body import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, is_json, parse_object, read_body
from dosvoces.web.fields import check_fields, missing_arguments
from dosvoces.web.ports import Connector

MAX_IDEMPOTENCY_KEY = 255  # characters
LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the client gets to read the refusal."""
LINGER_BYTES = 32 * 1024 * 1024

_log = structlog.get_logger(__name__)

_METHOD_NOT_ALLOWED = message(405, "Only POST is allowed here", (b"allow", b"POST"))
UNSUPPORTED = message(415, "The Content-Type must be application/json, in UTF-8")
_KEY_REUSED = message(422, "This Idempotency-Key was used for another request")
_KEY_OPEN = message(409, "The first request with this Idempotency-Key has no answer yet", (b"retry-after", b"5"))
NOT_RECORDED = message(503, "The request can't be recorded now; nothing was done", (b"retry-after", b"5"))
_REPLAYED: Header = (b"idempotent-replayed", b"true")


class CallEndpoint:
    """The ASGI application of `/call`. Remembers which idempotency keys are being worked on."""

    def __init__(
        self,
        *,
        connector: Connector,
        rules: NumberRules,
        clock: Callable[[], datetime],
        default_interval_s: int = 0,
    ) -> None:
        self._connector = connector
        self._rules = rules
        self._clock = clock
        self._default_interval_s = default_interval_s
        self._working: dict[str, tuple[str, asyncio.Task[Reply]]] = {}
        """By idempotency key: the body's fingerprint and the work for the first request with it."""
        self._tasks: set[asyncio.Task[Reply]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(scope, receive)
        except ClientGone:
            return
        except BodyTooLarge as error:
            return await _refuse_unread(message(413, str(error)), receive, send)
        except BodyTooSlow as error:
            return await message(408, str(error), (b"connection", b"close")).send(send)
        except Exception:
            _log.exception("call_request_failed")
            reply = INTERNAL_ERROR
        await reply.send(send)
        if reply.unrecorded is not None:
            await self._remember(reply.unrecorded, reply)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        if scope["method"] != "POST":
            return _METHOD_NOT_ALLOWED
        headers: list[Header] = scope["headers"]
        if not is_json(headers):
            return UNSUPPORTED
        key = idempotency_key(headers)
        if isinstance(key, Problem):
            return refusal(f"Idempotency-Key {key.message}", [key])
        body = await read_body(headers, receive)
        try:
            members = parse_object(body)
        except BadBody as error:
            return refusal(missing_arguments({}), [error.problem])
        fields = check_fields(members, self._rules, self._default_interval_s)
        if isinstance(fields, list):
            return refusal(missing_arguments(members), fields)
        now = self._clock()
        order = Order(
            id=connection_id(now, secrets.randbits(80)),
            created_at=now,
            first=fields.first,
            second=fields.second,
            lead=fields.lead,
            interval_s=fields.interval_s,
            idempotency_key=key,
            fingerprint=hashlib.sha256(body).hexdigest(),
        )
        return await self._place(order, quoted(fields.email_as_received))

    async def _place(self, order: Order, email: str) -> Reply:
        """
        Carry `order` out, or give the answer of the request that came first under its key.

        The work is a task of its own: whoever waits for it may be cancelled, and the phones ring on.
        """
        key = order.idempotency_key
        if key is None:
            return await asyncio.shield(self._start(order, email))
        if key not in self._working:
            task = self._start(order, email)
            self._working[key] = order.fingerprint, task
            task.add_done_callback(lambda _: self._working.pop(key, None))
            return await asyncio.shield(task)
        fingerprint, task = self._working[key]
        if fingerprint != order.fingerprint:
            return _KEY_REUSED
        reply = await asyncio.shield(task)
        return reply if reply.status == 503 else reply.with_headers(_REPLAYED)

    def _start(self, order: Order, email: str) -> asyncio.Task[Reply]:
        task = asyncio.create_task(self._carry_out(order, email))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carry_out(self, order: Order, email: str) -> Reply:
        try:
            earlier = await self._earlier(order)
            if earlier is not None:
                return _repeat(earlier, order)
            reply = _reply(order, await self._connector.connect(order), email)
        except NotNow as error:
            closes: tuple[Header, ...] = ((b"connection", b"close"),) if error.leaving else ()
            return message(503, str(error), (b"retry-after", str(error.retry_after_s).encode()), *closes)
        except NotAllowed as error:
            return message(400, str(error))
        except AlreadyRecorded:  # Another process of ours was quicker with the same key.
            earlier = await self._earlier(order)
            return _KEY_OPEN if earlier is None else _repeat(earlier, order)
        except StoreError:
            _log.exception("connection_not_recorded", connection_id=order.id)
            return NOT_RECORDED
        except Exception:
            _log.exception("connection_failed", connection_id=order.id)
            return INTERNAL_ERROR
        if order.idempotency_key is None:
            return reply
        # Under a key the answer is kept before it is given: a repeat must not find the question open.
        await self._remember(order.id, reply)
        return replace(reply, unrecorded=None)

    async def _earlier(self, order: Order) -> Earlier | None:
        return None if order.idempotency_key is None else await self._connector.earlier(order.idempotency_key)

    async def _remember(self, connection: ConnectionId, reply: Reply) -> None:
        try:
            await self._connector.remember_answer(connection, status=reply.status, body=reply.body)
        except StoreError:  # The calls were made: the client is told so, whatever the record says.
            _log.exception("answer_not_recorded", connection_id=connection)


def idempotency_key(headers: list[Header]) -> str | Problem | None:
    """The request's key, `None` if it has none."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if not keys:
        return None
    key = keys[0].decode("latin-1")
    if len(keys) == 1 and 0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable():
        return key
    return Problem(
        "idempotency_key", "format", f"is not one text of 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"
    )


def _location(connection: ConnectionId) -> Header:
    return b"location", f"/v1/connections/{connection}".encode()


def _reply(order: Order, answer: Answer, email: str) -> Reply:
    match answer.kind:
        case AnswerKind.MADE:
            reply = Reply(200, "Data received successfully")
        case AnswerKind.MAIL_FAILED:
            reply = message(500, f"Could not send email to {email}")
        case AnswerKind.CALL_FAILED:
            number = order.number(answer.side or Side.A)
            reply = message(500, f"Could not make call to {quoted(number.as_received)}")
    return replace(reply, headers=(_location(order.id),), unrecorded=order.id)


def _repeat(earlier: Earlier, order: Order) -> Reply:
    """The answer to a request whose key is in the record."""
    if earlier.fingerprint != order.fingerprint:
        return _KEY_REUSED
    if earlier.status is None or earlier.body is None:
        return _KEY_OPEN.with_headers(_location(earlier.connection_id))
    return Reply(earlier.status, earlier.body, (_location(earlier.connection_id), _REPLAYED))


async def _refuse_unread(reply: Reply, receive: Receive, send: Send) -> None:
    """
    Answer, drop what the client still sends, then close.

    RFC 9112 §9.6: closing with bytes unread resets the connection, and the reset may overtake the answer.
    """
    await reply.send_and_close(send)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            await _drop(receive)
    await finish(send)


async def _drop(receive: Receive) -> None:
    dropped = 0
    while dropped <= LINGER_BYTES:
        part = await receive()
        dropped += len(part.get("body", b""))
        if not part.get("more_body", False):
            return
