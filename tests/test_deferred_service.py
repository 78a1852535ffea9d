"""Webhooks and connections that wait, in the whole service, through its HTTP port and at a real receiver."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dosvoces.model import ConnectionId
from dosvoces.testing import until
from tests.house import ANSWERS, EMAIL, FIRST, SECOND, House, Phones, house
from tests.webhook_receiver import SECRET, Receiver

LIMIT_S = 20.0
FAKE: list[dict[str, object]] = [{"name": "fake", "carrier": "fake", "caller_id": "+34910000000"}]


def an_order(**fields: object) -> dict[str, object]:
    return {"first_number": FIRST, "second_number": SECOND, "email": EMAIL, **fields}


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def hook(receiver: Receiver, name: str = "main", **more: object) -> dict[str, object]:
    return {"name": name, "url": receiver.url(f"/{name}"), "secret": SECRET, **more}


async def ended(running: House, location: str) -> dict[str, Any]:
    """The resource, once it has its outcome."""
    seen: dict[str, Any] = {}

    async def over() -> bool:
        seen.update((await running.client.get(location)).json())
        return seen["outcome"] is not None

    await until(over, limit_s=LIMIT_S)
    return seen


async def test_a_webhook_tells_how_a_connection_ended(tmp_path: Path) -> None:
    async with Receiver.open() as receiver, Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        async with house(tmp_path, phone=phones.phone, webhooks=[hook(receiver)]) as running:
            answer = await running.post()
            assert answer.status_code == 200
            await running.journalled("joined")
            phones.call(SECOND).hang_up()
            (message,) = await receiver.got(1)
            said = message.verify()
            resource = await ended(running, answer.headers["location"])
            data = said.pop("data")
            assert said == {"type": "connection.ended", "timestamp": resource["ended_at"]}
            assert message.id == f"{resource['id']}.1"
            assert message.headers["content-type"] == "application/json"
            for name in ("id", "outcome", "phase", "ended_by", "interval_s", "created_at", "joined_at", "ended_at"):
                assert data[name] == resource[name]
            assert (data["first_number"], data["second_number"], data["email"]) == (FIRST, SECOND, EMAIL)
            assert [(leg["side"], leg["number"], leg["reason"]) for leg in data["legs"]] == [
                ("a", FIRST, "hangup"),
                ("b", SECOND, "hangup"),
            ]


async def test_webhooks_of_one_connection_come_numbered_and_each_endpoint_gets_its_events(tmp_path: Path) -> None:
    every = ["lead.email.sent", "connection.leg.ringing", "connection.leg.answered", "connection.joined"]
    async with Receiver.open() as receiver:
        hooks = [hook(receiver, "all", events=[*every, "connection.ended"]), hook(receiver, "end")]
        async with house(tmp_path, trunks=FAKE, webhooks=hooks) as running:
            answer = await running.post()
            assert answer.status_code == 200
            connection = ConnectionId(answer.headers["location"].rpartition("/")[2])
            await running.journalled("joined")
            running.service.switchboard.cancel(connection, by="test")
            (end,) = await receiver.got(1, path="/end")
            told = [message.verify() for message in await receiver.got(7, path="/all")]
            told.sort(key=lambda said: said["data"]["sequence"])
            assert [(said["data"]["sequence"], said["type"], said["data"]["side"]) for said in told] == [
                (1, "lead.email.sent", None),
                (2, "connection.leg.ringing", "a"),
                (3, "connection.leg.answered", "a"),
                (4, "connection.leg.ringing", "b"),
                (5, "connection.leg.answered", "b"),
                (6, "connection.joined", None),
                (7, "connection.ended", None),
            ]
            assert end.json == told[-1]


async def test_a_scheduled_connection_begins_at_its_time(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        due = ahead(1.5)
        answer = await running.client.post("/v1/connections", json=an_order(not_before=due, property_name="Ático"))
        assert answer.status_code == 202
        resource = answer.json()
        assert resource["phase"] == "scheduled"
        assert datetime.fromisoformat(resource["not_before"]) == datetime.fromisoformat(due)
        location = answer.headers["location"]
        assert (await running.client.get(location)).json() == resource
        await running.journalled("joined")
        events = (await running.client.get(f"{location}/events")).json()["data"]
        (started,) = [entry["at"] for entry in events if entry["event"] == "started"]
        late = datetime.fromisoformat(started) - datetime.fromisoformat(due)
        assert timedelta() <= late < timedelta(seconds=5)


async def test_who_a_request_names_is_told_of_that_connection_alone(tmp_path: Path) -> None:
    urls: dict[str, object] = {"secret": SECRET, "networks": ["127.0.0.0/8"]}
    async with Receiver.open() as receiver:
        async with house(tmp_path, trunks=FAKE, webhooks=[hook(receiver)], webhook_urls=urls) as running:
            own = receiver.url("/own?token=1")
            answer = await running.client.post("/v1/connections", json=an_order(webhook_url=own))
            assert (answer.status_code, answer.json()["webhook_url"]) == (202, own)
            other = await running.client.post("/v1/connections", json=an_order(interval=1))
            assert other.json()["webhook_url"] is None
            for each in (answer, other):
                await running.client.post(f"{each.headers['location']}/cancellation")
            await receiver.got(2, path="/main")
            seen = await ended(running, answer.headers["location"])

            async def told() -> bool:
                return any(message.json["type"] == "connection.ended" for message in receiver.at("/own?token=1"))

            await until(told, limit_s=LIMIT_S)
            said = [message.verify() for message in receiver.at("/own?token=1")]
            assert {each["data"]["id"] for each in said} == {seen["id"]}
            assert [each["data"]["sequence"] for each in said] == list(range(1, len(said) + 1))
            assert said[-1]["data"]["webhook_url"] == seen["webhook_url"] == own


async def test_a_name_that_leads_near_is_given_up_and_nothing_is_connected_to(tmp_path: Path) -> None:
    """An order with a list of hosts that has this machine's own name: whoever asks has no say in where it leads."""
    urls: dict[str, object] = {"secret": SECRET, "hosts": ["x.localhost", "localhost"], "networks": ["10.0.0.0/8"]}
    async with Receiver.open() as receiver, house(tmp_path, trunks=FAKE, webhook_urls=urls) as running:
        order = an_order(webhook_url=f"https://localhost:{receiver.port}/")
        answer = await running.client.post("/v1/connections", json=order)
        assert answer.status_code == 202
        await running.client.post(f"{answer.headers['location']}/cancellation")
        connection = ConnectionId(answer.json()["id"])

        async def given_up() -> bool:
            found = await running.service.store.reports.deliveries_of(connection)
            return any(each.event == "connection.ended" and each.state == "abandoned" for each in found)

        await until(given_up, limit_s=LIMIT_S)
        for each in await running.service.store.reports.deliveries_of(connection):
            assert each.tries == 1
            assert each.answer.startswith("not sent: localhost is ")
        assert receiver.connections == 0


