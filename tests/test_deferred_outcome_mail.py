"""Outcome mails at a real mail server: to whom, when, how often."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from dosvoces.core import Connection, Leg, LegState, Terms
from dosvoces.deferred import Again
from dosvoces.deferred.outcome_mail import KIND, STEPS_S, OutcomeMail
from dosvoces.mail import Mail
from dosvoces.mail.inbox import Inbox
from dosvoces.mail.outcome import compose_outcome
from dosvoces.mail.smtp import SmtpMailbox
from dosvoces.mail.smtp_url import parse_mail_url
from dosvoces.model import EndReason, Order, Outcome
from dosvoces.store import ConnectionRecord
from dosvoces.store.reports import ENDED, Delivery, DeliveryState
from dosvoces.store.sql import SqlStore, open_store
from dosvoces.testing import T0, an_order
from tests.peers.smtp_server import Drop, FaultySmtp, Reply, Script

SENDER = "Dosvoces <leads@example.com>"
ORDER = an_order(1)


class Trial:
    """One connection that is over, and the mail about it, on a clock of its own."""

    def __init__(self, store: SqlStore, mailbox: SmtpMailbox, when: Literal["never", "failed", "always"]) -> None:
        self.store = store
        self.now = T0
        self.mails = OutcomeMail(
            when,
            store=store,
            mailbox=mailbox,
            trial_mailbox=Inbox(store, lambda: self.now),
            compose=_compose,
            now=lambda: self.now,
        )

    async def wanted(self) -> bool:
        (report,) = await self.store.reports.to_pass_on(limit=1)
        record = await self.store.connection(ORDER.id)
        assert record is not None
        await self.store.reports.prepare(report, "{}", [KIND])
        return self.mails.wants(report, record)

    async def deliver(self) -> Again | None:
        return await self.mails.deliver(self.mails.work(ORDER.id, 1))

    async def delivery(self) -> Delivery:
        found = await self.store.reports.delivery(ORDER.id, 1, KIND)
        assert found is not None
        return found


def _compose(order: Order, record: ConnectionRecord) -> Mail:
    return compose_outcome(order, Outcome(record.outcome or ""), ended_at=T0, joined_at=None, sender=SENDER)


@asynccontextmanager
async def trial(
    folder: Path,
    script: Script | None = None,
    *,
    outcome: Outcome = Outcome.FIRST_BUSY,
    when: Literal["never", "failed", "always"] = "failed",
) -> AsyncIterator[tuple[Trial, FaultySmtp]]:
    store = open_store(f"sqlite:///{folder / 'record.db'}", reported=[ENDED])
    await store.open()
    await store.record(ORDER)
    over = Connection(Terms(), a=Leg(LegState.ENDED, T0, None, None, T0, True, EndReason.BUSY, "486"))
    await store.settle(ORDER.id, over, outcome, at=T0)
    async with FaultySmtp(script or {}) as server:
        mailbox = SmtpMailbox(parse_mail_url(f"smtp://127.0.0.1:{server.port}?tls=none"), sender=SENDER)
        yield Trial(store, mailbox, when), server
        await mailbox.close()
    await store.close()


@pytest.mark.parametrize(
    ("when", "outcome", "expected"),
    [
        ("never", Outcome.FIRST_BUSY, False),
        ("failed", Outcome.FIRST_BUSY, True),
        ("failed", Outcome.INTERRUPTED, True),
        ("failed", Outcome.COMPLETED, False),
        ("failed", Outcome.CANCELLED, False),
        ("always", Outcome.COMPLETED, True),
    ],
)
async def test_who_wants_it(
    tmp_path: Path, when: Literal["never", "failed", "always"], outcome: Outcome, expected: bool
) -> None:
    async with trial(tmp_path, when=when, outcome=outcome) as (one, _):
        assert await one.wanted() is expected


async def test_it_is_delivered_once(tmp_path: Path) -> None:
    async with trial(tmp_path) as (one, server):
        await one.wanted()
        assert await one.deliver() is None
        assert await one.deliver() is None
        (received,) = server.received
        assert f"<{ORDER.id}.outcome@example.com>".encode() in received.content
        assert (await one.delivery()).state is DeliveryState.DELIVERED


async def test_what_may_pass_is_tried_again_for_days_under_the_same_id(tmp_path: Path) -> None:
    script: Script = {"rcpt": [Reply("451 4.7.1 greylisted")] * 2, "dot": [Drop()]}
    async with trial(tmp_path, script) as (one, server):
        await one.wanted()
        tries = 0
        while (again := await one.deliver()) is not None:
            delivery = await one.delivery()
            tries += 1
            assert (delivery.state, delivery.tries) == (DeliveryState.WAITING, tries)
            assert delivery.next_at == one.now + timedelta(seconds=again.after_s)
            early = await one.deliver()
            assert early is not None
            assert early.after_s == pytest.approx(again.after_s, abs=1e-5)
            one.now += timedelta(seconds=again.after_s)
        assert tries == 3
        # The one whose answer was lost may have been taken: that is what the Message-ID is for.
        assert {f"<{ORDER.id}.outcome@example.com>".encode() in mail.content for mail in server.received} == {True}
        assert timedelta(days=2.5) < timedelta(seconds=sum(STEPS_S)) < timedelta(days=3.5)


async def test_what_can_not_be_delivered_is_given_up(tmp_path: Path) -> None:
    async with trial(tmp_path, {"rcpt": Reply("550 no such user ana@example.com")}) as (one, server):
        await one.wanted()
        assert await one.deliver() is None
        delivery = await one.delivery()
        assert delivery.state is DeliveryState.ABANDONED
        assert "550" in delivery.answer
        assert "ana@" not in delivery.answer
        assert server.received == []
