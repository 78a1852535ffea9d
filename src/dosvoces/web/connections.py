"""
`POST /v1/connections`: asks for a connection and doesn't wait for it: now, or at a time of the client's choice.

The same checks as `POST /call`, under English names, and the same strictness about JSON. The answer is the resource as
`GET` shows it.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed, NotNow, StoreError
from dosvoces.model import ConnectionId, Order, Repeats, connection_id
from dosvoces.web import repeats
from dosvoces.web.answers import REPLAYED, Header, Problem, Reply, message, quoted, refusal
from dosvoces.web.api import ConnectionView, connection_view
from dosvoces.web.body import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, is_json, parse_object, read_body
from dosvoces.web.call import NOT_RECORDED, UNSUPPORTED
from dosvoces.web.fields import Names, check_fields
from dosvoces.web.ports import Connector, Records, Scheduler

MAX_AHEAD = timedelta(days=366)
"""How far in the future a connection may wait."""
PATH = "/v1/connections"
NAMES = Names(
    "first_number",
    "second_number",
    "interval",
    ("property_name", "agent_name", "url", "city", "area_m2", "price"),
)
_VIEW = TypeAdapter(ConnectionView)

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
        default_interval_s: int = 0,
        key_lifetime_s: int = 24 * 3600,
    ) -> None:
        self._connector = connector
        self._scheduler = scheduler
        self._records = records
        self._rules = rules
        self._clock = clock
        self._default_interval_s = default_interval_s
        self._repeats = Repeats(key_lifetime_s)

    async def __call__(self, request: Request) -> Response:
        reply = await self._answer(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        return Response(reply.body, reply.status, headers, media_type="application/json")

    async def _answer(self, request: Request) -> Reply:
        headers: list[Header] = request.scope["headers"]
        if not is_json(headers):
            return UNSUPPORTED
        key = repeats.idempotency_key(headers)
        if isinstance(key, Problem):
            return refusal(f"Idempotency-Key {key.message}", [key])
        try:
            body = await read_body(headers, request.receive)
            members = parse_object(body)
        except ClientGone:
            return message(400, "The request was broken off")  # For the log alone: nobody is there to read it.
        except BodyTooLarge as error:
            return message(413, str(error), (b"connection", b"close"))
        except BodyTooSlow as error:
            return message(408, str(error), (b"connection", b"close"))
        except BadBody as error:
            return _invalid([error.problem])
        order = self._order(members, key)
        return _invalid(order) if isinstance(order, list) else await self._place(order)

    def _order(self, members: dict[str, object], key: str | None) -> Order | list[Problem]:
        problems: list[Problem] = []
        fields = check_fields(members, self._rules, self._default_interval_s, NAMES)
        if isinstance(fields, list):
            problems += fields
        now = self._clock()
        not_before = _moment(members, "not_before", now, problems.append)
        expires_at = _moment(members, "expires_at", now, problems.append)
        first_id, second_id = _caller_ids(members, problems.append)
        if expires_at is not None and expires_at <= max(now, not_before or now):
            problems.append(Problem("expires_at", "range", "is not later than now and than not_before"))
        if problems or isinstance(fields, list):
            return problems
        order = Order(
            id=connection_id(now, secrets.randbits(80)),
            created_at=now,
            first=fields.first,
            second=fields.second,
            lead=fields.lead,
            interval_s=fields.interval_s,
            idempotency_key=key,
            repeats=self._repeats,
            caller_id_first=first_id,
            caller_id_second=second_id,
            not_before=not_before,
            expires_at=expires_at,
        )
        return replace(order, fingerprint=repeats.fingerprint(PATH, order))

    async def _place(self, order: Order) -> Reply:
        try:
            if order.idempotency_key is not None and (earlier := await self._connector.repeated(order)):
                if earlier.fingerprint != order.fingerprint:
                    return repeats.KEY_REUSED
                if not earlier.resumable:
                    return await self._replayed(earlier.connection_id)
                order = earlier.resumed_by(order)
            self._connector.check(order)
            if order.not_before is None or order.not_before <= order.created_at:
                await self._connector.accept(order)
            else:
                await self._scheduler.schedule(order)
        except NotNow as error:
            return message(503, str(error), (b"retry-after", str(error.retry_after_s).encode()))
        except NotAllowed as error:
            return _invalid([Problem("caller_ids", "not_allowed", str(error))])
        except AlreadyRecorded:
            # A request with the same key was quicker by a moment.
            return await self._place(order)
        except StoreError:
            _log.exception("connection_not_recorded", connection_id=order.id)
            return NOT_RECORDED
        return await self._accepted(order)

    async def _accepted(self, order: Order) -> Reply:
        """The resource as it is now; as it was asked for if that can't be read: it is recorded, and may be begun."""
        try:
            view = await self._view(order.id)
        except StoreError as error:
            _log.warning("accepted_connection_not_read", connection_id=order.id, error=str(error))
            view = None
        return _shown(view or _as_asked(order))

    async def _replayed(self, connection: ConnectionId) -> Reply:
        view = await self._view(connection)
        return NOT_RECORDED if view is None else _shown(view, REPLAYED)

    async def _view(self, connection: ConnectionId) -> ConnectionView | None:
        record = await self._records.connection(connection)
        if record is None:
            return None
        return connection_view(record, await self._records.entries(connection), self._clock())


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
        interval_s=order.interval_s,
        joined_at=None,
        ended_at=None,
        legs=[],
        journal=[],
    )


def _invalid(problems: list[Problem]) -> Reply:
    names = ", ".join(dict.fromkeys(problem.field for problem in problems))
    return refusal(f"Missing or invalid: {names}", problems)


_Report = Callable[[Problem], None]


def _moment(members: Mapping[str, object], name: str, now: datetime, report: _Report) -> datetime | None:
    """An RFC 3339 moment, in UTC."""
    value = members.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        report(Problem(name, "format", "is no moment with a time zone, as in 2026-05-09T09:30:00+02:00"))
    elif moment > now + MAX_AHEAD:
        report(Problem(name, "range", f"is more than {MAX_AHEAD.days} days ahead"))
    else:
        return moment.astimezone(UTC)
    return None


def _caller_ids(members: Mapping[str, object], report: _Report) -> tuple[str, str]:
    """What the first and the second party shall see; empty where the settings say it."""
    value = members.get("caller_ids")
    if value is None:
        return "", ""
    if not isinstance(value, dict):
        report(Problem("caller_ids", "type", 'is not an object with "first" and "second"'))
        return "", ""
    return _caller_id(value, "first", report), _caller_id(value, "second", report)


def _caller_id(members: Mapping[str, object], name: str, report: _Report) -> str:
    value = members.get(name)
    if value is None:
        return ""
    digits = value[1:] if isinstance(value, str) and value.startswith("+") else ""
    if not (7 <= len(digits) <= 15 and digits.isascii() and digits.isdigit()):
        report(Problem(f"caller_ids.{name}", "format", "is not a number in E.164, such as +34910000000"))
        return ""
    return quoted(f"+{digits}")
