"""
Webhooks: POSTs a message to an address of the operator's, signed (Standard Webhooks), until it is taken.

At least once, always under the same `webhook-id` and with the same body; a receiver that has seen the id is done. What
is told of one connection to one receiver is told in order.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from weakref import WeakValueDictionary

import httpcore
import httpx
import structlog
from standardwebhooks import Webhook

from dosvoces import __version__, crashpoints
from dosvoces.deferred import Again, Payload, Work
from dosvoces.deferred.backoff import delay_s, early_s
from dosvoces.deferred.guard import ForbiddenAddress, GuardedBackend, GuardedTransport, Network
from dosvoces.model import ConnectionId
from dosvoces.store import ConnectionRecord
from dosvoces.store.endpoints import Endpoints, EndpointState
from dosvoces.store.reports import Delivery, DeliveryState, Report, Reports

log = structlog.get_logger(__name__)

KIND = "webhook"
STEPS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After the first try, which is made at once: Standard Webhooks, "Deliverability and reliability"; three days."""
RETRY_AFTER_LIMIT_S = 86_400.0
"""Longest that a receiver may put us off."""
ANSWER_LIMIT_BYTES = 64 * 1024
"""Of an answer's body so much is read, and dropped, so that the connection may serve again; a longer one is cut off."""
WORDS_LIMIT = 200  # characters of what went wrong that are kept
GONE = 410
TURN_S = 1.0
"""How soon after an earlier message's try the next one looks whether it is its turn, where another node tries that."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somebody who is told."""

    name: str
    url: str
    secrets: tuple[str, ...]
    """Each `whsec_…`; every one of them signs."""
    events: frozenset[str]
    timeout_s: float = 15.0
    networks: tuple[Network, ...] = ()
    """Where else than to public addresses it may be."""
    disable_after: timedelta = timedelta(days=5)
    """After so long without taking anything, and failing, nothing is tried there."""
    of_request: bool = False
    """Whether each connection has its own, in `webhook_url`; `url` is empty then."""

    @property
    def target(self) -> str:
        """Its name in a delivery."""
        return f"{KIND}:{self.name}"

    def wants(self, report: Report, record: ConnectionRecord) -> bool:
        """Whether it is told of this."""
        return report.event in self.events and (not self.of_request or bool(record.webhook_url))

    def work(self, connection_id: ConnectionId, number: int) -> Work:
        """The work of telling it: those for one endpoint hold up only each other."""
        payload: Payload = {"connection": connection_id, "number": number, "endpoint": self.name}
        lane = f"{self.name}.{connection_id}" if self.of_request else self.name
        return Work(KIND, f"{connection_id}.{number}.{self.name}", payload, lane=lane)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one POST."""

    status: int | None
    """`None` if none came."""
    words: str
    retry_after_s: float = 0.0
    forbidden: bool = False
    """Whether it was not sent, as the receiver is at no address that it may be at."""

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Poster:
    """Posts signed messages, over connections that are kept for a while."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        backend: Callable[[tuple[Network, ...]], httpcore.AsyncNetworkBackend] = GuardedBackend,
    ) -> None:
        self._now = now
        self._backend = backend
        self._clients: dict[tuple[Network, ...], httpx.AsyncClient] = {}
        """By how far they may go: none takes a connection that is there for another."""

    async def post(self, endpoint: Endpoint, message_id: str, body: str) -> Reply:
        """POST `body` once. Never raises for what the receiver does."""
        now = self._now()
        signatures = [Webhook(secret).sign(message_id, now, body) for secret in endpoint.secrets]
        headers = {
            "content-type": "application/json",
            "user-agent": f"Dosvoces/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                return await self._exchange(endpoint, headers, body)
        except TimeoutError:
            return Reply(None, f"no answer within {endpoint.timeout_s:g} s")
        except ForbiddenAddress as error:
            return Reply(None, f"not sent: {error}"[:WORDS_LIMIT], forbidden=True)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Reply(None, f"{type(error).__name__}: {error}"[:WORDS_LIMIT])

    async def close(self) -> None:
        """Give connections back; idempotent."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def _exchange(self, endpoint: Endpoint, headers: dict[str, str], body: str) -> Reply:
        client = self._opened(endpoint.networks)
        async with client.stream("POST", endpoint.url, headers=headers, content=body.encode()) as response:
            retry_after_s = _retry_after_s(response.headers.get("retry-after", ""), self._now())
            read = 0
            async for part in response.aiter_raw():
                read += len(part)
                if read > ANSWER_LIMIT_BYTES:
                    break
            return Reply(response.status_code, f"HTTP {response.status_code}", retry_after_s)

    def _opened(self, networks: tuple[Network, ...]) -> httpx.AsyncClient:
        if networks not in self._clients:
            # The system's authorities, to which an operator can add his own.
            transport = GuardedTransport(ssl.create_default_context(), self._backend(networks))
            self._clients[networks] = httpx.AsyncClient(
                transport=transport,
                follow_redirects=False,
                trust_env=False,
                timeout=None,  # One limit for the whole of a try, set where it is made.
            )
        return self._clients[networks]


class Webhooks:
    """Delivers what the record says is to be told to `endpoints`."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        reports: Reports,
        states: Endpoints,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        url_of: Callable[[ConnectionId], Awaitable[str]] | None = None,
    ) -> None:
        """`url_of` gives the URL that a connection's own request named, empty if it may not be told any more."""
        self._url_of = url_of
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._reports = reports
        self._states = states
        self._seen: Mapping[str, EndpointState] = {}
        """How those that fail fared when it was last looked."""
        self._now = now
        self._poster = Poster(now)
        self._lines: WeakValueDictionary[tuple[ConnectionId, str], asyncio.Lock] = WeakValueDictionary()
        """Of each connection and endpoint: what this node tells at once goes one after the other."""

    async def deliver(self, work: Work) -> Again | None:
        """One try. Raises `StoreError` if what came of it can't be written down: it is made again then."""
        line = ConnectionId(str(work.payload["connection"])), str(work.payload["endpoint"])
        # Held while anything waits for it or has it.
        lock = self._lines.setdefault(line, asyncio.Lock())
        async with lock:
            return await self._deliver(*line, int(work.payload["number"] or 0))

    async def _deliver(self, connection: ConnectionId, name: str, number: int) -> Again | None:
        delivery = await self._reports.delivery(connection, number, f"{KIND}:{name}")
        report = await self._reports.report(connection, number)
        if report is None or delivery is None or delivery.state is not DeliveryState.WAITING:
            return None  # Forgotten by now, or done by a run that died before it could say so.
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            reply = Reply(None, f"there is no webhook {name!r} in the settings any more")
            return await self._note(delivery, reply, last=True)
        if (seconds := early_s(delivery, self._now())) > 0:
            return Again(seconds)
        state = None if endpoint.of_request else await self._state(name)
        if state is not None and state.disabled_at is not None:
            return await self._park(delivery, name)
        if (first := await self._reports.first_waiting(connection, delivery.target)) is None or first.number < number:
            return await self._after(first, delivery)
        if endpoint.of_request:
            endpoint = replace(endpoint, url="" if self._url_of is None else await self._url_of(connection))
        if not endpoint.url:
            return await self._note(delivery, Reply(None, "there is no webhook_url that the settings allow"), last=True)
        if report.body is None:
            return await self._note(delivery, Reply(None, "its lead was blanked: it can't be told any more"), last=True)
        reply = await self._poster.post(endpoint, report.id, report.body)
        crashpoints.reached("k25_webhook_sent")
        if not endpoint.of_request:  # One bad URL says nothing about others' requests.
            await self._judge(endpoint, reply, failing=state is not None)
        # The operator can allow an endpoint of his own later; what a request named is not tried until it gets through.
        return await self._note(delivery, reply, last=endpoint.of_request and reply.forbidden)

    async def _after(self, first: Delivery | None, delivery: Delivery) -> Again:
        """Wait for one's turn: in a connection nothing is told before what happened earlier was, or was given up."""
        now = self._now()
        due_s = 0.0 if first is None or first.next_at is None else (first.next_at - now).total_seconds()
        after_s = max(TURN_S, due_s + TURN_S)
        await self._reports.postpone(delivery, now + timedelta(seconds=after_s))
        return Again(after_s)

    async def look(self) -> None:
        """See how the endpoints fare, for `problems`: another node or a person may have found out more."""
        if self._endpoints:
            self._seen = await self._states.states()

    def problems(self) -> list[str]:
        """Which endpoints are told nothing, in words for an operator."""
        return [
            f"webhook {state.name} is disabled since {state.disabled_at:%Y-%m-%d %H:%M} UTC ({state.why}): when it is "
            f"well again, dosvoces webhooks enable {state.name}"
            for state in self._seen.values()
            if state.disabled_at is not None and state.name in self._endpoints
        ]

    async def _state(self, name: str) -> EndpointState | None:
        await self.look()
        return self._seen.get(name)

    async def _park(self, delivery: Delivery, name: str) -> Again | None:
        """Let it wait, for no time that is known, until its endpoint is enabled: that has it swept up again."""
        await self._reports.postpone(delivery, None)
        state = await self._state(name)
        # Enabled in between, it would have been resumed before it was put off.
        return Again(0) if state is None or state.disabled_at is None else None

    async def _judge(self, endpoint: Endpoint, reply: Reply, *, failing: bool) -> None:
        """Note how it fares: before what came of the try, which isn't looked at again once it is noted."""
        if reply.taken:
            if failing:
                await self._states.taken(endpoint.name)
            return
        limit = timedelta() if reply.status == GONE else endpoint.disable_after
        if await self._states.failed(endpoint.name, why=reply.words, limit=limit, by="dosvoces"):
            log.error(
                "webhook disabled",
                webhook=endpoint.name,
                answer=reply.words,
                remedy=f"when it is well again: dosvoces webhooks enable {endpoint.name}",
            )
            await self.look()

    async def close(self) -> None:
        """Give connections back; idempotent."""
        await self._poster.close()
        await self._states.close()

    async def _note(self, delivery: Delivery, reply: Reply, *, last: bool = False) -> Again | None:
        """Write down what came of a try, and say when the next one is."""
        now, after_s = self._now(), None
        if reply.taken:
            state = DeliveryState.DELIVERED
        elif reply.status == GONE:
            state = DeliveryState.REFUSED
        elif last or (after_s := delay_s(STEPS_S, delivery.tries + 1)) is None:
            state = DeliveryState.ABANDONED
        else:
            state, after_s = DeliveryState.WAITING, max(after_s, reply.retry_after_s)
        next_at = None if after_s is None else now + timedelta(seconds=after_s)
        await self._reports.tried(delivery, state, reply.words, at=now, next_at=next_at)
        tell = log.info if reply.taken else log.warning
        tell(
            "webhook tried",
            connection=delivery.connection_id,
            webhook=delivery.target,
            report=delivery.number,
            state=state,
            answer=reply.words,
            tries=delivery.tries + 1,
            next_at=next_at,
        )
        return None if after_s is None else Again(after_s)


def _retry_after_s(header: str, now: datetime) -> float:
    """RFC 9110 §10.2.3: seconds or a date; 0 for what is neither."""
    if header.isascii() and header.isdigit():
        seconds = float(header[:9])
    else:
        try:
            at = parsedate_to_datetime(header)
            seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
        except (ValueError, OverflowError):  # The latter of a year or a zone that there can't be.
            return 0.0
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_S)
