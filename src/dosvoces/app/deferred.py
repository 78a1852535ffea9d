"""Puts the deferred work together: who is told what, what waits, and the engine, opened when there is work for it."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta
from functools import partial
from typing import Protocol, get_args

# Before any thread asks the record. DBOS would import it later, on a thread: from its first line on, SQLAlchemy asks it
# about every value that a statement is given, and until its last, all threads get an AttributeError for that.
import sqlalchemy.orm  # noqa: F401

from dosvoces.deferred import Deferred, Kind, outcome_mail
from dosvoces.deferred import waiting as waiting_kind
from dosvoces.deferred import webhooks as webhooks_kind
from dosvoces.deferred.dispatcher import Dispatcher
from dosvoces.deferred.guard import networks_of
from dosvoces.deferred.hooks import Hooks
from dosvoces.deferred.messages import message
from dosvoces.deferred.outcome_mail import OutcomeMail
from dosvoces.deferred.waiting import Waiting
from dosvoces.deferred.webhooks import Endpoint, Webhooks
from dosvoces.dialplan.hours import CallingHours
from dosvoces.mail import Mail, Mailbox
from dosvoces.mail.outcome import compose_outcome
from dosvoces.model import ConnectionId, Order, Outcome
from dosvoces.nodes import Membership
from dosvoces.settings import Settings
from dosvoces.settings.webhooks import REQUEST_NAME, EventName
from dosvoces.store import ConnectionRecord, Store
from dosvoces.store.endpoints import Endpoints
from dosvoces.store.reports import ENDED
from dosvoces.store.sql import open_database
from dosvoces.switchboard import Switchboard
from dosvoces.web.webhook_urls import WebhookUrls


def endpoints_of(settings: Settings) -> list[Endpoint]:
    return [
        Endpoint(
            name=webhook.name,
            url=webhook.url,
            secrets=tuple(webhook.secret.get_secret_value().split()),
            events=frozenset(webhook.events),
            timeout_s=webhook.timeout_s,
            networks=networks_of(webhook.reach),
            disable_after=timedelta(days=webhook.disable_after_days),
        )
        for webhook in settings.webhooks
    ]


def request_endpoints(settings: Settings) -> list[Endpoint]:
    """Whoever a connection's own request named, if the settings allow it."""
    urls = settings.webhook_urls
    if urls.secret is None:
        return []
    return [
        Endpoint(
            name=REQUEST_NAME,
            url="",
            secrets=tuple(urls.secret.get_secret_value().split()),
            events=frozenset(get_args(EventName)),
            timeout_s=urls.timeout_s,
            networks=networks_of(urls.networks),
            of_request=True,
        )
    ]


def webhook_urls(settings: Settings) -> WebhookUrls | None:
    """Which URLs a request may name; `None`: none."""
    urls = settings.webhook_urls
    return None if urls.secret is None else WebhookUrls(urls.hosts, networks_of(urls.networks))


def reported(settings: Settings) -> frozenset[str]:
    """The events of which somebody is told."""
    told = {event for webhook in settings.webhooks for event in webhook.events}
    if settings.webhook_urls.secret is not None:
        told |= set(get_args(EventName))
    return frozenset(told if settings.mail.outcome == "never" else told | {ENDED})


def make_dispatcher(
    settings: Settings,
    store: Store,
    mailbox: Mailbox,
    trial_mailbox: Mailbox,
    switchboard: Switchboard,
    membership: Membership,
    hours: CallingHours,
) -> tuple[Dispatcher, Webhooks, Hooks]:
    url = settings.database.address
    endpoints = endpoints_of(settings)
    states = Endpoints(open_database(url))
    allowed = webhook_urls(settings)

    async def url_of(connection: ConnectionId) -> str:
        record = await store.connection(connection)
        url = "" if record is None else record.webhook_url
        # Asked anew: the connection may have waited since, and the settings been changed.
        return "" if allowed is None or allowed.problem(url) else url

    told = [*endpoints, *request_endpoints(settings)]
    webhooks = Webhooks(told, store.reports, states, url_of=url_of)
    begins = Waiting(store, switchboard, hours=hours)
    mails = OutcomeMail(
        settings.mail.outcome,
        store=store,
        mailbox=mailbox,
        trial_mailbox=trial_mailbox,
        compose=partial(_compose_outcome, settings),
    )

    async def open_engine(kinds: Sequence[Kind]) -> Deferred:
        # On a thread: importing DBOS takes most of a second, and most services have no work for it.
        engine = await asyncio.to_thread(_import_engine)
        return await engine.open_engine(url, node=store.node, kinds=kinds)

    dispatcher = Dispatcher(
        store=store,
        kinds=[
            Kind(webhooks_kind.KIND, webhooks.deliver, poll_s=0.5),
            Kind(waiting_kind.KIND, begins.begin, poll_s=0.25),
            # Two at a time: the mails of leads, for which calls wait, go by the same few connections.
            Kind(outcome_mail.KIND, mails.deliver, poll_s=1.0, lane_limit=2),
        ],
        recipients=[*told, mails],
        compose=message,
        open_engine=open_engine,
        live_nodes=membership.live_nodes,
        watched=webhooks,
        kept=_days(settings.record.keep_days),
        leads=_days(settings.record.lead_days),
        # Other nodes may have connections for this one to begin.
        eager=bool(reported(settings)) or not url.startswith("sqlite"),
    )
    membership.tell_inherited = dispatcher.wake
    return dispatcher, webhooks, Hooks(endpoints, store.reports, states, dispatcher.wake)


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def _compose_outcome(settings: Settings, order: Order, record: ConnectionRecord) -> Mail:
    assert record.outcome is not None, "told when it is over"
    assert record.ended_at is not None, "told when it is over"
    return compose_outcome(
        order,
        Outcome(record.outcome),
        ended_at=record.ended_at,
        joined_at=record.joined_at,
        sender=settings.mail.from_,
        recipient=settings.mail.outcome_to or "",
        locale=settings.mail.locale,
        timezone=settings.mail.timezone,
    )


class _EngineModule(Protocol):
    def open_engine(self, record_url: str, *, node: str, kinds: Sequence[Kind]) -> Awaitable[Deferred]: ...


def _import_engine() -> _EngineModule:
    from dosvoces.deferred import engine

    return engine