@pytest.mark.parametrize(
    ("urls", "code"), [({}, "not_configured"), ({"secret": SECRET}, "not_allowed"), ({"secret": SECRET}, "type")]
)
async def test_what_may_not_be_named_is_refused(tmp_path: Path, urls: dict[str, object], code: str) -> None:
    async with house(tmp_path, trunks=FAKE, webhook_urls=urls) as running:
        order = an_order(webhook_url=7 if code == "type" else "https://127.0.0.1/")
        answer = await running.client.post("/v1/connections", json=order)
        assert answer.status_code == 400
        (problem,) = answer.json()["errors"]
        assert (problem["field"], problem["code"]) == ("webhook_url", code)
        assert (await running.client.get("/v1/connections")).json()["data"] == []


async def test_a_scheduled_connection_can_be_cancelled_and_that_is_told(tmp_path: Path) -> None:
    async with Receiver.open() as receiver:
        async with house(tmp_path, trunks=FAKE, webhooks=[hook(receiver)]) as running:
            answer = await running.client.post("/v1/connections", json=an_order(not_before=ahead(3600)))
            location = answer.headers["location"]
            cancelled = await running.client.post(f"{location}/cancellation")
            assert cancelled.status_code == 202
            assert (cancelled.json()["phase"], cancelled.json()["outcome"]) == ("ended", "cancelled")
            assert (await running.client.post(f"{location}/cancellation")).status_code == 200
            (message,) = await receiver.got(1)
            assert message.verify()["data"]["outcome"] == "cancelled"
            assert message.json["data"]["ended_by"] == "api"


async def test_a_connection_for_now_begins_without_waiting_for_anybody(tmp_path: Path) -> None:
    async with house(tmp_path, trunks=FAKE) as running:
        answer = await running.client.post("/v1/connections", json=an_order())
        assert answer.status_code == 202
        assert answer.json()["phase"] != "queued"
        await running.journalled("joined")
        assert running.service.dispatcher.problems() == []
        assert "dbos" not in sys.modules or not (tmp_path / "record.db.work").exists()


IMPORT_UNDER_LOAD = """
import threading
import dosvoces.app
from sqlalchemy import bindparam

imported, failed = threading.Event(), []

def ask():
    while not imported.wait(0.001) and not failed:
        try:
            bindparam("names", expanding=True)
        except Exception as error:
            failed.append(error)

asking = threading.Thread(target=ask)
asking.start()
import dosvoces.deferred.engine
imported.set()
asking.join()
print(failed)
"""


def test_the_record_can_be_asked_while_the_engine_is_imported() -> None:
    """As the service does it: on a thread, while others ask."""
    done = subprocess.run([sys.executable, "-c", IMPORT_UNDER_LOAD], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
