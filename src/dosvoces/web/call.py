"""
`POST /call`: the contract's one request, from bytes to an order, and from its outcome to an answer.

A plain ASGI application rather than a FastAPI route: what it accepts is stricter than pydantic's JSON, and it is the
hot path. It knows the ports of `ports.py` and nothing behind them.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog
from starlette.types import Receive, Scope, Send

from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed, NotNow, NumberRefused, StoreError, TooMany
from dosvoces.model import ConnectionId, Order, Repeats, connection_id
from dosvoces.store import Earlier
from dosvoces.web import repeats
from dosvoces.web.answers import INTERNAL_ERROR, Header, Problem, Reply, finish, message, quoted, refusal
from dosvoces.web.auth import asker_of, caller_of
from dosvoces.web.body import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, is_json, parse_object, read_body
from dosvoces.web.fields import check_fields, missing_arguments
from dosvoces.web.hours import out_of_hours
from dosvoces.web.ports import Connector
from dosvoces.web.rate_limit import rate_limit
from dosvoces.web.recipient import ALL_DOMAINS, Domains

MAX_TRIES = 3
"""To begin a request that looked like a repeat and isn't one any more when it is looked at closely."""
LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped, so that the client gets to read the refusal."""
LINGER_BYTES = 32 * 1024 * 1024

_log = structlog.get_logger(__name__)

_METHOD_NOT_ALLOWED = message(405, "Only POST is allowed here", (b"allow", b"POST"))
UNSUPPORTED = message(415, "The Content-Type must be application/json, in UTF-8")
NOT_RECORDED = message(503, "The request can't be recorded now; nothing was done", (b"retry-after", b"5"))


class CallEndpoint:
    """The ASGI application of `/call`."""

    def __init__(
        self,
        *,
        connector: Connector,
        rules: NumberRules,
        clock: Callable[[], datetime],
        default_interval_s: int = 0,
        repeats: Repeats = Repeats(),  # noqa: B008  # It is frozen.
        domains: Domains = ALL_DOMAINS,
    ) -> None:
        self._connector = connector
        self._rules = rules
        self._domains = domains
        self._clock = clock
        self._default_interval_s = default_interval_s
        self._repeats = repeats
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
        key = repeats.idempotency_key(headers)
        if isinstance(key, Problem):
            return refusal(f"Idempotency-Key {key.message}", [key])
        body = await read_body(headers, receive)
        try:
            members = parse_object(body)
        except BadBody as error:
            return refusal(missing_arguments({}), [error.problem])
        fields = check_fields(members, self._rules, self._default_interval_s, domains=self._domains)
        if isinstance(fields, list):
            return refusal(missing_arguments(members), fields)
        now = self._clock()
        caller = caller_of(scope)
        closed = out_of_hours(self._rules.hours, fields.first, fields.second, now)
        order = Order(
            id=connection_id(now, secrets.randbits(80)),
            created_at=now,
            first=fields.first,
            second=fields.second,
            lead=fields.lead,
            interval_s=fields.interval_s,
            idempotency_key=repeats.of_client(key, caller.client),
            repeats=self._repeats,
            asker=asker_of(scope),
            test=caller.test,
        )
        order = replace(order, fingerprint=repeats.fingerprint("/call", order, caller.client))
        shut = refusal(missing_arguments(members), closed) if closed else None
        reply = await self._place(order, quoted(fields.email_as_received), shut)
        return reply.with_headers(*rate_limit(order.asker.standing)) if order.asker.standing else reply

    async def _place(self, order: Order, email: str, shut: Reply | None) -> Reply:
        """
        Carry `order` out, or give the answer to the request that it repeats; `shut` to what may not begin now.

        The work is a task of its own: whoever waits for it may be cancelled, and the phones ring on.
        """
        task = asyncio.create_task(self._carry_out(order, email, shut))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _carry_out(self, order: Order, email: str, shut: Reply | None) -> Reply:
        try:
            return await self._connect_or_repeat(order, email, shut)
        except NotAllowed as error:
            return message(400, str(error))
        except StoreError as error:
            _log.warning("connection_not_recorded", connection_id=order.id, error=str(error))
            return NOT_RECORDED
        except Exception:
            _log.exception("connection_failed", connection_id=order.id)
            return INTERNAL_ERROR

    async def _connect_or_repeat(self, order: Order, email: str, shut: Reply | None) -> Reply:
        """The record decides who was first; what it is to be asked about the first is asked only then."""
        for _ in range(MAX_TRIES):
            refused = shut
            try:
                if refused is None:
                    return await self._connect(order, email)
            except AlreadyRecorded:
                pass
            except (NotNow, NumberRefused) as error:
                refused = _refused(error, order, email)
                # Without a key that isn't worth a question to the record where a node is full or drains: to refuse
                # must stay cheap, and the client may ask again soon.
                if order.idempotency_key is None and not isinstance(error, TooMany | NumberRefused):
                    return refused
            if refused is None:
                earlier = await self._connector.repeated(order)
            else:
                # Nothing new begins now, but a repeat begins nothing: its first may have been the last to get in.
                earlier = await self._repeated(order)
                if earlier is None or earlier.resumable:
                    return refused
            if earlier is None:
                continue  # The first one is over by now, and this one is no repeat any more.
            if not (earlier.resumable and earlier.fingerprint == order.fingerprint):
                return await self._repeat(earlier, order, email)
            order = earlier.resumed_by(order)
        return repeats.OPEN

    async def _repeated(self, order: Order) -> Earlier | None:
        """As the connector's; `None` also while the record can't be read."""
        try:
            return await self._connector.repeated(order)
        except StoreError as error:
            _log.warning("earlier_request_not_found", connection_id=order.id, error=str(error))
            return None

    async def _connect(self, order: Order, email: str) -> Reply:
        reply = repeats.told(order, order.id, await self._connector.connect(order), email)
        if reply.status == 503:
            return reply  # It answers nothing for good: a repeat begins anew.
        if order.idempotency_key is None:
            return replace(reply, unrecorded=order.id)
        # Under a key the answer is kept before it is given: a repeat must not find the question open.
        await self._remember(order.id, reply)
        return reply

    async def _repeat(self, earlier: Earlier, order: Order, email: str) -> Reply:
        if earlier.fingerprint != order.fingerprint:
            return repeats.KEY_REUSED
        if not earlier.known and order.idempotency_key is None:
            try:
                earlier = await self._connector.answer_of(earlier.connection_id) or earlier
            except TimeoutError:
                _log.warning("answer_waited_for_in_vain", connection_id=earlier.connection_id)
        reply = repeats.repeat(earlier, order, email)
        if earlier.status is None and earlier.outcome is not None and reply.replayed:
            await self._remember(earlier.connection_id, reply)
        return reply

    async def _remember(self, connection: ConnectionId, reply: Reply) -> None:
        try:
            await self._connector.remember_answer(connection, status=reply.status, body=reply.body)
        except StoreError:  # The calls were made: the client is told so, whatever the record says.
            _log.exception("answer_not_recorded", connection_id=connection)


def _asked(order: Order, email: str) -> str:
    """The contract's sentence about what came."""
    return missing_arguments(
        {"firstnumber": order.first.as_received, "secondnumber": order.second.as_received, "email": email}
    )


def _refused(error: NotNow | NumberRefused, order: Order, email: str) -> Reply:
    if isinstance(error, NumberRefused):
        field = "secondnumber" if error.second else "firstnumber"
        return refusal(_asked(order, email), [Problem(field, error.code, str(error))])
    closes: tuple[Header, ...] = ((b"connection", b"close"),) if error.leaving else ()
    status = 429 if isinstance(error, TooMany) else 503
    return message(status, str(error), (b"retry-after", str(error.retry_after_s).encode()), *closes)


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
