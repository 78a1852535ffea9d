"""The guard before the application: who comes in, by network, page and key."""

import base64
import ipaddress
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dosvoces.errors import StoreError
from dosvoces.keys import ApiKey, Scope
from dosvoces.store.keys import KeyRing
from dosvoces.web.auth import Guard, Networks
from dosvoces.web.keyring import FRESH_S, NOTE_USE_EVERY, PATIENCE_S, SPARED_S, Keyring
from dosvoces.web.origin import Origins
from tests.keys import a_key
from tests.web_fakes import FakeConnector, FakeReadiness, app_with

NOW = datetime(2026, 3, 2, tzinfo=UTC)
BODY = {"firstnumber": "+34600000011", "secondnumber": "+34960000022", "email": "ana@milmoh.com"}
CALL, _CALL = a_key("web", Scope.CALL, created_at=NOW)
READ, _READ = a_key("console", Scope.READ, created_at=NOW)
ADMIN, _ADMIN = a_key("boss", Scope.ADMIN, created_at=NOW)
FAR, _FAR = a_key("far", Scope.CALL, created_at=NOW, networks=(ipaddress.ip_network("10.0.0.0/8"),))
GONE, _GONE = a_key("gone", Scope.CALL, created_at=NOW, revoked_at=NOW)
OLD, _OLD = a_key("old", Scope.CALL, created_at=NOW, expires_at=NOW)
UNKNOWN, _ = a_key("unknown")
TRIAL, _TRIAL = a_key("trial", created_at=NOW, test=True)
ALL = [_CALL, _READ, _ADMIN, _FAR, _GONE, _OLD, _TRIAL]


class FakeKeys:
    """The record's keys, with a switch that makes it fail."""

    def __init__(self, keys: list[ApiKey]) -> None:
        self.held, self.reads, self.fails, self.now = keys, 0, False, NOW
        self.uses: list[dict[str, datetime]] = []

    async def ring(self) -> KeyRing:
        self.reads += 1
        if self.fails:
            raise StoreError("away")
        return KeyRing(self.now, list(self.held))

    async def used(self, when: dict[str, datetime]) -> None:
        self.uses.append(when)


class Door:
    """A guarded application, with a clock that is set by hand."""

    def __init__(
        self,
        keys: list[ApiKey],
        *,
        required: bool = False,
        networks: Networks = Networks(),  # noqa: B008  # It is frozen.
        origins: tuple[str, ...] = (),
        peer: str = "192.0.2.9",
    ) -> None:
        self.keys, self.connector, self.at = FakeKeys(keys), FakeConnector(), 0.0
        self.keyring = Keyring(self.keys, required=required, monotonic=lambda: self.at)  # type: ignore[arg-type]
        app = app_with(self.connector, readiness=FakeReadiness(["no trunk is up"]))
        guard = Guard(app, keyring=self.keyring, networks=networks, origins=Origins(origins))
        transport = httpx.ASGITransport(app=guard, client=(peer, 40000))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")

    async def post(self, key: str = "", **headers: str) -> int:
        shown = {"Authorization": f"Bearer {key}"} if key else {}
        answer = await self.client.post("/call", json=BODY, headers={**shown, **headers})
        assert answer.status_code == 200 or "Message" in answer.json()
        return answer.status_code

    async def get(self, path: str, key: str = "", **headers: str) -> int:
        shown = {"X-Api-Key": key} if key else {}
        return (await self.client.get(path, headers={**shown, **headers})).status_code


