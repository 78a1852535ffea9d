"""`/v1`: what was told about a connection and to whom, once more, and the endpoints that are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Path, Query, Request

from dosvoces.deferred.hooks import Hooks, Known
from dosvoces.model import ConnectionId
from dosvoces.store.endpoints import WEBHOOK
from dosvoces.store.reports import Delivery
from dosvoces.web.api import Id
from dosvoces.web.auth import caller_of
from dosvoces.web.described import DELIVERIES, ENABLED, REPLAY, WEBHOOKS
from dosvoces.web.ports import Records
from dosvoces.web.problems import NO_SUCH_CONNECTION, NO_SUCH_DELIVERY, NO_SUCH_ENDPOINT, ProblemError
from dosvoces.web.stop import admin_of

PATH = "/v1/webhooks"

Message = Annotated[
    str,
    Path(
        description="The webhook-id, or the number in it",
        pattern=r"^([0-9a-hjkmnp-tv-z]{26}\.)?[1-9][0-9]{0,8}$",
    ),
]
Name = Annotated[str, Path(description="Of the settings", pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]
OfEndpoint = Annotated[str | None, Query(description="This endpoint alone", pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """A message on its way to one who is told."""

    webhook_id: str
    """The same in every try."""
    event: str
    endpoint: str
    """The webhook's name; `outcome-mail` for the mail about an outcome."""
    state: str
    """`waiting`, `delivered`, `refused`, `abandoned`."""
    tries: int
    answer: str
    """To the last try: a status, or what went wrong."""
    at: datetime
    """When it happened."""
    tried_at: datetime | None
    next_at: datetime | None
    """When it is tried next; null if it is over, or waits for its endpoint to be enabled."""


@dataclass(frozen=True, slots=True)
class DeliveriesView:
    """In the order of what they tell."""

    data: list[DeliveryView]


@dataclass(frozen=True, slots=True)
class WebhookView:
    """An endpoint of the settings."""

    name: str
    url: str
    """Without what is behind the question mark, which may be a secret."""
    events: list[str]
    state: Literal["enabled", "failing", "disabled"]
    failing_since: datetime | None
    disabled_at: datetime | None
    why: str
    """The last failure in words."""


@dataclass(frozen=True, slots=True)
class WebhooksView:
    data: list[WebhookView]


def webhook_routes(hooks: Hooks, records: Records) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["webhooks"])

    async def deliveries(id: Id) -> DeliveriesView:
        await _existing(records, id)
        return _shown(await hooks.deliveries(ConnectionId(id)))

    async def replay(id: Id, message: Message, request: Request, endpoint: OfEndpoint = None) -> DeliveriesView:
        await _existing(records, id)
        connection, _, number = message.rpartition(".")
        by = caller_of(request.scope).signature
        if connection not in ("", id):
            raise ProblemError(NO_SUCH_DELIVERY, "that webhook-id is of another connection")
        found = await hooks.replay(ConnectionId(id), int(number), endpoint, by=by)
        if not found:
            raise ProblemError(NO_SUCH_DELIVERY)
        return _shown(found)

    async def webhooks() -> WebhooksView:
        return WebhooksView([_endpoint(known) for known in await hooks.endpoints()])

    async def enable(name: Name, request: Request) -> WebhookView:
        by = admin_of(request).signature
        if await hooks.enable(name, by=by) is None:
            raise ProblemError(NO_SUCH_ENDPOINT)
        return next(_endpoint(known) for known in await hooks.endpoints() if known.endpoint.name == name)

    log = "/connections/{id}/deliveries"
    routes.get(log, summary="What was told about a connection, and to whom", responses=DELIVERIES)(deliveries)
    routes.post(
        f"{log}/{{message}}/replay",
        summary="Tell something once more",
        description="Under the same webhook-id, with the same body. What waits is left as it is, so that a repeat of "
        "this changes nothing; what has no body any more, as leads are forgotten, is shown unchanged.",
        status_code=202,
        responses=REPLAY,
    )(replay)
    routes.get("/webhooks", summary="The endpoints that are told, and how they fare", responses=WEBHOOKS)(webhooks)
    routes.post(
        "/webhooks/{name}/enable",
        summary="Let an endpoint be told again",
        description="Takes an admin key. What waits for it is told first.",
        responses=ENABLED,
    )(enable)
    return routes


async def _existing(records: Records, id: str) -> None:
    if await records.connection(ConnectionId(id)) is None:
        raise ProblemError(NO_SUCH_CONNECTION)


def _shown(deliveries: Sequence[Delivery]) -> DeliveriesView:
    return DeliveriesView(
        [
            DeliveryView(
                webhook_id=f"{each.connection_id}.{each.number}",
                event=each.event,
                endpoint=each.target.removeprefix(WEBHOOK),
                state=each.state.value,
                tries=each.tries,
                answer=each.answer,
                at=each.at,
                tried_at=each.tried_at,
                next_at=each.next_at,
            )
            for each in deliveries
        ]
    )


def _endpoint(known: Known) -> WebhookView:
    endpoint, state = known.endpoint, known.state
    url = urlsplit(endpoint.url)._replace(query="").geturl()
    disabled_at = None if state is None else state.disabled_at
    return WebhookView(
        name=endpoint.name,
        url=url,
        events=sorted(endpoint.events),
        state="enabled" if state is None else "failing" if disabled_at is None else "disabled",
        failing_since=None if state is None else state.failing_since,
        disabled_at=disabled_at,
        why="" if state is None else state.why,
    )
