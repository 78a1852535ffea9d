"""
`POST /v1/connections`: asks for a connection and doesn't wait for it: now, or at a time of the client's choice.

The same checks as `POST /call`, under English names, and the same strictness about JSON. The answer is the resource as
`GET` shows it.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed, NotNow, NumberRefused, StoreError, TooMany
from dosvoces.model import ConnectionId, Order, Repeats, connection_id
from dosvoces.store import Earlier
from dosvoces.web import repeats
from dosvoces.web.answers import REPLAYED, Header, Problem, Reply
from dosvoces.web.auth import asker_of, caller_of
from dosvoces.web.body import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, is_json, parse_object, read_body
from dosvoces.web.fields import Names, check_fields
from dosvoces.web.hours import out_of_hours
from dosvoces.web.ports import Connector, Records, Scheduler
from dosvoces.web.problems import (
    BROKEN_OFF,
    INVALID,
    KEY_REUSED,
    MEDIA,
    NOT_NOW,
    NOT_RECORDED,
    TOO_LARGE,
    TOO_MANY,
    TOO_SLOW,
    invalid,
    problem,
)
from dosvoces.web.rate_limit import rate_limit
from dosvoces.web.recipient import ALL_DOMAINS, Domains
from dosvoces.web.terms import LEAD_NAMES, check_terms, with_lead
from dosvoces.web.views import ConnectionView, connection_view
from dosvoces.web.webhook_urls import WebhookUrls

MAX_WAIT_S = 60
"""Longest that an answer is held back for `Prefer: wait`."""
PATH = "/v1/connections"
NAMES = Names(
    "first_number",
    "second_number",
    "interval",
    LEAD_NAMES,
)
_VIEW = TypeAdapter(ConnectionView)
_CLOSE: Header = (b"connection", b"close")
_SOON: Header = (b"retry-after", b"5")
_WAIT = re.compile(r"\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:;.*)?", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class ConnectionsEndpoint:
    """Takes orders; those for now are begun by `connector`, the others kept by `scheduler`."""

    def __init__(
        self,
        *,
        connector: Connector,
        scheduler: Scheduler,
        records: Records,
        rules: NumberRules,
        clock: Callable[[], datetime],
        locales: frozenset[str],
        default_interval_s: int = 0,
        key_lifetime_s: int = 24 * 3600,
        domains: Domains = ALL_DOMAINS,
        webhook_urls: WebhookUrls | None = None,
    ) -> None:
        self._connector = connector
        self._scheduler = scheduler
        self._records = records
        self._rules = rules
        self._domains = domains
        self._clock = clock
        self._locales = locales
        self._webhook_urls = webhook_urls
        self._default_interval_s = default_interval_s
        self._repeats = Repeats(key_lifetime_s)

    async def __call__(self, request: Request) -> Response:
        reply = await self._answer(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        return Response(reply.body, reply.status, headers, media_type=reply.media_type or "application/json")

    async def _answer(self, request: Request) -> Reply:
        headers: list[Header] = request.scope["headers"]
        if not is_json(headers):
            return problem(MEDIA)
        key = repeats.idempotency_key(headers)
        if isinstance(key, Problem):
            return problem(INVALID, f"Idempotency-Key {key.message}", errors=[key])
        try:
            body = await read_body(headers, request.receive)
            members = parse_object(body)
        except ClientGone:
            return problem(BROKEN_OFF)  # For the log alone: nobody is there to read it.
        except BodyTooLarge as error:
            return problem(TOO_LARGE, str(error), _CLOSE)
        except BodyTooSlow as error:
            return problem(TOO_SLOW, str(error), _CLOSE)
        except BadBody as error:
            return invalid([error.problem])
        order = self._order(members, key, request.scope)
        if isinstance(order, list):
            return invalid(order)
        reply = (await self._place(order)).with_headers(*rate_limit(order.asker.standing))
        wait_s = _wait_s(headers)
        if wait_s is None or reply.status != 202:
            return reply
        return await self._waited(ConnectionId(_id_in(reply)), reply, wait_s)

    def _order(self, members: dict[str, object], key: str | None, scope: Scope) -> Order | list[Problem]:
        problems: list[Problem] = []
        lead = with_lead(members, problems.append)
        fields = check_fields(lead, self._rules, self._default_interval_s, NAMES, self._domains)
        if isinstance(fields, list):
            problems += fields
        now = self._clock()
        terms = check_terms(members, now, self._locales, problems.append, self._webhook_urls)
        if problems or isinstance(fields, list):
            return problems
        order = Order(
            id=connection_id(now, secrets.randbits(80)),
            created_at=now,
            first=fields.first,
            second=fields.second,
            lead=replace(fields.lead, more=terms.more),
            interval_s=fields.interval_s,
            idempotency_key=repeats.of_client(key, caller_of(scope).client),
            repeats=self._repeats,
            caller_id_first=terms.caller_id_first,
            caller_id_second=terms.caller_id_second,
            not_before=terms.not_before,
            expires_at=terms.expires_at,
            ring_timeout_s=terms.ring_timeout_s,
            talk_limit_s=terms.talk_limit_s,
            locale=terms.locale,
            metadata=terms.metadata,
            webhook_url=terms.webhook_url,
            asker=asker_of(scope),
            test=caller_of(scope).test,
        )
        return replace(order, fingerprint=repeats.fingerprint(PATH, order))

    async def _place(self, order: Order) -> Reply:
        try:
            if order.idempotency_key is not None and (earlier := await self._connector.repeated(order)):
                if not earlier.resumable or earlier.fingerprint != order.fingerprint:
                    return await self._repeated(earlier, order)
                order = earlier.resumed_by(order)
            at = max(order.created_at, order.not_before or order.created_at)
            if closed := out_of_hours(self._rules.hours, order.first, order.second, at):
                return invalid(closed)
            self._connector.check(order)
            if order.not_before is None or order.not_before <= order.created_at:
                await self._connector.accept(order)
            else:
                await self._scheduler.schedule(order)
        except (NotNow, NotAllowed) as error:
            return await self._begun_meanwhile(order) or _refused(error)
        except AlreadyRecorded:
            # A request with the same key was quicker by a moment.
            return await self._place(order)
        except StoreError:
            _log.exception("connection_not_recorded", connection_id=order.id)
            return problem(NOT_RECORDED, "", _SOON)
        return await self._accepted(order)

    async def _accepted(self, order: Order) -> Reply:
        """The resource as it is now; as it was asked for if that can't be read: it is recorded, and may be begun."""
        try:
            view = await self._view(order.id)
        except StoreError as error:
            _log.warning("accepted_connection_not_read", connection_id=order.id, error=str(error))
            view = None
        return _shown(view or _as_asked(order))

    async def _begun_meanwhile(self, order: Order) -> Reply | None:
        """
        The answer to a request with the same key that was quicker by a moment, and may have been the last to get in.

        `None` if there is none, or as far as is known: then this one is refused.
        """
        if order.idempotency_key is None:
            return None
        try:
            earlier = await self._connector.repeated(order)
            return None if earlier is None or earlier.resumable else await self._repeated(earlier, order)
        except StoreError as error:
            _log.warning("earlier_request_not_found", connection_id=order.id, error=str(error))
            return None

    async def _repeated(self, earlier: Earlier, order: Order) -> Reply:
        if earlier.fingerprint != order.fingerprint:
            return problem(KEY_REUSED)
        return await self._replayed(earlier.connection_id)

    async def _replayed(self, connection: ConnectionId) -> Reply:
        view = await self._view(connection)
        return problem(NOT_RECORDED, "", _SOON) if view is None else _shown(view, REPLAYED)

    async def _waited(self, connection: ConnectionId, reply: Reply, wait_s: int) -> Reply:
        """The resource as it is when both talk, when it is over, or after `wait_s` (RFC 7240 §4.3)."""
        applied = (b"preference-applied", f"wait={wait_s}".encode())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, MAX_WAIT_S)):
                    await self._connector.joined(connection)
            view = await self._view(connection)
        except StoreError as error:
            # It was taken, whatever can be told of it now.
            _log.warning("connection_not_waited_for", connection_id=connection, error=str(error))
            view = None
        return (reply if view is None else replace(_shown(view), headers=reply.headers)).with_headers(applied)

    async def _view(self, connection: ConnectionId) -> ConnectionView | None:
        record = await self._records.connection(connection)
        if record is None:
            return None
        return connection_view(record, await self._records.statistics([connection]), self._clock())


