"""
The mail that tells how a connection ended: handed over until it is taken, for three days.

At least once, always with the same Message-ID, which mail servers and readers know as one mail.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import structlog

from dosvoces.deferred import Again, Work
from dosvoces.deferred.backoff import delay_s, early_s
from dosvoces.errors import MailError
from dosvoces.mail import Mail, Mailbox
from dosvoces.model import ConnectionId, Order, Outcome, mask_text
from dosvoces.store import ConnectionRecord, Store
from dosvoces.store.reports import ENDED, Delivery, DeliveryState, Report

log = structlog.get_logger(__name__)

KIND = "outcome-mail"
STEPS_S = (60, 300, 900, 3600, 7200, 14_400, 28_800, 43_200, 57_600, 86_400)
"""A server that greylists wants minutes, one that is down hours; two and three quarter days in all."""
AS_WANTED = frozenset({Outcome.COMPLETED, Outcome.CANCELLED})
"""What is no failure: both talked, or the client wanted it ended."""

Compose = Callable[[Order, ConnectionRecord], Mail]


class OutcomeMail:
    """Whoever is mailed how a connection ended."""

    target = KIND

    def __init__(
        self,
        when: Literal["never", "failed", "always"],
        *,
        store: Store,
        mailbox: Mailbox,
        trial_mailbox: Mailbox,
        compose: Compose,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._when = when
        self._store = store
        self._mailbox = mailbox
        self._trial_mailbox = trial_mailbox
        self._compose = compose
        self._now = now

    def wants(self, report: Report, record: ConnectionRecord) -> bool:
        """Whether a mail goes out about this."""
        if report.event != ENDED or self._when == "never":
            return False
        return self._when == "always" or record.outcome not in AS_WANTED

    def work(self, connection_id: ConnectionId, number: int) -> Work:
        """The work of mailing it."""
        return Work(KIND, f"{connection_id}.{number}", {"connection": connection_id, "number": number})

    async def deliver(self, work: Work) -> Again | None:
        """One try. Raises `StoreError` if what came of it can't be written down: it is made again then."""
        connection, number = ConnectionId(str(work.payload["connection"])), int(work.payload["number"] or 0)
        delivery = await self._store.reports.delivery(connection, number, KIND)
        order, record = await self._store.order(connection), await self._store.connection(connection)
        if delivery is None or delivery.state is not DeliveryState.WAITING or order is None or record is None:
            return None  # Forgotten by now, or done by a run that died before it could say so.
        if (seconds := early_s(delivery, self._now())) > 0:
            return Again(seconds)
        try:
            mailbox = self._trial_mailbox if record.test else self._mailbox
            await mailbox.deliver(self._compose(order, record))
        except MailError as error:
            return await self._failed(delivery, error)
        await self._store.reports.tried(delivery, DeliveryState.DELIVERED, "accepted", at=self._now(), next_at=None)
        return None

    async def _failed(self, delivery: Delivery, error: MailError) -> Again | None:
        now = self._now()
        after_s = None if error.permanent else delay_s(STEPS_S, delivery.tries + 1)
        state = DeliveryState.ABANDONED if after_s is None else DeliveryState.WAITING
        next_at = None if after_s is None else now + timedelta(seconds=after_s)
        await self._store.reports.tried(delivery, state, mask_text(str(error)), at=now, next_at=next_at)
        log.warning(
            "outcome mail not taken",
            connection=delivery.connection_id,
            state=state,
            reason=str(error),
            tries=delivery.tries + 1,
            next_at=next_at,
        )
        return None if after_s is None else Again(after_s)
