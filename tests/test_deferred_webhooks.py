"""What a webhook does with what receivers do, at a real receiver on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.deferred import Again
from dosvoces.deferred.backoff import JITTER, delay_s
from dosvoces.deferred.guard import networks_of
from dosvoces.deferred.webhooks import ANSWER_LIMIT_BYTES, STEPS_S, TURN_S, Endpoint, Poster, Webhooks
from dosvoces.model import ConnectionId, EndReason, Outcome, Side
from dosvoces.store import Entry
from dosvoces.store.endpoints import Endpoints
from dosvoces.store.reports import ENDED, EVENTS, Delivery, DeliveryState
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, an_order
from tests.ports import free_port
from tests.webhook_receiver import SECRET, Answer, Receiver

OTHER_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
BODY = '{"type": "connection.ended", "data": {"city": "València"}}'


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A record with one report."""
    record = open_store(f"sqlite:///{tmp_path / 'record.db'}", reported=[ENDED])
    await record.open()
    order = an_order(1)
    await record.record(order)
    over = Connection(Terms(), a=Leg(LegState.ENDED, T0, None, None, T0, True, EndReason.BUSY, "486"))
    await record.settle(order.id, over, Outcome.FIRST_BUSY, at=T0)
    yield record
    await record.close()


def beside(store: SqlStore) -> Endpoints:
    return Endpoints(store._database)


class Trial:
    """Webhooks to one endpoint on a clock of their own."""

    def __init__(self, store: SqlStore, url: str, *, timeout_s: float = 5.0, secrets: tuple[str, ...] = (SECRET,)):
        self.now = T0
        self._store = store
        self.endpoint = Endpoint("main", url, secrets, frozenset([ENDED]), timeout_s, networks_of(["127.0.0.0/8"]))
        self.webhooks = Webhooks([self.endpoint], store.reports, beside(store), lambda: self.now)
        self.poster = Poster(lambda: self.now)

    async def prepare(self) -> None:
        (report,) = await self._store.reports.to_pass_on(limit=1)
        await self._store.reports.prepare(report, BODY, [self.endpoint.target])

    async def deliver(self) -> Again | None:
        return await self.webhooks.deliver(self.endpoint.work(an_order(1).id, 1))

    async def delivery(self) -> Delivery:
        found = await self._store.reports.delivery(an_order(1).id, 1, "webhook:main")
        assert found is not None
        return found


async def tried_once(store: SqlStore, url: str, *, timeout_s: float = 5.0) -> tuple[Again | None, Delivery]:
    trial = Trial(store, url, timeout_s=timeout_s)
    await trial.prepare()
    again = await trial.deliver()
    await trial.webhooks.close()
    return again, await trial.delivery()


async def test_what_is_taken_is_delivered_once(store: SqlStore) -> None:
    async with Receiver.open() as receiver:
        trial = Trial(store, receiver.url("/x?y=1"))
        await trial.prepare()
        assert await trial.deliver() is None
        assert await trial.deliver() is None
        (message,) = receiver.received
        assert message.path == "/x?y=1"
        assert message.body == BODY.encode()
        assert message.id == f"{an_order(1).id}.1"
        assert message.headers["webhook-timestamp"] == str(int(T0.timestamp()))
        expected = Webhook(SECRET).sign(message.id, T0, BODY)
        assert message.headers["webhook-signature"] == expected
        assert (await trial.delivery()).state is DeliveryState.DELIVERED
        await trial.webhooks.close()


async def test_two_secrets_both_sign_while_one_takes_over_from_the_other(store: SqlStore) -> None:
    async with Receiver.open() as receiver:
        trial = Trial(store, receiver.url(), secrets=(SECRET, OTHER_SECRET))
        trial.now = datetime.now(UTC)  # Verifying looks at the clock.
        assert (await trial.poster.post(trial.endpoint, "msg_1", BODY)).taken
        await trial.poster.close()
        (message,) = receiver.received
        assert message.verify(SECRET) == message.verify(OTHER_SECRET)
        with pytest.raises(WebhookVerificationError):
            message.verify("whsec_" + "A" * 32)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 502, 503, 504])
async def test_what_is_not_taken_is_tried_again(store: SqlStore, status: int) -> None:
    """A redirect is not followed: it would take the numbers to wherever the receiver says."""
    async with Receiver.open() as receiver:
        receiver.answers["/"] = Answer(status, {"location": receiver.url("/elsewhere")})
        again, delivery = await tried_once(store, receiver.url())
        assert again is not None
        assert STEPS_S[0] * (1 - JITTER) <= again.after_s <= STEPS_S[0] * (1 + JITTER)
        assert (delivery.state, delivery.tries, delivery.answer) == (DeliveryState.WAITING, 1, f"HTTP {status}")
        assert delivery.next_at == T0 + timedelta(seconds=again.after_s)
        assert [message.path for message in receiver.received] == ["/"]