def _refused(error: NotNow | NotAllowed) -> Reply:
    match error:
        case NotNow():
            kind = TOO_MANY if isinstance(error, TooMany) else NOT_NOW
            return problem(kind, str(error), (b"retry-after", str(error.retry_after_s).encode()))
        case NumberRefused():
            return invalid([Problem(NAMES.second if error.second else NAMES.first, error.code, str(error))])
        case _:
            return invalid([Problem("caller_ids", "not_allowed", str(error))])


def _shown(view: ConnectionView, *headers: Header) -> Reply:
    return Reply(202, _VIEW.dump_json(view).decode(), ((b"location", f"{PATH}/{view.id}".encode()), *headers))


def _as_asked(order: Order) -> ConnectionView:
    """A connection of which no more is known than that it is recorded."""
    waits = order.not_before is not None and order.not_before > order.created_at
    return ConnectionView(
        id=order.id,
        created_at=order.created_at,
        not_before=order.not_before,
        expires_at=order.expires_at,
        phase="scheduled" if waits else "recorded",
        outcome=None,
        ended_by="",
        mail="pending",
        interval_s=order.interval_s,
        ring_timeout_s=order.ring_timeout_s,
        talk_limit_s=order.talk_limit_s,
        locale=order.locale,
        metadata=dict(order.metadata),
        webhook_url=order.webhook_url or None,
        test=order.test,
        joined_at=None,
        ended_at=None,
        legs=[],
    )


def _id_in(reply: Reply) -> str:
    return next(value for name, value in reply.headers if name == b"location").decode().rpartition("/")[2]


def _wait_s(headers: list[Header]) -> int | None:
    """The first `wait` of the `Prefer` headers (RFC 7240 §2: the first of equal ones counts)."""
    for name, value in headers:
        if name == b"prefer":
            for preference in value.decode("latin-1").split(","):
                if (match := _WAIT.fullmatch(preference)) is not None:
                    return int(match[1])
    return None
