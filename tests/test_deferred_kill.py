"""
What deferred work survives: processes killed (-9) while it waits and while it is done, on both databases.

Each documented call of DBOS that this rests on (`list_workflows` by executor, `resume_workflow`, the delay of an
enqueued one) is needed for one of these to pass.
"""

import asyncio
import json
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.model import EndReason, Outcome
from dosvoces.store.reports import ENDED
from dosvoces.store.sql import open_store
from dosvoces.testing import T0, an_order, until
from tests.house import HOST, LIMIT_S, Process, Sections, lead, process
from tests.peers.smtp_server import FaultySmtp, Stall
from tests.test_deferred_service import FAKE, ahead, hook
from tests.test_deferred_service import an_order as a_request
from tests.webhook_receiver import Answer, Message, Receiver

TAKEOVER_S = 20.0  # issue: the dead node's work goes on elsewhere within that
HANGS = Answer(status=None)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Sections:
    if request.param == "postgresql":
        return {"url": str(request.getfixturevalue("postgres_url"))}
    return {"url": f"sqlite:///{tmp_path / 'record.db'}"}


def serving(
    folder: Path, database: Sections, hooks: Sequence[Sections] = (), *, crash_at: str = "", **sections: Any
) -> AbstractAsyncContextManager[Process]:
    """A service that rings nobody."""
    return process(folder, None, FAKE, crash_at=crash_at, database=database, webhooks=hooks, **sections)


async def post(node: Process, path: str, body: Mapping[str, object]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=node.url, timeout=3 * LIMIT_S) as client:
        return await client.post(path, json=body)


async def get(node: Process, path: str) -> Any:
    async with httpx.AsyncClient(base_url=node.url, timeout=3 * LIMIT_S) as client:
        return (await client.get(path)).json()


async def a_call_that_ends(node: Process) -> str:
    """Its id; it is cancelled as soon as it is answered."""
    location = (await post(node, "/call", lead())).headers["location"]
    assert (await post(node, f"{location}/cancellation", {})).status_code in (200, 202)
    return location.rpartition("/")[2]


async def killed(node: Process) -> None:
    node.signal(signal.SIGKILL)
    assert await node.ended() == -signal.SIGKILL


def same(messages: Sequence[Message], connection: str) -> bool:
    """Whether these are one message, as its receiver sees it."""
    for message in messages:
        message.verify()
    return {(message.id, message.body) for message in messages} == {(f"{connection}.1", messages[0].body)}


async def test_a_webhook_whose_answer_was_not_written_down_is_sent_again_with_its_id(
    tmp_path: Path, database: Sections
) -> None:
    async with Receiver.open() as receiver:
        async with serving(tmp_path, database, [hook(receiver)], crash_at="k25_webhook_sent") as node:
            connection = await a_call_that_ends(node)
            assert await node.ended() == -signal.SIGKILL
        assert len(receiver.received) == 1
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            assert same(await receiver.got(2), connection)
            # And that was all: whatever was still to come would be sent before the next one.
            last = await a_call_that_ends(node)
            messages = await receiver.got(3)
            assert [message.id for message in messages] == [f"{connection}.1", f"{connection}.1", f"{last}.1"]


async def test_a_webhook_killed_in_flight_is_sent_again_with_its_id(tmp_path: Path, database: Sections) -> None:
    async with Receiver.open({"/main": [HANGS]}) as receiver:
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            connection = await a_call_that_ends(node)
            await receiver.got(1)
            await killed(node)
        async with serving(tmp_path, database, [hook(receiver)]):
            assert same(await receiver.got(2), connection)


async def test_an_outcome_whose_webhook_nobody_submitted_is_told_after_the_restart(
    tmp_path: Path, database: Sections
) -> None:
    """As a process leaves it that dies between writing the outcome and passing its report on."""
    store = open_store(str(database["url"]), reported=[ENDED])
    await store.open()
    order = an_order()
    await store.record(order)
    over = Connection(Terms(), a=Leg(LegState.ENDED, T0, None, None, T0, True, EndReason.BUSY, "486"))
    await store.settle(order.id, over, Outcome.FIRST_BUSY, at=T0)
    await store.close()
    async with Receiver.open() as receiver, serving(tmp_path, database, [hook(receiver)]):
        (message,) = await receiver.got(1)
        assert message.verify()["data"]["outcome"] == "first_busy"
        assert message.id == f"{order.id}.1"