@pytest.fixture
async def door() -> AsyncIterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(keys: list[ApiKey], **options: object) -> Door:
        made.append(Door(keys, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        await each.keyring.close()
        await each.client.aclose()


Make = Callable[..., Door]


async def test_where_no_key_was_made_none_is_needed(door: Make) -> None:
    assert await door([]).post() == 200


async def test_once_a_key_was_made_one_is_needed_also_when_it_was_revoked(door: Make) -> None:
    assert await door([_GONE]).post() == 401


async def test_keys_can_be_required_before_there_is_one(door: Make) -> None:
    assert await door([], required=True).post() == 401


@pytest.mark.parametrize(
    ("key", "status"),
    [(CALL, 200), (ADMIN, 200), (READ, 403), (FAR, 403), (GONE, 401), (OLD, 401), (UNKNOWN, 401), ("x", 401)],
    ids=["call", "admin", "read", "far", "revoked", "expired", "unknown", "malformed"],  # Keys differ from run to run.
)
async def test_a_key_calls_or_calls_nobody(door: Make, key: str, status: int) -> None:
    at = door(ALL)
    assert await at.post(key) == status
    assert len(at.connector.orders) == (status == 200)


@pytest.mark.parametrize(
    ("key", "status"), [(READ, 404), (ADMIN, 404), (CALL, 403), ("", 401)], ids=["read", "admin", "call", "none"]
)
async def test_reading_takes_the_scope_read(door: Make, key: str, status: int) -> None:
    at = door(ALL)
    assert await at.get("/v1/connections/01m8gcrrkzkq5pr8w64r5rrn30", key) == status


async def test_what_a_test_key_asks_for_is_a_trial_run_and_nothing_else_is(door: Make) -> None:
    at = door(ALL)
    assert [await at.post(TRIAL), await at.post(CALL), await at.post(ADMIN)] == [200, 200, 200]
    assert [order.test for order in at.connector.orders] == [True, False, False]


async def test_a_test_key_looks_and_changes_nothing_but_trial_runs(door: Make) -> None:
    at = door(ALL)
    path = "/v1/connections/01m8gcrrkzkq5pr8w64r5rrn30"
    shown = {"X-Api-Key": TRIAL}
    for method, changed in (("POST", f"{path}/events"), ("DELETE", path), ("POST", "/v1/nodes/drain"), ("PUT", "/")):
        assert (await at.client.request(method, changed, headers=shown)).status_code == 403, changed
    assert [await at.get(path, TRIAL), at.connector.orders] == [404, []]


@pytest.mark.parametrize("shown", [{"X-Api-Key": TRIAL}, {"Authorization": f"Bearer {TRIAL}"}])
async def test_where_no_key_is_needed_a_test_key_of_elsewhere_makes_no_real_call(
    door: Make, shown: dict[str, str]
) -> None:
    at = door([])
    assert [await at.post(**shown), at.connector.orders] == [401, []]


async def test_ending_a_connection_takes_the_scope_call(door: Make) -> None:
    at = door(ALL)
    path = "/v1/connections/01m8gcrrkzkq5pr8w64r5rrn30/cancellation"
    answers = [await at.client.post(path, headers={"X-Api-Key": key}) for key in (READ, CALL)]
    assert [answer.status_code for answer in answers] == [403, 404]


@pytest.mark.parametrize("path", ["/openapi.json", "/nothing", "/v1", "/metrics", "/healthz/", "//healthz", "/HEALTHZ"])
async def test_what_is_not_open_by_name_takes_a_key(door: Make, path: str) -> None:
    assert await door(ALL).get(path) == 401


async def test_health_is_open_and_readiness_without_its_details(door: Make) -> None:
    at = door(ALL)
    assert await at.get("/healthz") == 200
    assert (await at.client.get("/readyz")).json() == {"status": "not ready"}
    assert (await at.client.get("/readyz", headers={"X-Api-Key": CALL})).json() == {"status": "not ready"}
    assert "problems" in (await at.client.get("/readyz", headers={"X-Api-Key": READ})).json()


async def test_this_machine_reads_its_figures_without_a_key_but_no_proxy_on_it_does(door: Make) -> None:
    at = door(ALL, peer="127.0.0.1")
    assert [await at.get("/metrics"), await at.get("/metrics", **{"X-Forwarded-For": "192.0.2.1"})] == [200, 401]


def basic(user: str, password: str = "") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (basic(CALL), 200),
        (basic(CALL, "whatever"), 200),
        ({"X-Api-Key": CALL}, 200),
        ({"Authorization": f"bearer  {CALL} "}, 200),
        ({"Authorization": f"Bearer {CALL}", "X-Api-Key": CALL}, 200),
        ({"Authorization": f"Bearer {CALL}", "X-Api-Key": ADMIN}, 401),
        (basic("admin", CALL), 401),
        ({"Authorization": "Basic ???"}, 401),
        ({"Authorization": CALL}, 401),
        ({"Authorization": f"Digest {CALL}"}, 401),
        ({"Cookie": f"key={CALL}"}, 401),
    ],
)
async def test_how_a_key_is_shown(door: Make, headers: dict[str, str], status: int) -> None:
    assert await door(ALL).post(**headers) == status


