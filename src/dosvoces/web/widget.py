"""
The widget's addresses: the module that pages load, a call for who shows a token, and how that call goes.

They are open to everybody, so they take nothing on trust: whom to call stands in the token, which the site's server
encrypted; the visitor adds a number and a consent. What is told never names the other party or the lead.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import phonenumbers
import structlog
from starlette.types import Receive, Scope, Send

from dosvoces.dialplan import NumberRules
from dosvoces.errors import AlreadyRecorded, NotAllowed, NotNow, NumberRefused, StoreError, TooMany
from dosvoces.keys import Address
from dosvoces.model import Asker, ConnectionId, Lead, Order, PhoneNumber, Repeats, connection_id
from dosvoces.web import repeats
from dosvoces.web.answers import Header, Problem, Reply, message
from dosvoces.web.auth import asker_of, peer_of
from dosvoces.web.body import BadBody, BodyTooLarge, BodyTooSlow, ClientGone, is_json, parse_object, read_body
from dosvoces.web.connections import NAMES
from dosvoces.web.fields import check_fields
from dosvoces.web.hours import out_of_hours
from dosvoces.web.ports import Connector, Records
from dosvoces.web.recipient import ALL_DOMAINS, Domains
from dosvoces.web.terms import check_terms, with_lead
from dosvoces.web.tokens import BadToken, Offer, check_time, read
from dosvoces.web.widget_hours import Hourly
from dosvoces.web.widget_states import state_of
from dosvoces.web.widget_texts import Consent, WidgetTexts

MODULE, CALLS, PROGRESS = "/widget.js", "/widget/calls", "/widget/progress"
PATHS = frozenset({MODULE, CALLS, PROGRESS})
CACHE_S = 300
"""How long a page may use the module without asking again: so long texts live on after a change."""
PREFLIGHT_S = 600

_EVERY_PAGE: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", f"public, max-age={CACHE_S}".encode()),
)
_NOT_KEPT: Header = (b"cache-control", b"no-store")
_METHOD = message(405, "Only GET is allowed here", (b"allow", b"GET"))
_POST = message(405, "Only POST is allowed here", (b"allow", b"POST"))
_FOREIGN = message(403, "This page may not have the form; [widget] origins names those that may")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WidgetTerms:
    """What the settings say of the widget."""

    secrets: tuple[bytes, ...]
    origins: frozenset[str]
    country: str
    """Whose numbers are written without a code."""
    per_address: int
    per_number: int
    locales: frozenset[str]
    """Of mails."""
    key_lifetime_s: int


class Widget:
    """The ASGI application of `PATHS`."""

    def __init__(
        self,
        terms: WidgetTerms,
        texts: WidgetTexts,
        *,
        connector: Connector,
        records: Records,
        rules: NumberRules,
        clock: Callable[[], datetime],
        domains: Domains = ALL_DOMAINS,
    ) -> None:
        self._terms = terms
        self._consents = texts.consents
        self._connector = connector
        self._records = records
        self._rules = rules
        self._domains = domains
        self._clock = clock
        self._module = texts.module()
        self._etag = f'"{hashlib.sha256(self._module.encode()).hexdigest()[:32]}"'.encode()
        self._addresses = Hourly(terms.per_address)
        self._numbers = Hourly(terms.per_number)
        self._beginning: set[str | None] = set()
        """The keys of calls that are being recorded."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == MODULE:
            return await self._served(scope).send(send)
        headers: list[Header] = scope["headers"]
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if len(origins) != 1 or origins[0] not in self._terms.origins:
            return await _FOREIGN.send(send)
        readable = ((b"access-control-allow-origin", origins[0].encode("latin-1")), (b"vary", b"origin"), _NOT_KEPT)
        try:
            reply = await self._answer(scope, receive, origins[0])
        except ClientGone:
            return
        await reply.with_headers(*readable).send(send)

    def _served(self, scope: Scope) -> Reply:
        if scope["method"] not in ("GET", "HEAD"):
            return _METHOD
        headers = (*_EVERY_PAGE, (b"etag", self._etag))
        if (b"if-none-match", self._etag) in scope["headers"]:
            return Reply(304, "", headers, media_type="text/javascript; charset=utf-8")
        return Reply(200, self._module, headers, media_type="text/javascript; charset=utf-8")

    async def _answer(self, scope: Scope, receive: Receive, origin: str) -> Reply:
        if scope["method"] == "OPTIONS":
            allowed = (b"access-control-allow-methods", b"POST"), (b"access-control-allow-headers", b"content-type")
            return Reply(204, "", (*allowed, (b"access-control-max-age", str(PREFLIGHT_S).encode())))
        if scope["method"] != "POST":
            return _POST
        if not is_json(scope["headers"]):
            return _refused(415, "failed")
        try:
            members = parse_object(await read_body(scope["headers"], receive))
            offer = self._offer(members, origin)
            if scope["path"] == PROGRESS:
                return await self._progress(offer)
            return await self._call(offer, members, peer_of(scope), asker_of(scope))
        except BadToken as error:
            _log.info("widget_token_refused", why=str(error), origin=origin)
            return _refused(403, error.code)
        except (BadBody, BodyTooLarge, BodyTooSlow):
            return _refused(400, "failed", (b"connection", b"close"))
        except StoreError as error:
            _log.warning("widget_record_not_reached", error=str(error))
            return _refused(503, "busy", (b"retry-after", b"5"))

    def _offer(self, members: dict[str, object], origin: str) -> Offer:
        token = members.get("token")
        offer = read(token if isinstance(token, str) else "", self._terms.secrets)
        if offer.origin != origin:
            raise BadToken("bad_token", f"it is for the pages of {offer.origin}")
        return offer

    # --- a call ---

    async def _call(self, offer: Offer, members: dict[str, object], peer: Address | None, asker: Asker) -> Reply:
        now = self._clock()
        check_time(offer, now)
        consent = self._consents.get(str(members.get("consent")))
        if consent is None:
            # Of a text that is no longer shown, too: nobody has agreed to the one of now.
            return _refused(400, "expired")
        order = self._order(offer, members, consent, now)
        if isinstance(order, Reply):
            return order
        order = replace(order, asker=asker)
        if (earlier := await self._connector.repeated(order)) is not None:
            # The visitor's second click, or a request sent again: it is the same call, and no other one.
            return _refused(409, "used") if earlier.fingerprint != order.fingerprint else await self._progress(offer)
        if out_of_hours(self._rules.hours, order.first, order.second, now):
            return _refused(503, "closed", (b"retry-after", b"3600"))
        if order.idempotency_key in self._beginning:
            return await self._begin(order, offer)  # The second click, before the first is recorded.
        visitor = order.second if _agent_first(offer) else order.first
        if not (self._addresses.admits(peer, now) and self._numbers.admits(visitor.e164, now)):
            return _refused(429, "too_many", (b"retry-after", b"3600"))
        # Counted first: of many that come at once, none is taken yet when the last one is looked at.
        self._addresses.count(peer, now)
        self._numbers.count(visitor.e164, now)
        self._beginning.add(order.idempotency_key)
        reply = None
        try:
            reply = await self._begin(order, offer)
        finally:
            self._beginning.discard(order.idempotency_key)
            if reply is not _BEGUN:
                self._addresses.take_back(peer, now)
                self._numbers.take_back(visitor.e164, now)
        return reply

    async def _begin(self, order: Order, offer: Offer) -> Reply:
        try:
            await self._connector.accept(order)
        except AlreadyRecorded:
            return await self._progress(offer)
        except TooMany as error:
            return _refused(429, "too_many", (b"retry-after", str(error.retry_after_s).encode()))
        except NotNow as error:
            return _refused(503, "busy", (b"retry-after", str(error.retry_after_s).encode()))
        except NumberRefused as error:
            if error.second is _agent_first(offer):
                return _wrong_number(error.code)
            raise BadToken("bad_token", f"the agent's number {error}") from error
        except NotAllowed as error:
            raise BadToken("bad_token", str(error)) from error
        return _BEGUN

    def _order(self, offer: Offer, members: dict[str, object], consent: Consent, now: datetime) -> Order | Reply:
        number = members.get("number")
        written = _international(number, self._terms.country) if isinstance(number, str) else ""
        visitor, agent = ("second", "first") if _agent_first(offer) else ("first", "second")
        claims = {name: value for name, value in offer.members.items() if name in _CLAIMS}
        asked = claims | {f"{visitor}_number": written, f"{agent}_number": offer.members.get("agent")}
        problems: list[Problem] = []
        asked = with_lead(asked, problems.append)
        fields = check_fields(asked, self._rules, 0, NAMES, self._domains)
        if isinstance(fields, list):
            problems += fields
        terms = check_terms(asked, now, self._terms.locales, problems.append)
        of_visitor = [p for p in problems if p.field == f"{visitor}_number" or p.code == "same_number"]
        if len(problems) > len(of_visitor):
            raise BadToken("bad_token", "; ".join(f"{each.field} {each.message}" for each in problems))
        if of_visitor or isinstance(fields, list):
            return _wrong_number(of_visitor[0].code)
        order = Order(
            id=connection_id(now, secrets.randbits(80)),
            created_at=now,
            first=fields.first,
            second=fields.second,
            lead=replace(fields.lead, more=terms.more),
            interval_s=fields.interval_s,
            idempotency_key=_key(offer),
            repeats=Repeats(self._terms.key_lifetime_s),
            caller_id_first=terms.caller_id_first,
            caller_id_second=terms.caller_id_second,
            locale=terms.locale,
            metadata=(
                *terms.metadata,
                ("widget.origin", offer.origin),
                ("widget.consent", consent.version),
                ("widget.consent_text", consent.text),
            ),
        )
        return replace(order, fingerprint=repeats.fingerprint(CALLS, order))

    # --- how it goes ---

    async def _progress(self, offer: Offer) -> Reply:
        found = await self._connector.repeated(self._asked_by(offer))
        if found is None:
            return _refused(404, "failed")
        record = await self._records.connection(ConnectionId(found.connection_id))
        return _refused(404, "failed") if record is None else _told(state_of(record, agent_first=_agent_first(offer)))

    def _asked_by(self, offer: Offer) -> Order:
        """An order that is never carried out: it has the key under which the call of this token is found."""
        now, nobody = self._clock(), PhoneNumber("", "")
        key_lifetime = Repeats(self._terms.key_lifetime_s)
        return Order(
            ConnectionId(""), now, nobody, nobody, Lead(""), 0, idempotency_key=_key(offer), repeats=key_lifetime
        )


