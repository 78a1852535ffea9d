"""Trial runs: a test key's connections run the whole house, and ring nobody, whatever trunks there are."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.carriers.trial import HANGS_UP, NO_WAY, REFUSALS, RINGS_FOR_EVER, SLOW, VOICEMAIL, trial_script
from dosvoces.dialplan import NumberRules, check_number
from dosvoces.mail.trial import REFUSED
from dosvoces.model import PhoneNumber, Side
from dosvoces.phone import PhoneEventKind
from dosvoces.store.sql import open_keys
from dosvoces.testing import until
from tests.far_ends import Does, a_call
from tests.house import ANSWERS, EMAIL, FIRST, SECOND, House, Phones, house, lead, process
from tests.keys import make_key
from tests.webhook_receiver import SECRET, Receiver

LIMIT_S = 20.0
BUSY, TAKES_NO_CALLS, BRIEF = "+34600000486", "+34600000603", "+34600009101"
DEAD_MAIL = {"url": "smtp://127.0.0.1:1", "from": "leads@example.com"}
GUIDE = Path(__file__).parent.parent / "docs" / "howto" / "testing.md"


@dataclass
class Clients:
    """Two clients of one service: one with a test key, one with a live key."""

    house: House
    test: httpx.AsyncClient
    live: httpx.AsyncClient

    async def over(self, location: str) -> dict[str, Any]:
        """The resource, once it has its outcome."""
        return await ended(self.test, location)


async def ended(client: httpx.AsyncClient, location: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def is_over() -> bool:
        seen.update((await client.get(location)).raise_for_status().json())
        return seen["outcome"] is not None

    await until(is_over, limit_s=LIMIT_S)
    return seen


async def a_made_key(url: str, name: str, *, test: bool) -> dict[str, str]:
    """The headers that show a new key of the record at `url`."""
    keys = open_keys(url)
    try:
        return {"Authorization": f"Bearer {await make_key(keys, name, test=test)}"}
    finally:
        await keys.close()


@asynccontextmanager
async def clients(folder: Path, **options: Any) -> AsyncIterator[Clients]:
    async with house(folder, **options) as running:
        url = running.service.settings.database.address
        shown = [await a_made_key(url, name, test=name == "test") for name in ("test", "live")]
        await asyncio.sleep(1.0)  # What the door knew before, that there are no keys, holds for that long.
        async with (
            httpx.AsyncClient(base_url=running.service.http_url, timeout=LIMIT_S, headers=shown[0]) as test,
            httpx.AsyncClient(base_url=running.service.http_url, timeout=LIMIT_S, headers=shown[1]) as live,
        ):
            yield Clients(running, test, live)


def an_order(**fields: object) -> dict[str, object]:
    return {"first_number": FIRST, "second_number": SECOND, "email": EMAIL, **fields}


async def test_a_test_key_runs_all_of_a_connection_and_no_phone_at_the_trunk_hears_of_it(tmp_path: Path) -> None:
    async with Receiver.open() as receiver, Phones.open({FIRST: ANSWERS, BRIEF: ANSWERS}) as phones:
        hook = {"name": "main", "url": receiver.url("/main"), "secret": SECRET}
        async with clients(tmp_path, phone=phones.phone, webhooks=[hook], mail=DEAD_MAIL) as running:
            answer = await running.test.post("/call", json=lead(secondnumber=BRIEF))
            assert (answer.status_code, answer.text) == (200, "Data received successfully")
            resource = await running.over(answer.headers["location"])
            assert (resource["test"], resource["outcome"], resource["ended_by"]) == (True, "completed", "b")
            events = (await running.test.get(f"{answer.headers['location']}/events")).json()["data"]
            assert [(event["event"], event["side"]) for event in events] == [
                ("started", None), ("mail_sent", None), ("dialed", "a"), ("ringing", "a"), ("answered", "a"),
                ("dialed", "b"), ("ringing", "b"), ("answered", "b"), ("joined", None), ("ended", "b"), ("ended", "a"),
            ]  # fmt: skip
            (told,) = await receiver.got(1)
            assert (told.verify()["data"]["test"], told.json["data"]["outcome"]) == (True, "completed")
            # The mail server of the settings is no server at all: the mail went to the inbox.
            mail = (await running.test.get(f"{answer.headers['location']}/mail")).json()
            assert (mail["state"], len(mail["kept"])) == ("sent", 1)
            assert phones.seen == []


async def test_a_live_key_beside_it_rings_the_phones(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with clients(tmp_path, phone=phones.phone) as running:
            tried = await running.test.post("/v1/connections", json=an_order())
            made = await running.live.post("/call", json=lead())
            assert (tried.status_code, made.status_code) == (202, 200)
            rung = [event.call.number for _, event in phones.seen if event.kind is PhoneEventKind.RINGING]
            assert sorted(rung) == [FIRST, SECOND]
            shown = {}
            for asked in ("true", "false"):
                page = (await running.live.get("/v1/connections", params={"test": asked})).json()["data"]
                shown[asked] = [f"/v1/connections/{each['id']}" for each in page]
            assert shown == {"true": [tried.headers["location"]], "false": [made.headers["location"]]}
            assert (await running.live.get("/v1/connections", params={"test": "maybe"})).status_code == 400
            metrics = (await running.live.get("/metrics")).text
            assert "\ndosvoces_open_connections 1.0\n" in metrics
            assert "\ndosvoces_open_test_connections 1.0\n" in metrics


async def test_a_trial_run_needs_no_trunk_and_takes_no_room(tmp_path: Path) -> None:
    limits = {"max_connections": 1, "max_open": 1, "max_per_number": 1}
    async with clients(tmp_path, dialing=limits) as running:
        answers = [await running.test.post("/v1/connections", json=an_order()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        refused = await running.live.post("/v1/connections", json=an_order())
        # Nothing but that: neither is the room taken, nor do the numbers count.
        assert (refused.status_code, refused.json()["detail"]) == (
            503,
            "no trunk is configured: add [[trunks]] to dosvoces.toml",
        )


async def test_trial_runs_leave_a_trunk_with_one_call_to_real_ones(tmp_path: Path) -> None:
    trunk = {"name": "fake", "carrier": "fake", "caller_id": "+34910000000", "max_calls": 2}
    async with clients(tmp_path, trunks=[trunk], dialing={"max_open": 1}) as running:
        for _ in range(3):
            assert (await running.test.post("/call", json=lead())).status_code == 200
        assert (await running.live.post("/call", json=lead())).status_code == 200
        assert (await running.live.post("/call", json=lead(firstnumber="+34600000012"))).status_code == 503
        assert (await running.test.post("/call", json=lead())).status_code == 200


async def test_a_real_request_is_no_repeat_of_a_trial_run(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with clients(tmp_path, phone=phones.phone, http={"coalesce": True}) as running:
            tried = [await running.test.post("/call", json=lead()) for _ in range(2)]
            assert tried[0].headers["location"] == tried[1].headers["location"]
            made = await running.live.post("/call", json=lead())
            assert (made.status_code, "idempotent-replayed" in made.headers) == (200, False)
            assert phones.call(SECOND).number == SECOND


@pytest.mark.parametrize(
    ("numbers", "status", "outcome", "reason", "sip_code"),
    [
        ((BUSY, SECOND), 500, "first_busy", "busy", 486),
        ((FIRST, BUSY), 500, "second_busy", "busy", 486),
        ((TAKES_NO_CALLS, SECOND), 500, "first_failed", "rejected", 603),
        ((FIRST, TAKES_NO_CALLS), 200, "second_failed", "rejected", 603),
        (("+34600000480", SECOND), 500, "first_no_answer", "no_answer", 480),
        ((FIRST, "+34600000408"), 200, "second_no_answer", "no_answer", None),
        ((FIRST, "+34600000404"), 500, "second_failed", "unreachable", 404),
        (("+34600000503", SECOND), 500, "first_failed", "failed", 503),
        (("+34600000599", SECOND), 500, "first_failed", "unreachable", None),
        ((BRIEF, "+34600009299"), 200, "first_hung_up", "hangup", 200),
        (("+34600009203", BRIEF), 200, "completed", "hangup", 200),
    ],
)
async def test_what_a_party_does_is_told_by_its_number(
    tmp_path: Path, numbers: tuple[str, str], status: int, outcome: str, reason: str, sip_code: int | None
) -> None:
    async with clients(tmp_path, dialing={"ring_timeout_s": 4}) as running:
        answer = await running.test.post("/call", json=lead(firstnumber=numbers[0], secondnumber=numbers[1]))
        assert answer.status_code == status
        resource = await running.over(answer.headers["location"])
        assert resource["outcome"] == outcome
        side = 1 if outcome.startswith("second") or outcome == "completed" else 0
        assert (resource["legs"][side]["reason"], resource["legs"][side]["sip_code"]) == (reason, sip_code)


async def test_an_address_refuses_its_mail_and_nobody_is_called(tmp_path: Path) -> None:
    async with clients(tmp_path) as running:
        answer = await running.test.post("/call", json=lead(email=f"{REFUSED}@example.com"))
        assert (answer.status_code, answer.json()) == (
            500,
            {"Message": f"Could not send email to {REFUSED}@example.com"},
        )
        resource = (await running.test.get("/v1/connections")).json()["data"][0]
        assert (resource["outcome"], [leg["state"] for leg in resource["legs"]]) == ("mail_failed", ["idle", "idle"])
        mail = (await running.test.get(f"/v1/connections/{resource['id']}/mail")).json()
        assert (mail["state"], mail["kept"]) == ("refused", [])


async def test_a_scheduled_trial_run_begins_as_one_and_can_be_ended(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with clients(tmp_path, phone=phones.phone) as running:
            due = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
            answer = await running.test.post("/v1/connections", json=an_order(not_before=due))
            assert (answer.json()["phase"], answer.json()["test"]) == ("scheduled", True)
            await running.house.journalled("joined")
            location = answer.headers["location"]
            assert (await running.test.post(f"{location}/cancellation")).status_code == 202
            resource = await running.over(location)
            assert (resource["outcome"], resource["test"]) == ("completed", True)
            assert phones.seen == []


async def test_a_test_key_ends_no_real_connection_and_changes_nothing_else(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with clients(tmp_path, phone=phones.phone) as running:
            location = (await running.live.post("/call", json=lead())).headers["location"]
            refused = await running.test.post(f"{location}/cancellation")
            assert (refused.status_code, refused.json()["code"]) == (403, "not_a_trial_run")
            assert (await running.test.get(location)).json()["outcome"] is None
            assert (await running.test.post("/v1/problems/x")).status_code == 403
            assert (await running.live.post(f"{location}/cancellation")).status_code == 202
            keys = open_keys(running.house.service.settings.database.address)
            (act, *_), held = await keys.acts(limit=1), (await keys.ring()).keys
            await keys.close()
            (live,) = [key.id for key in held if key.name == "live"]
            assert (act.who, act.what, act.subject) == (f"key {live} live", "connection.hangup", location[-26:])


async def test_a_test_key_of_another_service_rings_nobody_where_no_key_is_needed(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with house(tmp_path, phone=phones.phone) as running:
            shown = {"X-Api-Key": "dv_test_00000000000000000000000000abcd"}
            assert (await running.client.post("/call", json=lead(), headers=shown)).status_code == 401
            assert phones.seen == []
            assert (await running.post()).status_code == 200


async def test_after_a_crash_a_trial_run_is_settled_and_one_that_waits_is_begun_as_such(tmp_path: Path) -> None:
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        url = f"sqlite:///{tmp_path}/record.db"
        async with process(tmp_path, phones.phone) as serving:
            shown = await a_made_key(url, "test", test=True)
            await asyncio.sleep(1.0)
            async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S, headers=shown) as client:
                up = (await client.post("/call", json=lead())).headers["location"]
                due = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
                later = (await client.post("/v1/connections", json=an_order(not_before=due))).headers["location"]
                await serving.joined()
            serving.signal(signal.SIGKILL)
            await serving.ended()
        async with process(tmp_path, phones.phone) as serving:
            async with httpx.AsyncClient(base_url=serving.url, timeout=LIMIT_S, headers=shown) as client:
                left = await ended(client, up)
                assert (left["outcome"], left["test"]) == ("interrupted", True)
                begun = await ended(client, later)
                assert (begun["outcome"], begun["test"]) == ("completed", True)
        assert phones.seen == []


# --- the numbers, without a service ---


def a_party(ending: str) -> PhoneNumber:
    number = check_number(f"+3460000{ending}", NumberRules())
    assert isinstance(number, PhoneNumber), ending
    return number


ENDINGS = [*REFUSALS, RINGS_FOR_EVER, NO_WAY, VOICEMAIL, f"{HANGS_UP}05", f"{SLOW}05"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_explained_and_belongs_to_numbers_that_may_be_dialled(ending: str) -> None:
    assert a_party(ending).e164.endswith(ending)
    named = ending if ending not in (f"{HANGS_UP}05", f"{SLOW}05") else f"{ending[:2]}SS"
    assert f"`…{named}`" in GUIDE.read_text("utf-8")


def test_a_voicemail_takes_the_call_and_ends_it_by_itself() -> None:
    call = a_call(1, Side.A, Does.ANSWERS)
    script = trial_script(type(call)(call.connection_id, Side.A, a_party(VOICEMAIL)))
    assert (script.answers_after_s, script.hangs_up_after_s, script.detail) == (5.0, 20.0, "voicemail")
