"""Webhooks and connections that wait, in the whole service, through its HTTP port and at a real receiver."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
