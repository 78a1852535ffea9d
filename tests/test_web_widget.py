"""The widget's addresses: who may call, whom, how often, and what they are told."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from dosvoces.dialplan import NumberRules
from dosvoces.dialplan.hours import CallingHours, opening
from dosvoces.errors import NotNow, NumberRefused, TooMany
from dosvoces.keys import address_of
from dosvoces.model import Order
from dosvoces.store import ConnectionRecord
from dosvoces.web.auth import Guard, Networks
from dosvoces.web.origin import Origins
from dosvoces.web.tokens import seal
from dosvoces.web.widget import PATHS, Widget, WidgetTerms
from dosvoces.web.widget_hours import Hourly
from dosvoces.web.widget_states import state_of
from dosvoces.web.widget_texts import LOCALES, WidgetTexts
from tests.test_web_api import records
from tests.web_fakes import NOW, RULES, FakeConnector, FakeRecords

PAGE = "https://www.example.com"
OTHER_PAGE = "https://other.example.com"
SECRET = "s" * 32
VISITOR, AGENT = "+34600000011", "+34960000022"
TEXTS = WidgetTexts(controller="Casas Claras, S. L.", privacy_url="https://www.example.com/privacy")
CONSENT = next(consent for consent in TEXTS.consents.values() if consent.locale == "es")


def token(secret: str = SECRET, **claims: object) -> str:
    fixed = {
        "jti": "call-0000000000001",
        "exp": int(NOW.timestamp()) + 600,
        "origin": PAGE,
        "agent": AGENT,
        "email": "ana@example.com",
        "lead": {"property_name": "Ático", "rooms": 3},
        "locale": "es",
    }
    return seal({k: v for k, v in (fixed | claims).items() if v is not None}, secret.encode())


@dataclass
class Door:
    """The widget behind the guard of a service that needs API keys."""

    connector: FakeConnector = field(default_factory=FakeConnector)
    records: FakeRecords = field(default_factory=FakeRecords)
    per_address: int = 10
    per_number: int = 3
    rules: NumberRules = RULES

    def __post_init__(self) -> None:
        terms = WidgetTerms(
            secrets=(b"older" * 8, SECRET.encode()),
            origins=frozenset({PAGE, OTHER_PAGE}),
            country="ES",
            per_address=self.per_address,
            per_number=self.per_number,
            locales=frozenset({"es", "en"}),
            key_lifetime_s=24 * 3600,
        )
        parts: Any = {"connector": self.connector, "records": self.records, "rules": self.rules}
        widget = Widget(terms, TEXTS, **parts, clock=lambda: NOW)
        no_keyring: Any = None  # It is never asked.
        guard = Guard(widget, keyring=no_keyring, networks=Networks(), origins=Origins(), public=PATHS)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://dosvoces")

    async def call(self, page: str = PAGE, **members: object) -> httpx.Response:
        asked = {"token": token(), "number": VISITOR, "consent": CONSENT.version} | members
        return await self.client.post("/widget/calls", json=asked, headers={"origin": page})

    async def progress(self, shown: str | None = None, page: str = PAGE) -> httpx.Response:
        return await self.client.post("/widget/progress", json={"token": shown or token()}, headers={"origin": page})


def record_of() -> ConnectionRecord:
    (record,) = records().records.values()
    return record


def told(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    return answer.status_code, answer.json()


async def test_a_call_is_made_of_the_token_and_the_visitors_number() -> None:
    door = Door()
    answer = await door.call(number="600 000 011")
    assert told(answer) == (202, {"state": "starting"})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["cache-control"] == "no-store"
    (order,) = door.connector.orders
    assert (order.first.e164, order.second.e164, order.lead.email) == (VISITOR, AGENT, "ana@example.com")
    assert (order.lead.property_name, order.lead.more, order.locale) == ("Ático", (("rooms", "3"),), "es")
    assert order.idempotency_key == "widget:call-0000000000001"
    assert order.metadata == (
        ("widget.origin", PAGE),
        ("widget.consent", CONSENT.version),
        ("widget.consent_text", CONSENT.text),
    )


async def test_the_agent_may_be_rung_first() -> None:
    door = Door()
    assert (await door.call(token=token(first="agent"))).status_code == 202
    (order,) = door.connector.orders
    assert (order.first.e164, order.second.e164) == (AGENT, VISITOR)


async def test_a_visitor_cannot_say_whom_to_ring() -> None:
    door = Door()
    await door.call(agent="+34611111111", second_number="+34611111111", email="eve@example.com", first="agent")
    (order,) = door.connector.orders
    assert (order.first.e164, order.second.e164, order.lead.email) == (VISITOR, AGENT, "ana@example.com")


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        (token("x" * 32), "bad_token"),
        (token(origin=OTHER_PAGE), "bad_token"),
        (token(exp=int(NOW.timestamp()) - 1), "expired"),
        (token(exp=int((NOW + timedelta(hours=1)).timestamp())), "bad_token"),
        (token(agent="+34807000000"), "bad_token"),
        (token(agent=None), "bad_token"),
        (token(email="nobody"), "bad_token"),
        ("", "bad_token"),
        (7, "bad_token"),
    ],
)
async def test_a_token_that_is_not_good_opens_nothing(shown: object, code: str) -> None:
    door = Door()
    assert told(await door.call(token=shown)) == (403, {"code": code})
    assert door.connector.orders == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("", "number_missing"),
        ("me", "number_format"),
        ("112", "number_refused"),
        ("+34112", "number_refused"),
        ("807 000 000", "number_refused"),
        ("+447911123456", "number_refused"),
        ("+34960000000", "number_refused"),
        (AGENT, "number_refused"),
        ("12345", "number_refused"),
    ],
)
async def test_what_may_not_be_called_is_not(number: str, code: str) -> None:
    door = Door()
    assert told(await door.call(number=number)) == (400, {"field": "number", "code": code})
    assert door.connector.orders == []


@pytest.mark.parametrize("consent", [None, "", "es-000000000000", True])
async def test_without_the_consent_of_now_nobody_is_called(consent: object) -> None:
    door = Door()
    assert told(await door.call(consent=consent)) == (400, {"code": "expired"})
    assert door.connector.orders == []


async def test_a_token_makes_one_call() -> None:
    door = Door()
    await door.call()
    door.records.records[door.connector.orders[0].id] = replace(record_of(), phase="ringing_first", outcome=None)
    again = await door.call()
    other = await door.call(number="+34600000099")
    assert [told(again), told(other)] == [(200, {"state": "calling_visitor"}), (409, {"code": "used"})]
    assert len(door.connector.orders) == 1


async def test_an_address_and_a_number_have_their_limits() -> None:
    door = Door(per_address=4, per_number=2)
    numbers = [VISITOR, VISITOR, VISITOR, "+34600000012", "+34600000013", "+34600000014"]
    answers = [
        (await door.call(token=token(jti=f"call-{index:016}"), number=number)).status_code
        for index, number in enumerate(numbers)
    ]
    assert answers == [202, 202, 429, 202, 202, 429]


async def test_what_is_not_tried_counts_for_nothing() -> None:
    door = Door(FakeConnector(NotNow("full", retry_after_s=7)), per_number=1)
    for _ in range(2):
        answer = await door.call()
        assert (told(answer), answer.headers["retry-after"]) == ((503, {"code": "busy"}), "7")


async def test_many_at_once_have_the_same_limits() -> None:
    """None of them is recorded yet when the last one is looked at."""
    door = Door(FakeConnector(gate=asyncio.Event()), per_number=2)
    asked = [asyncio.create_task(door.call(token=token(jti=f"call-{index:016}"))) for index in range(6)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert done
    assert {answer.result().status_code for answer in done} == {429}
    assert door.connector.gate is not None
    door.connector.gate.set()
    assert sorted([answer.status_code for answer in await asyncio.gather(*asked)]) == [202] * 2 + [429] * 4


async def test_a_second_click_before_the_first_is_recorded_is_the_same_call() -> None:
    door, recorded = Door(per_number=1), asyncio.Event()
    begin = door.connector.accept

    async def accept(order: Order) -> None:
        await recorded.wait()
        await begin(order)
        door.records.records[order.id] = replace(record_of(), phase="ringing_first", outcome=None)

    door.connector.accept = accept  # type: ignore[method-assign]
    asked = [asyncio.create_task(door.call()) for _ in range(2)]
    await asyncio.wait(asked, timeout=0.1)
    recorded.set()
    assert [told(answer) for answer in await asyncio.gather(*asked)] == [
        (202, {"state": "starting"}),
        (200, {"state": "calling_visitor"}),
    ]
    assert len(door.connector.orders) == 1


async def test_nobody_is_called_at_an_hour_that_is_not_one_for_both() -> None:
    hours = CallingHours((opening("ES mon-sun 03:00-04:00"),))
    door = Door(rules=replace(RULES, hours=hours))
    assert told(await door.call()) == (503, {"code": "closed"})
    assert door.connector.orders == []


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("visitor", False, (400, {"field": "number", "code": "number_refused"})),
        ("agent", True, (400, {"field": "number", "code": "number_refused"})),
        ("visitor", True, (403, {"code": "bad_token"})),
    ],
)
async def test_a_visitor_on_the_do_not_call_list_is_told_so(first: str, second: bool, said: object) -> None:
    refused = NumberRefused("is on the do-not-call list", code="do_not_call", second=second)
    claims = {"first": "agent"} if first == "agent" else {}
    assert told(await Door(FakeConnector(refused)).call(token=token(**claims))) == said


async def test_the_ceilings_of_all_nodes_count_too() -> None:
    answer = await Door(FakeConnector(TooMany("ceiling", retry_after_s=60))).call()
    assert (told(answer), answer.headers["retry-after"]) == ((429, {"code": "too_many"}), "60")


async def test_foreign_pages_get_nothing() -> None:
    door = Door()
    for headers in ({}, {"origin": "https://evil.example"}, {"origin": "null"}):
        answer = await door.client.post("/widget/calls", json={"token": token()}, headers=headers)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)
    preflight = await door.client.options("/widget/calls", headers={"origin": "https://evil.example"})
    assert (preflight.status_code, preflight.headers.get("access-control-allow-origin")) == (403, None)
    assert door.connector.orders == []


async def test_a_browser_may_ask_before_it_asks() -> None:
    answer = await Door().client.options(
        "/widget/calls", headers={"origin": PAGE, "access-control-request-method": "POST"}
    )
    shown = {name: value for name, value in answer.headers.items() if name.startswith("access-control")}
    assert (answer.status_code, shown) == (
        204,
        {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "content-type",
            "access-control-max-age": "600",
        },
    )


async def test_how_a_call_goes_is_told_to_its_token_only() -> None:
    door = Door()
    await door.call()
    door.records.records[door.connector.orders[0].id] = replace(record_of(), phase="joined", outcome=None)
    assert told(await door.progress()) == (200, {"state": "joined"})
    assert told(await door.progress(token(jti="call-0000000000002"))) == (404, {"code": "failed"})
    assert told(await door.progress(token("x" * 32))) == (403, {"code": "bad_token"})
    assert told(await door.progress(page=OTHER_PAGE)) == (403, {"code": "bad_token"})
    # A conversation outlasts its token.
    old = token(exp=int(NOW.timestamp()) - 3600)
    assert told(await door.progress(old)) == (200, {"state": "joined"})


async def test_the_module_is_for_every_page_and_kept_by_browsers() -> None:
    door = Door()
    got = await door.client.get("/widget.js", headers={"origin": "https://anywhere.example"})
    again = await door.client.get("/widget.js", headers={"if-none-match": got.headers["etag"]})
    assert (got.status_code, again.status_code, again.content) == (200, 304, b"")
    assert got.headers["content-type"] == "text/javascript; charset=utf-8"
    assert got.headers["access-control-allow-origin"] == "*"
    assert "Casas Claras, S. L." in got.text
    assert (await door.client.post("/widget.js")).status_code == 405


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"token": 1, "token": 2}', b"x" * 70_000])
async def test_what_is_no_request_is_refused(body: bytes) -> None:
    headers = {"origin": PAGE, "content-type": "application/json"}
    answer = await Door().client.post("/widget/calls", content=body, headers=headers)
    assert told(answer) == (400, {"code": "failed"})


def test_every_language_says_all_of_it() -> None:
    names = {locale: set(TEXTS._texts[locale]) for locale in LOCALES}
    assert {locale: names["en"] ^ names[locale] for locale in LOCALES} == {locale: set() for locale in LOCALES}
    assert len(TEXTS.consents) == len(LOCALES)
    other = WidgetTexts(controller="Another", privacy_url="https://www.example.com/privacy")
    assert not set(other.consents) & set(TEXTS.consents)


@pytest.mark.parametrize(
    ("phase", "visitor_first", "agent_first"),
    [
        ("scheduled", "starting", "starting"),
        ("recorded", "starting", "starting"),
        ("mailing", "starting", "starting"),
        ("dialing_first", "calling_visitor", "calling_agent_first"),
        ("ringing_first", "calling_visitor", "calling_agent_first"),
        ("waiting", "visitor_answered", "calling_agent_first"),
        ("dialing_second", "calling_agent", "calling_visitor"),
        ("ringing_second", "calling_agent", "calling_visitor"),
        ("joining", "joined", "joined"),
        ("joined", "joined", "joined"),
        ("releasing", "starting", "starting"),
    ],
)
def test_states_while_it_goes(phase: str, visitor_first: str, agent_first: str) -> None:
    record = replace(record_of(), phase=phase, outcome=None, joined_at=None)
    assert states(record) == (visitor_first, agent_first)


@pytest.mark.parametrize(
    ("outcome", "visitor_first", "agent_first"),
    [
        ("completed", "ended", "ended"),
        ("cancelled", "cancelled", "cancelled"),
        ("first_busy", "visitor_unreached", "agent_unreached"),
        ("first_no_answer", "visitor_unreached", "agent_unreached"),
        ("first_failed", "visitor_unreached", "agent_unreached"),
        ("first_hung_up", "ended", "agent_unreached"),
        ("second_busy", "agent_unreached", "visitor_unreached"),
        ("second_hung_up", "agent_unreached", "ended"),
        ("mail_failed", "failed", "failed"),
        ("interrupted", "failed", "failed"),
        ("refused", "failed", "failed"),
    ],
)
def test_states_in_the_end(outcome: str, visitor_first: str, agent_first: str) -> None:
    assert states(replace(record_of(), phase="ended", outcome=outcome)) == (visitor_first, agent_first)


def states(record: ConnectionRecord) -> tuple[str, str]:
    return state_of(record, agent_first=False), state_of(record, agent_first=True)


def test_an_ipv6_customer_counts_once_and_an_hour_passes() -> None:
    hourly = Hourly(1)
    one, neighbour, other = map(address_of, ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"))
    hourly.count(one, NOW)
    assert [hourly.admits(who, NOW) for who in (one, neighbour, other)] == [False, False, True]
    assert hourly.admits(one, NOW + timedelta(hours=1))
