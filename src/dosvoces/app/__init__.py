"""
Puts the house together: the only place that names concrete adapters.

`Service.open(settings)` is the whole service, started and ready; leaving it hangs up every leg and gives everything
back. `serve` runs one until a signal ends it.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from dosvoces import open_files, telemetry
from dosvoces.app.deferred import make_dispatcher, reported, webhook_urls
from dosvoces.app.door import check_door, guarded
from dosvoces.app.limits import calling_hours, quota, rates
from dosvoces.app.telephony import make_carrier
from dosvoces.app.trial import make_trial
from dosvoces.app.widget import add_widget
from dosvoces.carriers import Carrier
from dosvoces.clock import SteadyClock, utc_now
from dosvoces.deferred.dispatcher import Dispatcher
from dosvoces.deferred.hooks import Hooks
from dosvoces.deferred.overflow import Overflow
from dosvoces.dialplan import NumberRules
from dosvoces.errors import SettingsError
from dosvoces.mail import Mailbox
from dosvoces.mail.inbox import Inbox
from dosvoces.mail.messages import compose_lead
from dosvoces.mail.smtp import SmtpMailbox
from dosvoces.mail.smtp_url import parse_mail_url
from dosvoces.mail.watched import WatchedMailbox
from dosvoces.model import Repeats
from dosvoces.nodes import Membership, Times
from dosvoces.nodes.place import identity_of
from dosvoces.settings import Settings
from dosvoces.store import Store
from dosvoces.store.keys import Keys
from dosvoces.store.sql import open_keys, open_roll, open_store
from dosvoces.switchboard import Limits, Switchboard
from dosvoces.web import build_app
from dosvoces.web.feed import Listeners
from dosvoces.web.recipient import Domains
from dosvoces.web.server import HttpServer

log = structlog.get_logger(__name__)

# What the garbage collector lets gather before it looks. A look at new objects takes a millisecond, one at what five of
# those left 10 to 40. One at all that there is takes 100 and more and finds next to nothing: it comes every some 50,000
# connections.
COLLECT_AFTER = (5_000, 5, 1_000)

INBOX_URL = "inbox:"
DEFERRED_DRAIN_S = 2.0  # of a shutdown for webhooks and mails on their way; what isn't over then is done again


class Service:
    """The running service and its parts."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        mailbox: WatchedMailbox,
        carrier: Carrier,
        switchboard: Switchboard,
        membership: Membership,
        dispatcher: Dispatcher,
        clock: SteadyClock,
    ) -> None:
        """Use `open`."""
        self.settings = settings
        self.store = store
        self.mailbox = mailbox
        self.carrier = carrier
        self.switchboard = switchboard
        self.membership = membership
        self.dispatcher = dispatcher
        self.clock = clock
        self.listeners = Listeners(store.feed, most=settings.http.max_streams)
        self.http: HttpServer
        """Set last, when everything behind it is ready."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, carrier: Carrier | None = None, wall: Callable[[], datetime] = utc_now
    ) -> AsyncIterator["Service"]:
        """
        Start everything, in the order in which things depend on each other, and end it in reverse.

        `carrier` takes the place of the one that the settings name, `wall` that of the wall clock. Raises
        `SettingsError`, `StoreError`, `CarrierError` when a part can't start; what had started is given back.
        """
        async with AsyncExitStack() as stack:
            store = open_store(settings.database.address, reported=reported(settings), quota=quota(settings))
            stack.push_async_callback(store.close)
            await store.open()
            keys = open_keys(settings.database.address)
            stack.push_async_callback(keys.close)
            await check_door(settings, keys)
            mailbox = WatchedMailbox(open_mailbox(settings, store))
            stack.push_async_callback(mailbox.close)
            carrier = carrier or make_carrier(settings)
            stack.push_async_callback(carrier.close)
            trial = make_trial(settings, store)
            stack.push_async_callback(trial.carrier.close)
            membership = _membership(settings, store)
            clock = SteadyClock(lambda: not (switchboard.open_connections or switchboard.open_trials), wall=wall)
            limits = _limits(settings)
            switchboard = Switchboard(
                store=store,
                mailbox=mailbox,
                carrier=carrier,
                compose=partial(compose_lead, sender=settings.mail.from_, locale=settings.mail.locale),
                limits=limits,
                now=clock,
                holds_lease=membership.holds_lease,
                trial=trial,
            )
            # Until the last outcome is written this node is on the roll: what it couldn't settle, others find.
            stack.push_async_callback(membership.close)
            stack.push_async_callback(switchboard.close)
            await switchboard.start()
            await membership.start(switchboard)
            dispatcher, webhooks, hooks = make_dispatcher(
                settings, store, mailbox, trial.mailbox, switchboard, membership, calling_hours(settings)
            )
            stack.push_async_callback(webhooks.close)
            service = cls(
                settings=settings,
                store=store,
                mailbox=mailbox,
                carrier=carrier,
                switchboard=switchboard,
                membership=membership,
                dispatcher=dispatcher,
                clock=clock,
            )
            telemetry.OPEN_CONNECTIONS.set_function(lambda: switchboard.open_connections)
            telemetry.OPEN_TEST_CONNECTIONS.set_function(lambda: switchboard.open_trials)
            stack.callback(asyncio.create_task(telemetry.watch_loop(), name="loop lag").cancel)
            await service._listen(stack, keys, hooks, limits.max_connections)
            membership.url = service.http_url
            stack.push_async_callback(dispatcher.close, DEFERRED_DRAIN_S)
            # Last, and in the background: neither hanging up what a crash left nor the door waits for it.
            dispatcher.start()
            yield service
            service.listeners.close()
            # Requests that wait for their call are answered while the door is still open; new ones get 503.
            await switchboard.close()

    async def drain(self, limit_s: float) -> None:
        """Take no more requests; return when no call is open any more, which those after `limit_s` are told."""
        self.listeners.close()
        await self.switchboard.drain(by="shutdown", limit_s=limit_s)

    async def _listen(self, stack: AsyncExitStack, keys: Keys, hooks: Hooks, most: int) -> None:
        connector = Overflow(
            self.switchboard,
            store=self.store,
            schedule=self.dispatcher.schedule,
            others_have_room=lambda: bool(self.membership.others_with_room()),
        )
        rules = number_rules(self.settings)
        app = build_app(
            connector=connector,
            scheduler=self.dispatcher,
            records=self.store,
            feed=self.store.feed,
            listeners=self.listeners,
            canceller=self.membership,
            switch=self.membership,
            hooks=hooks,
            readiness=self,
            rules=rules,
            clock=self.clock,
            default_interval_s=self.settings.dialing.default_interval_s,
            repeats=_repeats(self.settings),
            domains=Domains(self.settings.mail.recipient_domains),
            webhook_urls=webhook_urls(self.settings),
        )
        add_widget(app, self.settings, connector=connector, records=self.store, rules=rules, clock=self.clock)
        # Each open connection may have its client waiting; beside them there is room to be refused and to look.
        max_clients = min(
            2 * most + 200 + self.settings.http.max_streams, open_files.clients_within(open_files.raise_limit(), most)
        )
        self.http = HttpServer(
            guarded(self.settings, app, keys, stack),
            host=self.settings.http.host,
            port=self.settings.http.port,
            max_clients=max_clients,
            # Where another node has room, this one's want of it turns nobody away.
            full=lambda waiting: not self.switchboard.has_room(waiting) and not self.membership.others_with_room(),
            crowded=self.store.crowded,
        )
        stack.push_async_callback(self.http.stop)
        await self.http.start()

    @property
    def http_url(self) -> str:
        """Where the door is; with the port that the system chose where 0 was asked for."""
        host, port = self.http.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def ready(self) -> list[str]:
        """What is missing for a call to be made now, in words for an operator."""
        return self.switchboard.problems()

    def warnings(self) -> list[str]:
        """What an operator should know though calls can be made."""
        return [*self.switchboard.warnings(), *self.mailbox.warnings(), *self.dispatcher.problems()]


def _membership(settings: Settings, store: Store) -> Membership:
    url = settings.database.address
    return Membership(
        roll=open_roll(url),
        store=store,
        identify=partial(identity_of, name=settings.node.name, capacity=settings.dialing.max_connections),
        times=Times(settings.node.beat_s, settings.node.fence_s, settings.node.dead_s),
        alone=url.startswith("sqlite"),
    )


def _repeats(settings: Settings) -> Repeats:
    http = settings.http
    return Repeats(key_lifetime_s=http.idempotency_hours * 3600, coalesce_s=http.coalesce_s if http.coalesce else None)


def number_rules(settings: Settings) -> NumberRules:
    """Whom this installation may dial."""
    own = frozenset(number for trunk in settings.trunks for number in trunk.pool)
    return NumberRules(
        countries=frozenset(settings.countries),
        own_numbers=own,
        denied_prefixes=settings.numbers.deny_prefixes,
        allowed_prefixes=settings.numbers.allow_prefixes,
        hours=calling_hours(settings),
        rates=rates(settings),
    )


def calm_collector() -> None:
    """
    Have the garbage collector look seldom, and never again at what was made so far.

    What the start made stays to the end: looking through it all would stop every call for some 40 ms each time. And
    what a connection makes goes by itself when it is over: to find that at Python's own pace takes 5 % of the engine.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def serve(settings: Settings, *, welcome: Callable[[str, list[str]], None] | None = None) -> None:
    """
    Run the service until SIGTERM or SIGINT; returns when every leg is hung up and everything is recorded.

    Calls may go on for `[node] drain_s` first; a second signal ends them at once.

    `welcome` is told the URL and what is missing, once requests are taken.
    """
    stop, now = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: now.set() if stop.is_set() else stop.set())
    async with Service.open(settings) as service:
        missing = await service.ready()
        log.info("ready", url=service.http_url, missing=missing)
        if welcome is not None:
            welcome(service.http_url, missing)
        calm_collector()
        await stop.wait()
        log.info("stopping", open_connections=service.switchboard.open_connections)
        await _until_first(service.drain(settings.node.drain_s), now.wait())
    log.info("stopped")