_CLAIMS = frozenset({"email", "lead", "interval", "locale", "metadata", "caller_ids"})
"""What a token may say beside whom to call, as in `POST /v1/connections`."""


def _agent_first(offer: Offer) -> bool:
    return offer.members.get("first") == "agent"


def _key(offer: Offer) -> str:
    return f"widget:{offer.id}"


def _international(text: str, country: str) -> str:
    """`text` with the code of `country` where it has none; else, and where that makes no sense, as it is."""
    if text.strip().startswith(("+", "00")) or len(text) > 40:
        return text
    digits = text.translate(str.maketrans("", "", " -.()"))
    if len(digits) < 7 or not (digits.isascii() and digits.isdigit()):
        return text  # Short codes, emergency numbers among them, are judged as they are written.
    try:
        parsed = phonenumbers.parse(digits, country)
    except phonenumbers.NumberParseException:
        return text
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _wrong_number(code: str) -> Reply:
    shown = {"missing": "number_missing", "format": "number_format", "type": "number_format"}
    told = {"field": "number", "code": shown.get(code, "number_refused")}
    return Reply(400, json.dumps(told))


def _refused(status: int, code: str, *headers: Header) -> Reply:
    return Reply(status, json.dumps({"code": code}), headers)


def _told(state: str, status: int = 200) -> Reply:
    return Reply(status, json.dumps({"state": state}))


_BEGUN = _told("starting", 202)
