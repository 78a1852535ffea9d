"""`/v1` of the whole service: what an order asks for is what its phones and its record show."""

from pathlib import Path

from dosvoces.phone import BUSY, PhoneBehaviour
from tests.house import ANSWERS, EMAIL, FIRST, RINGS, SECOND, house_and_phones

ORDER = {"first_number": FIRST, "second_number": SECOND, "email": EMAIL}


async def test_who_waits_is_told_when_both_talk_and_hangs_up_by_the_api(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS) as (running, phones):
        order = {**ORDER, "metadata": {"lead_id": "4711"}, "lead": {"rooms": 3}, "locale": "en"}
        answer = await running.client.post("/v1/connections", json=order, headers={"prefer": "wait=8"})
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=8")
        view, path = answer.json(), answer.headers["location"]
        assert (view["phase"], view["mail"], view["metadata"]) == ("joined", "sent", {"lead_id": "4711"})
        listed = (await running.client.get("/v1/connections", params={"metadata[lead_id]": "4711"})).json()
        assert [one["id"] for one in listed["data"]] == [view["id"]]
        assert (await running.client.post(f"{path}/cancellation")).status_code == 202
        record = await running.over(answer)
        await phones.quiet()
        assert (record.outcome, record.ended_by) == ("completed", "api")
        assert (await running.client.post(f"{path}/cancellation")).status_code == 200
        mail = (await running.client.get(f"{path}/mail")).json()
        (kept,) = mail["kept"]
        assert mail["state"] == "sent"
        content = (await running.service.store.mails())[0].content.decode()
        assert kept["size"] == len(content)
        assert "rooms" in content
        assert "Second number" in content
        events = (await running.client.get(f"{path}/events")).json()["data"]
        assert [event["number"] for event in events] == sorted(event["number"] for event in events)
        assert "joined" in [event["event"] for event in events]


async def test_an_order_shortens_the_ringing_and_the_talk(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, RINGS, ANSWERS) as (running, _):
        answer = await running.client.post("/v1/connections", json={**ORDER, "ring_timeout": 1})
        record = await running.over(answer)
        assert (record.outcome, record.ring_timeout_s) == ("first_no_answer", 1)
    (tmp_path / "talk").mkdir()
    async with house_and_phones(tmp_path / "talk", ANSWERS, ANSWERS) as (running, _):
        answer = await running.client.post("/v1/connections", json={**ORDER, "talk_limit": 1})
        record = await running.over(answer)
        assert record.outcome == "completed"
        assert record.joined_at is not None
        assert record.ended_at is not None
        assert 0.9 < (record.ended_at - record.joined_at).total_seconds() < 8


async def test_an_order_does_not_lengthen_what_the_settings_say(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, RINGS, ANSWERS, dialing={"ring_timeout_s": 1}) as (running, _):
        answer = await running.client.post("/v1/connections", json={**ORDER, "ring_timeout": 300})
        assert (await running.over(answer)).outcome == "first_no_answer"


async def test_a_leg_that_was_refused_shows_its_sip_code(tmp_path: Path) -> None:
    async with house_and_phones(tmp_path, PhoneBehaviour(reject=BUSY), ANSWERS) as (running, _):
        answer = await running.client.post("/v1/connections", json=ORDER, headers={"prefer": "wait=8"})
        view = answer.json()
        assert (view["outcome"], view["legs"][0]["sip_code"], view["legs"][1]["sip_code"]) == ("first_busy", 486, None)
