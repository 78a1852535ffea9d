"""The delivery log, replays, and endpoints that are disabled and enabled: at the door of the whole service."""

from pathlib import Path

from dosvoces.keys import Scope, digest_of, id_of
from dosvoces.store.sql import open_keys
from dosvoces.testing import until
from tests.house import House, house
from tests.keys import make_key
from tests.test_deferred_service import FAKE, LIMIT_S, ahead, an_order, ended, hook
from tests.webhook_receiver import Answer, Receiver


async def a_call_that_is_over(running: House) -> str:
    """Its address."""
    answer = await running.client.post("/v1/connections", json=an_order(not_before=ahead(3600)))
    location = answer.headers["location"]
    assert (await running.client.post(f"{location}/cancellation")).status_code == 202
    await ended(running, location)
    return location


async def delivered(running: House, location: str, state: str = "delivered") -> None:
    async def noted() -> bool:
        log = (await running.client.get(f"{location}/deliveries")).json()["data"]
        return [each["state"] for each in log] == [state]

    await until(noted, limit_s=LIMIT_S)


async def test_a_delivery_is_told_once_more_with_the_same_id_and_body(tmp_path: Path) -> None:
    async with Receiver.open() as receiver:
        async with house(tmp_path, trunks=FAKE, webhooks=[hook(receiver)]) as running:
            location = await a_call_that_is_over(running)
            (first,) = await receiver.got(1)
            await delivered(running, location)
            (told,) = (await running.client.get(f"{location}/deliveries")).json()["data"]
            assert (told["webhook_id"], told["event"], told["endpoint"]) == (first.id, "connection.ended", "main")
            assert (told["tries"], told["answer"], told["next_at"]) == (1, "HTTP 204", None)
            again = await running.client.post(f"{location}/deliveries/{first.id}/replay", params={"endpoint": "main"})
            assert again.status_code == 202
            assert [each["webhook_id"] for each in again.json()["data"]] == [first.id]
            _, second = await receiver.got(2)
            assert (second.id, second.body) == (first.id, first.body)
            second.verify()
            await delivered(running, location)
            for wrong in (
                f"{location}/deliveries/9/replay",
                f"{location}/deliveries/1/replay?endpoint=x",
                f"{location}/deliveries/x/replay",
            ):
                answer = await running.client.post(wrong)
                assert (answer.status_code, answer.json()["code"]) == (404, "no_such_delivery")
            assert (await running.client.get(f"/v1/connections/{'0' * 26}/deliveries")).status_code == 404
            assert len(receiver.received) == 2


async def test_who_says_that_it_is_gone_is_told_nothing_until_it_is_enabled(tmp_path: Path) -> None:
    async with Receiver.open({"/main": [Answer(410)]}) as receiver:
        async with house(tmp_path, trunks=FAKE, webhooks=[hook(receiver)]) as running:
            keys = open_keys(running.service.settings.database.address)
            admin = {"Authorization": f"Bearer {await make_key(keys, 'ana', Scope.ADMIN)}"}
            running.client.headers.update({"Authorization": f"Bearer {await make_key(keys, 'crm')}"})
            refused = await a_call_that_is_over(running)
            await delivered(running, refused, "refused")
            (webhook,) = (await running.client.get("/v1/webhooks")).json()["data"]
            assert (webhook["name"], webhook["state"], webhook["why"]) == ("main", "disabled", "HTTP 410")
            assert webhook["url"] == receiver.url("/main")
            (warning,) = (await running.client.get("/readyz")).json()["warnings"]
            assert warning.startswith("webhook main is disabled since ")
            waits = await a_call_that_is_over(running)
            await delivered(running, waits, "waiting")

            async def parked() -> bool:
                (one,) = (await running.client.get(f"{waits}/deliveries")).json()["data"]
                return one["next_at"] is None

            await until(parked, limit_s=LIMIT_S)
            assert len(receiver.received) == 1
            forbidden = await running.client.post("/v1/webhooks/main/enable")
            assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
            missing = await running.client.post("/v1/webhooks/other/enable", headers=admin)
            assert (missing.status_code, missing.json()["code"]) == (404, "no_such_webhook")
            enabled = await running.client.post("/v1/webhooks/main/enable", headers=admin)
            assert (enabled.status_code, enabled.json()["state"]) == (200, "enabled")
            await delivered(running, waits)
            assert [message.id for message in receiver.received[1:]] == [f"{waits.rpartition('/')[2]}.1"]
            await until(lambda: well(running), limit_s=LIMIT_S)
            acts = [(act.who, act.what, act.subject) for act in await keys.acts(limit=9) if "webhook" in act.what]
            assert acts == [
                (f"key {id_of(digest_of(admin['Authorization'].split()[1]))} ana", "webhook.enable", "main"),
                ("dosvoces", "webhook.disable", "main"),
            ]
            await keys.close()


async def well(running: House) -> bool:
    return "warnings" not in (await running.client.get("/readyz")).json()
