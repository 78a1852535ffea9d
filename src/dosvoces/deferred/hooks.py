"""What an operator sees of webhooks and does about them: what was told, once more, and endpoints that are disabled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dosvoces.deferred.webhooks import Endpoint
from dosvoces.model import ConnectionId
from dosvoces.store.endpoints import WEBHOOK, Endpoints, EndpointState
from dosvoces.store.reports import Delivery, Reports


@dataclass(frozen=True, slots=True)
class Known:
    """An endpoint of the settings, and how it fares: `None` if it takes what it is told."""

    endpoint: Endpoint
    state: EndpointState | None


class Hooks:
    """The operator's desk; `wake` has the dispatcher look for what is to be told. Its methods raise `StoreError`."""

    def __init__(
        self, endpoints: Sequence[Endpoint], reports: Reports, states: Endpoints, wake: Callable[[], None]
    ) -> None:
        self._endpoints = endpoints
        self._reports = reports
        self._states = states
        self._wake = wake

    async def deliveries(self, connection_id: ConnectionId) -> Sequence[Delivery]:
        """The delivery log of a connection: webhooks, and the outcome's mail."""
        return await self._reports.deliveries_of(connection_id)

    async def replay(
        self, connection_id: ConnectionId, number: int, endpoint: str | None, *, by: str
    ) -> Sequence[Delivery]:
        """Have a message told once more, to one endpoint or to all that it went to; those deliveries as they are then.

        What waits is left as it is. None if there is no such message.
        """

        async def chosen() -> Sequence[Delivery]:
            log = await self._reports.deliveries_of(connection_id)
            return [each for each in log if each.number == number and is_for(each, endpoint)]

        if await self._states.replay(await chosen(), by=by):
            self._wake()
        return await chosen()

    async def endpoints(self) -> Sequence[Known]:
        """Those of the settings."""
        states = await self._states.states()
        return [Known(endpoint, states.get(endpoint.name)) for endpoint in self._endpoints]

    async def enable(self, name: str, *, by: str) -> bool | None:
        """Let an endpoint be told again; whether it was disabled, `None` if there is none of that name."""
        if all(endpoint.name != name for endpoint in self._endpoints):
            return None
        enabled = await self._states.enable(name, by=by)
        self._wake()
        return enabled


def is_for(delivery: Delivery, endpoint: str | None) -> bool:
    """Whether that is a webhook's delivery, to this endpoint if one is named."""
    return delivery.target.startswith(WEBHOOK) and endpoint in (None, delivery.target.removeprefix(WEBHOOK))