async def _until_first(*ways: Coroutine[Any, Any, object]) -> None:
    """Return when one of them is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def open_mailbox(settings: Settings, store: Store) -> Mailbox:
    """What the settings name to take the mails. Raises `SettingsError`."""
    url = settings.mail.url.get_secret_value()
    if url == INBOX_URL:
        return Inbox(store, utc_now)
    server = replace(parse_mail_url(url), timeout_s=settings.mail.timeout_s)
    return SmtpMailbox(server, sender=settings.mail.from_)


def _max_connections(settings: Settings) -> int:
    """As set, or as many as there are descriptors for. Raises `SettingsError` if that is none."""
    most, files = settings.dialing.max_connections, open_files.raise_limit()
    carried = open_files.connections_within(files)
    if carried < 1:
        raise SettingsError(f"{files} open files are allowed, too few for one call: ulimit -n 1024, or LimitNOFILE=")
    if carried < most:
        log.warning("fewer connections than set", max_connections=most, taken=carried, open_files=files)
    return min(most, carried)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_connections=_max_connections(settings),
        ring_timeout_s=settings.dialing.ring_timeout_s,
        talk_limit_s=settings.dialing.talk_limit_s,
        # The mailbox has its own, shorter limit; this one is for a mailbox that breaks it.
        mail_timeout_s=settings.mail.timeout_s + 5,
        trunk_timeout_s=settings.dialing.trunk_timeout_s,
    )