async def test_gone_is_refused_and_its_endpoint_disabled(store: SqlStore) -> None:
    async with Receiver.open({"/": Answer(410)}) as receiver:
        trial = Trial(store, receiver.url())
        await trial.prepare()
        assert await trial.deliver() is None
        delivery = await trial.delivery()
        assert (delivery.state, delivery.next_at) == (DeliveryState.REFUSED, None)
        (problem,) = trial.webhooks.problems()
        assert problem.startswith("webhook main is disabled since 20")
        assert problem.endswith("(HTTP 410): when it is well again, dosvoces webhooks enable main")
        await trial.webhooks.close()


async def test_what_is_disabled_is_not_tried_and_goes_on_when_it_is_enabled(store: SqlStore) -> None:
    async with Receiver.open({"/": [Answer(503), Answer(503)]}) as receiver:
        trial = Trial(store, receiver.url())
        trial.endpoint = replace(trial.endpoint, disable_after=timedelta())
        states = beside(store)
        trial.webhooks = Webhooks([trial.endpoint], store.reports, states, lambda: trial.now)
        await trial.prepare()
        first = await trial.deliver()
        assert first is not None
        trial.now += timedelta(seconds=first.after_s)
        assert await trial.deliver() is None
        waiting = await trial.delivery()
        assert (waiting.state, waiting.tries, waiting.next_at) == (DeliveryState.WAITING, 1, None)
        assert len(receiver.received) == 1
        assert await states.enable("main", by="operator ana")
        await trial.webhooks.look()
        assert trial.webhooks.problems() == []
        receiver.answers.clear()
        assert await trial.deliver() is None
        assert (await trial.delivery()).state is DeliveryState.DELIVERED
        await trial.webhooks.close()


async def test_who_takes_something_again_has_not_failed_for_long(store: SqlStore) -> None:
    async with Receiver.open({"/": [Answer(503)]}) as receiver:
        trial = Trial(store, receiver.url())
        await trial.prepare()
        again = await trial.deliver()
        assert again is not None
        states = beside(store)
        assert (await states.states())["main"].why == "HTTP 503"
        trial.now += timedelta(seconds=again.after_s)
        assert await trial.deliver() is None
        assert await states.states() == {}
        await states.close()
        await trial.webhooks.close()


@pytest.mark.parametrize(
    ("header", "least_s"),
    [
        ("120", 120.0),
        ("Mon, 23 Nov 2026 09:02:00 GMT", 120.0),
        ("99999999999", 86_400.0),
        ("soon", 4.0),
        ("-5", 4.0),
        ("Mon, 23 Nov 2026 09:02:00 +99999999999999999999", 4.0),
        ("Mon, 01 Jan 0001 00:00:00 +0100", 4.0),
    ],
)
async def test_a_receiver_may_put_us_off(store: SqlStore, header: str, least_s: float) -> None:
    async with Receiver.open({"/": Answer(503, {"retry-after": header})}) as receiver:
        again, _ = await tried_once(store, receiver.url())
        assert again is not None
        assert least_s <= again.after_s <= max(least_s, 6.0)


async def test_what_was_blanked_while_it_waited_is_not_told_any_more(store: SqlStore) -> None:
    """An empty body, signed, would be taken for the message."""
    async with Receiver.open({"/": [Answer(503)]}) as receiver:
        trial = Trial(store, receiver.url())
        await trial.prepare()
        again = await trial.deliver()
        assert again is not None
        trial.now += timedelta(seconds=again.after_s)
        blanked, _ = await store.blank_leads(before=datetime.now(UTC), since=ConnectionId(""), limit=10)
        assert blanked == 1
        assert await trial.deliver() is None
        assert len(receiver.received) == 1
        assert (await trial.delivery()).state is DeliveryState.ABANDONED
        await trial.webhooks.close()


async def test_a_receiver_that_says_nothing_is_left(store: SqlStore) -> None:
    async with Receiver.open({"/": Answer(status=None)}) as receiver:
        again, delivery = await tried_once(store, receiver.url(), timeout_s=0.2)
        assert again is not None
        assert delivery.answer == "no answer within 0.2 s"


async def test_an_answer_that_never_ends_is_cut_off(store: SqlStore) -> None:
    async with Receiver.open({"/": Answer(200, endless=True)}) as receiver:
        again, delivery = await tried_once(store, receiver.url())
        assert again is None
        assert delivery.state is DeliveryState.DELIVERED
    async with Receiver.open({"/": Answer(200, body=b"x" * (2 * ANSWER_LIMIT_BYTES))}) as receiver:
        trial = Trial(store, receiver.url())
        assert (await trial.poster.post(trial.endpoint, "m", BODY)).taken
        await trial.poster.close()


async def test_nobody_there_is_said(store: SqlStore) -> None:
    again, delivery = await tried_once(store, f"http://127.0.0.1:{free_port()}/")
    assert again is not None
    assert delivery.answer.startswith("ConnectError")