async def test_a_key_in_the_address_is_none(door: Make) -> None:
    at = door(ALL)
    assert (await at.client.post(f"/call?key={CALL}&api_key={CALL}", json=BODY)).status_code == 401


async def test_a_401_says_what_is_wanted(door: Make) -> None:
    answer = await door(ALL).client.post("/call", json=BODY)
    assert answer.headers["www-authenticate"] == 'Bearer realm="dosvoces"'
    assert answer.headers["content-type"] == "application/json"


# --- networks ---

INSIDE = Networks((ipaddress.ip_network("10.0.0.0/8"),), (ipaddress.ip_network("10.0.0.1/32"),))


@pytest.mark.parametrize(
    ("peer", "forwarded", "status"),
    [
        ("10.1.2.3", "", 200),
        ("::ffff:10.1.2.3", "", 200),
        ("203.0.113.9", "", 403),
        ("203.0.113.9", "10.1.2.3", 403),
        ("127.0.0.1", "", 403),
        ("10.0.0.1", "203.0.113.9", 403),
        ("10.0.0.1", "10.1.2.3, 203.0.113.9", 403),
        ("10.0.0.1", "203.0.113.9, 10.1.2.3", 200),
        ("10.0.0.1", "nonsense", 403),
        ("10.0.0.1", "", 200),
    ],
)
async def test_where_requests_come_from(door: Make, peer: str, forwarded: str, status: int) -> None:
    at = door([], networks=INSIDE, peer=peer)
    assert await at.post(**({"X-Forwarded-For": forwarded} if forwarded else {})) == status


async def test_a_key_does_not_open_a_network(door: Make) -> None:
    assert await door(ALL, networks=INSIDE).post(CALL) == 403


# --- pages ---


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://evil.example", "service", 403),
        ("null", "service", 403),
        ("https://www.example.com.evil.example", "service", 403),
        ("http://www.example.com", "service", 403),
        ("https://www.example.com", "service", 200),
        ("http://service", "service", 403),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", 200),
        ("http://localhost:8080", "localhost:8080", 200),
        ("http://127.0.0.1:8080", "127.0.0.1:8081", 403),
        ("http://[::1", "[::1", 403),
    ],
)
async def test_only_our_pages_and_those_named_send_requests(door: Make, origin: str, host: str, status: int) -> None:
    at = door([], origins=("https://www.example.com",))
    assert await at.post(Origin=origin, Host=host) == status
    assert len(at.connector.orders) == (status == 200)


async def test_a_named_page_may_read_and_ask_before(door: Make) -> None:
    at = door(ALL, origins=("https://www.example.com",))
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    page = {"Origin": "https://www.example.com"}
    preflight = await at.client.options("/call", headers={**page, **asks})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, page["Origin"])
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for key, status in ((CALL, 200), ("wrong", 401)):
        answer = await at.client.post("/call", json=BODY, headers={**page, "X-Api-Key": key})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, page["Origin"])
    foreign = await at.client.options("/call", headers={"Origin": "https://evil.example", **asks})
    assert (foreign.status_code, "access-control-allow-origin" in foreign.headers) == (403, False)


# --- how fresh the keys are ---


async def test_a_revoked_key_stops_within_a_second(door: Make) -> None:
    at = door([_CALL])
    assert await at.post(CALL) == 200
    at.keys.held = [replace(_CALL, revoked_at=NOW)]
    at.at += FRESH_S
    assert FRESH_S < 1
    assert await at.post(CALL) == 401


async def test_keys_are_not_read_for_every_request(door: Make) -> None:
    at = door([_CALL])
    for _ in range(5):
        assert await at.post(CALL) == 200
    assert at.keys.reads == 1


async def test_an_expiry_comes_by_the_database_s_clock_without_reading_anew(door: Make) -> None:
    text, key = a_key("short", Scope.CALL, created_at=NOW, expires_at=NOW + timedelta(seconds=0.2))
    at = door([key])
    assert await at.post(text) == 200
    at.at += 0.3
    assert (await at.post(text), at.keys.reads) == (401, 1)


