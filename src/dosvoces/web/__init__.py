"""
The HTTP door: every address that is answered, on one screen.

Knows the ports of `ports.py`, the number rules and nothing else of the house. `server.py` puts it on a socket.
"""

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from dosvoces.dialplan import NumberRules
from dosvoces.errors import StoreError
from dosvoces.model import Repeats
from dosvoces.web.api import api_routes
from dosvoces.web.call import CallEndpoint
from dosvoces.web.connections import PATH as CONNECTIONS_PATH
from dosvoces.web.connections import ConnectionsEndpoint
from dosvoces.web.health import healthz, metrics, readyz
from dosvoces.web.openapi import CALL_PATH
from dosvoces.web.ports import Canceller, Connector, Readiness, Records, Scheduler

_log = structlog.get_logger(__name__)


def build_app(
    *,
    connector: Connector,
    scheduler: Scheduler,
    records: Records,
    canceller: Canceller,
    readiness: Readiness,
    rules: NumberRules,
    clock: Callable[[], datetime],
    default_interval_s: int = 0,
    repeats: Repeats = Repeats(),  # noqa: B008  # It is frozen.
) -> FastAPI:
    """The whole HTTP application. `clock` gives the aware UTC time of an order's creation."""
    # The interactive pages load scripts from elsewhere, so they are off; /openapi.json is there.
    app = FastAPI(title="Dosvoces", version=version("dosvoces"), docs_url=None, redoc_url=None, redirect_slashes=False)
    call = CallEndpoint(
        connector=connector, rules=rules, clock=clock, default_interval_s=default_interval_s, repeats=repeats
    )

    app.router.routes.append(Route("/call", call, name="call"))
    app.router.routes.append(Route("/healthz", healthz))
    app.router.routes.append(Route("/readyz", readyz(readiness)))
    app.router.routes.append(Route("/metrics", metrics))
    ask = ConnectionsEndpoint(
        connector=connector,
        scheduler=scheduler,
        records=records,
        rules=rules,
        clock=clock,
        default_interval_s=default_interval_s,
        key_lifetime_s=repeats.key_lifetime_s,
    )
    app.router.routes.append(Route(CONNECTIONS_PATH, ask.__call__, methods=["POST"]))
    app.include_router(api_routes(records, canceller, clock))

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(StoreError, _no_record)
    app.add_exception_handler(Exception, _internal_error)
    _describe_call(app)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"Message": error.detail}, status_code=error.status_code, headers=error.headers)


async def _no_record(request: Request, error: Exception) -> Response:
    """The store's words name files; they are for the operator, who has them in the log and in `/readyz`."""
    _log.warning("record_not_reached", method=request.method, path=request.url.path, error=str(error))
    return JSONResponse({"Message": "The record can't be reached now"}, 503, {"Retry-After": "5"})


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return JSONResponse({"Message": "Internal error"}, status_code=500)


def _describe_call(app: FastAPI) -> None:
    """Add the description of `POST /call`, which FastAPI can't derive, to `/openapi.json`."""
    derived = app.openapi

    def openapi() -> dict[str, Any]:
        description = derived()
        description["paths"].setdefault("/call", CALL_PATH)
        return description

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way of extending it
