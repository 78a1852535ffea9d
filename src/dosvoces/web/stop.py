"""`/v1/stop`: all calls are stopped, on all nodes, and may be made again; for whoever has an admin key."""

from typing import Protocol

from fastapi import APIRouter, Request, Response

from dosvoces.keys import Principal, Scope
from dosvoces.web.auth import principal_of
from dosvoces.web.described import STOP
from dosvoces.web.problems import FORBIDDEN, ProblemError

PATH = "/v1/stop"


class Switch(Protocol):
    """Stops all calls, on all nodes."""

    async def stop_calls(self, *, by: str) -> bool:
        """End all calls, and let none be begun; `False` if that is so already. Raises `StoreError`."""

    async def resume_calls(self, *, by: str) -> bool:
        """Let calls be made again; `False` if they may be already. Raises `StoreError`."""


def stop_routes(switch: Switch) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["operation"])

    async def stop(request: Request) -> Response:
        await switch.stop_calls(by=admin_of(request).who)
        return Response(status_code=204)

    async def resume(request: Request) -> Response:
        await switch.resume_calls(by=admin_of(request).who)
        return Response(status_code=204)

    described = (
        "Takes an admin key. In the record on return; every node follows within a second. Repeated, it is a 204 too."
    )
    routes.post("/stop", summary="Stop all calls", description=described, status_code=204, responses=STOP)(stop)
    routes.delete("/stop", summary="Let calls be made again", description=described, status_code=204, responses=STOP)(
        resume
    )
    return routes


def admin_of(request: Request) -> Principal:
    """Who asks, if they may do everything. Raises `ProblemError`."""
    principal = principal_of(request.scope)
    if principal is None or not principal.may(Scope.ADMIN):
        raise ProblemError(FORBIDDEN, "an API key with the scope admin is needed")
    return principal