async def test_it_is_abandoned_after_three_days(store: SqlStore) -> None:
    async with Receiver.open({"/": Answer(500)}) as receiver:
        trial = Trial(store, receiver.url())
        await trial.prepare()
        while (again := await trial.deliver()) is not None:
            trial.now += timedelta(seconds=again.after_s)
        assert len(receiver.received) == len(STEPS_S) + 1
        assert {message.id for message in receiver.received} == {f"{an_order(1).id}.1"}
        assert timedelta(days=2.4) < trial.now - T0 < timedelta(days=3.8)
        delivery = await trial.delivery()
        assert (delivery.state, delivery.tries) == (DeliveryState.ABANDONED, len(STEPS_S) + 1)
        await trial.webhooks.close()


async def test_a_run_that_comes_too_early_waits_for_its_time(store: SqlStore) -> None:
    """As it is begun again when its process died after it had noted its try."""
    async with Receiver.open({"/": [Answer(500)]}) as receiver:
        trial = Trial(store, receiver.url())
        await trial.prepare()
        again = await trial.deliver()
        assert again is not None
        trial.now += timedelta(seconds=1)
        early = await trial.deliver()
        assert early is not None
        assert early.after_s == pytest.approx(again.after_s - 1)
        assert len(receiver.received) == 1
        trial.now += timedelta(seconds=early.after_s)
        assert await trial.deliver() is None
        await trial.webhooks.close()


async def test_a_webhook_that_left_the_settings_is_given_up(store: SqlStore) -> None:
    trial = Trial(store, "http://127.0.0.1:1/")
    await trial.prepare()
    trial.webhooks = Webhooks([], store.reports, beside(store), lambda: T0)
    assert await trial.deliver() is None
    delivery = await trial.delivery()
    assert delivery.state is DeliveryState.ABANDONED
    assert "no webhook 'main' in the settings" in delivery.answer


async def test_what_was_forgotten_meanwhile_is_nothing_to_do(store: SqlStore) -> None:
    trial = Trial(store, "http://127.0.0.1:1/")
    await trial.prepare()
    assert await store.forget(before=T0 + timedelta(days=1), limit=10) == 1
    assert await trial.deliver() is None


async def test_what_happened_later_is_told_later(tmp_path: Path) -> None:
    """A receiver that refuses the first message: the second waits for it, whoever begins it, and comes after it."""
    names = [EVENTS["ringing"], EVENTS["joined"]]
    record = open_store(f"sqlite:///{tmp_path / 'record.db'}", reported=names)
    await record.open()
    order = an_order(1)
    await record.record(order)
    for name, before, after in (("ringing", "dialing_first", "ringing_first"), ("joined", "joining", "joined")):
        record.journal(Entry(order.id, T0, name, Side.A, before, after))
    async with Receiver.open() as receiver:
        receiver.answers["/"] = [Answer(503)]
        trial = Trial(record, receiver.url("/"))
        for report in await record.reports.to_pass_on(limit=9):
            await record.reports.prepare(report, f'{{"n": {report.number}}}', [trial.endpoint.target])
        first, second = (trial.endpoint.work(order.id, number) for number in (1, 2))
        both = await asyncio.gather(trial.webhooks.deliver(first), trial.webhooks.deliver(second))
        assert all(isinstance(again, Again) for again in both)
        assert both[0] is not None
        assert both[1] is not None
        assert both[1].after_s > both[0].after_s
        waiting = await record.reports.delivery(order.id, 2, trial.endpoint.target)
        assert waiting is not None
        assert (waiting.tries, waiting.next_at) == (0, trial.now + timedelta(seconds=both[1].after_s))
        trial.now += timedelta(seconds=both[1].after_s)
        assert await trial.webhooks.deliver(second) == Again(TURN_S)
        told = await asyncio.gather(trial.webhooks.deliver(first), trial.webhooks.deliver(second))
        assert list(told) == [None, None]
        assert [message.json["n"] for message in receiver.received] == [1, 1, 2]
        log = await record.reports.deliveries_of(order.id)
        assert [(each.number, each.state, each.tries) for each in log] == [
            (1, DeliveryState.DELIVERED, 2),
            (2, DeliveryState.DELIVERED, 1),
        ]
        await trial.webhooks.close()
    await record.close()


async def test_many_at_once_go_side_by_side(store: SqlStore) -> None:
    gate = asyncio.Event()
    async with Receiver.open() as receiver:
        receiver.gate = gate
        endpoint = replace(Trial(store, receiver.url()).endpoint, timeout_s=10.0)
        poster = Poster()
        posts = [asyncio.create_task(poster.post(endpoint, f"m{number}", BODY)) for number in range(16)]
        await receiver.got(16)
        gate.set()
        assert all(reply.taken for reply in await asyncio.gather(*posts))
        await poster.close()
        await poster.close()


def test_delays_grow_with_the_tries_and_spread() -> None:
    assert [delay_s((1, 10), tries, spread=lambda: 0.5) for tries in (1, 2, 3)] == [1, 10, None]
    assert delay_s((100,), 1, spread=lambda: 0.0) == pytest.approx(100 * (1 - JITTER))
    assert delay_s((100,), 1, spread=lambda: 1.0) == pytest.approx(100 * (1 + JITTER))