async def test_a_retry_that_waits_is_made_by_the_next_process(tmp_path: Path, database: Sections) -> None:
    async with Receiver.open({"/main": [Answer(503)]}) as receiver:
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            connection = await a_call_that_ends(node)
            await receiver.got(1)

            async def noted() -> bool:
                return any('"webhook tried"' in line for line in node.lines)

            await until(noted, limit_s=LIMIT_S)
            await killed(node)
        async with serving(tmp_path, database, [hook(receiver)]):
            first, second = await receiver.got(2)
            assert same([first, second], connection)
            assert second.at - first.at > 3.5  # Five seconds, a fifth more or less.


async def test_a_scheduled_connection_begins_after_a_restart(tmp_path: Path, database: Sections) -> None:
    async with Receiver.open() as receiver:
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            answer = await post(node, "/v1/connections", a_request(not_before=ahead(2)))
            assert answer.status_code == 202
            await killed(node)
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            location = answer.headers["location"]

            async def joined() -> bool:
                return bool((await get(node, location))["joined_at"])

            await until(joined, limit_s=LIMIT_S)
            events = [entry["event"] for entry in (await get(node, f"{location}/events"))["data"]]
            assert events.count("started") == 1


async def test_an_outcome_mail_killed_in_flight_is_handed_over_again_with_its_id(
    tmp_path: Path, database: Sections
) -> None:
    """The lead's mail passes; of the one about the outcome the answer to the final dot never comes."""
    async with FaultySmtp({"dot": [None, Stall()]}) as server:
        url = f"smtp://{HOST}:{server.port}?tls=none"
        mail: Sections = {"url": url, "from": "Dosvoces <leads@example.com>", "outcome": "always", "locale": "en"}
        async with serving(tmp_path, database, mail=mail) as node:
            connection = await a_call_that_ends(node)
            async with asyncio.timeout(LIMIT_S):
                await server.met("dot")
            await killed(node)
        async with serving(tmp_path, database, mail=mail):

            async def again() -> bool:
                return len(server.received) == 2

            await until(again, limit_s=LIMIT_S)
        _lead, outcome = server.received
        assert f"Message-ID: <{connection}.outcome@example.com>".encode() in outcome.content


async def test_another_node_goes_on_with_what_a_dead_one_had_begun(tmp_path: Path, postgres_url: str) -> None:
    database: Sections = {"url": postgres_url}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    async with Receiver.open({"/main": [HANGS]}) as receiver:
        async with serving(folders[0], database, [hook(receiver)]) as one:
            connection = await a_call_that_ends(one)
            await receiver.got(1)
            async with serving(folders[1], database, [hook(receiver)]):
                later = await post(one, "/v1/connections", a_request(not_before=ahead(3)))
                killed_at = asyncio.get_running_loop().time()
                await killed(one)
                messages = await receiver.got(2)
                assert same(messages, connection)
                assert messages[-1].at - killed_at < TAKEOVER_S
                assert later.status_code == 202


async def test_a_request_that_finds_its_node_full_is_begun_by_another(tmp_path: Path, postgres_url: str) -> None:
    database: Sections = {"url": postgres_url}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    small: Sections = {"max_connections": 1}
    async with (
        serving(folders[0], database, dialing=small) as one,
        serving(folders[1], database, dialing=small),
    ):

        async def both_seen() -> bool:
            return len(json.loads(await one.command("nodes", "--json"))) == 2

        await until(both_seen, limit_s=LIMIT_S)
        first = await post(one, "/call", lead())

        async def made_elsewhere() -> bool:
            answers.append(await post(one, "/call", lead(firstnumber="+34600000012")))
            return answers[-1].status_code == 200

        # Its node learns from the other's next beat that there is room.
        answers: list[httpx.Response] = []
        await until(made_elsewhere, limit_s=TAKEOVER_S)
        assert first.status_code == 200
        assert answers[-1].text == "Data received successfully"
        resource = await get(one, answers[-1].headers["location"])
        assert resource["outcome"] is None
        third = await post(one, "/call", lead(firstnumber="+34600000013"))
        assert third.status_code == 503


async def test_a_webhook_under_way_at_a_shutdown_is_waited_for(tmp_path: Path) -> None:
    database: Sections = {"url": f"sqlite:///{tmp_path / 'record.db'}"}
    answered = asyncio.Event()
    async with Receiver.open() as receiver:
        receiver.gate = answered
        async with serving(tmp_path, database, [hook(receiver)]) as node:
            await a_call_that_ends(node)
            await receiver.got(1)
            node.signal(signal.SIGTERM)
            answered.set()
            assert await node.ended() == 0
            assert any('"state": "delivered"' in line for line in node.lines)