async def test_keys_that_cannot_be_read_open_nothing(door: Make) -> None:
    at = door([_CALL])
    assert await at.post(CALL) == 200
    at.keys.fails = True
    at.at += FRESH_S
    assert [await at.post(CALL), await at.post()] == [503, 401]
    at.keys.fails = False
    at.at += SPARED_S + PATIENCE_S
    assert await at.post(CALL) == 200


async def test_where_keys_were_never_read_nobody_comes_in(door: Make) -> None:
    at = door([])
    at.keys.fails = True
    assert (await at.post(), at.connector.orders) == (503, [])


async def test_a_use_is_noted_at_most_once_a_minute(door: Make) -> None:
    at = door([_CALL])
    for _ in range(3):
        await at.post(CALL)
    at.at += NOTE_USE_EVERY.total_seconds()
    at.keys.now += NOTE_USE_EVERY
    await at.post(CALL)
    await at.keyring.close()
    assert at.keys.uses == [{_CALL.id: NOW}, {_CALL.id: NOW + NOTE_USE_EVERY}]


# --- what a refusal says ---


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 401, "key_needed"),
        (UNKNOWN, 401, "key_unknown"),
        (GONE, 401, "key_revoked"),
        (OLD, 401, "key_expired"),
        (FAR, 403, "key_network"),
        (CALL, 403, "scope_missing"),
    ],
)
async def test_a_refusal_is_problem_details_at_v1_and_a_message_elsewhere(
    door: Make, key: str, status: int, code: str
) -> None:
    at = door(ALL)
    shown = {"Authorization": f"Bearer {key}"} if key else {}
    answer = await at.client.get("/v1/connections", headers=shown)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (answer.json()["code"], answer.json()["type"]) == (code, f"/v1/problems/{code}")
    elsewhere = await at.client.get("/openapi.json", headers=shown)
    assert (elsewhere.status_code, list(elsewhere.json())) == (status, ["Message"])
    for challenged in (answer, elsewhere):
        assert ("www-authenticate" in challenged.headers) == (status == 401 or code == "scope_missing")


async def test_a_foreign_page_a_network_and_unreadable_keys_are_told_at_v1_too(door: Make) -> None:
    foreign = await door(ALL).client.get("/v1/connections", headers={"Origin": "https://evil.example"})
    inside = Networks(allow=(ipaddress.ip_network("10.0.0.0/8"),))
    outside = await door(ALL, networks=inside).client.get("/v1/connections")
    away = door(ALL)
    away.keys.fails = True
    unread = await away.client.get("/v1/connections", headers={"X-Api-Key": READ})
    assert [(answer.status_code, answer.json()["code"]) for answer in (foreign, outside, unread)] == [
        (403, "foreign_page"),
        (403, "network_refused"),
        (503, "keys_unreachable"),
    ]
    assert unread.headers["retry-after"] == "5"


# --- whose an idempotency key is ---


async def test_two_clients_under_the_same_idempotency_key_don_t_meet(door: Make) -> None:
    at = door(ALL)
    repeated = {"Idempotency-Key": "order-1"}
    assert [await at.post(key, **repeated) for key in (CALL, ADMIN, CALL, ADMIN)] == [200] * 4
    first, second = at.connector.orders
    assert first.idempotency_key != second.idempotency_key
    assert {str(first.idempotency_key)[8:], str(second.idempotency_key)[8:]} == {"·order-1"}


async def test_a_client_finds_its_answer_again_after_its_key_was_rotated_twice(door: Make) -> None:
    newer, _newer = a_key("web", Scope.CALL, created_at=NOW, replaces=_CALL.id)
    newest, _newest = a_key("web", Scope.CALL, created_at=NOW, replaces=_newer.id)
    at = door([*ALL, _newer, _newest])
    assert [await at.post(key, **{"Idempotency-Key": "order-1"}) for key in (CALL, newer, newest)] == [200] * 3
    assert len(at.connector.orders) == 1


async def test_without_keys_an_idempotency_key_is_kept_as_it_was_sent(door: Make) -> None:
    at = door([])
    assert await at.post(**{"Idempotency-Key": "order-1"}) == 200
    assert [order.idempotency_key for order in at.connector.orders] == ["order-1"]
