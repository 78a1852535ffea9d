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
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from dosvoces.deferred.hooks import Hooks
from dosvoces.dialplan import NumberRules
from dosvoces.errors import StoreError
from dosvoces.mail.messages import locales
from dosvoces.model import Repeats
from dosvoces.store.feed import Feed
from dosvoces.web.answers import Problem, Reply
from dosvoces.web.api import api_routes
from dosvoces.web.call import CallEndpoint
from dosvoces.web.connections import PATH as CONNECTIONS_PATH
from dosvoces.web.connections import ConnectionsEndpoint
from dosvoces.web.feed import Listeners
from dosvoces.web.health import healthz, metrics, readyz
from dosvoces.web.openapi import completed
from dosvoces.web.ports import Canceller, Connector, Readiness, Records, Scheduler
from dosvoces.web.problems import (
    FAILED,
    METHOD,
    NO_RECORD,
    NO_SUCH_ADDRESS,
    NO_SUCH_CONNECTION,
    NO_SUCH_DELIVERY,
    NO_SUCH_ENDPOINT,
    Kind,
    ProblemError,
    invalid,
    problem,
)
from dosvoces.web.problems import PATH as PROBLEMS_PATH
from dosvoces.web.recipient import ALL_DOMAINS, Domains
from dosvoces.web.stop import PATH as STOP_PATH
from dosvoces.web.stop import Switch, stop_routes
from dosvoces.web.streams import Streams
from dosvoces.web.webhook_urls import WebhookUrls
from dosvoces.web.webhooks import PATH as WEBHOOKS_PATH
from dosvoces.web.webhooks import webhook_routes

_log = structlog.get_logger(__name__)


def build_app(
    *,
    connector: Connector,
    scheduler: Scheduler,
    records: Records,
    feed: Feed,
    listeners: Listeners,
    canceller: Canceller,
    switch: Switch,
    hooks: Hooks,
    readiness: Readiness,
    rules: NumberRules,
    clock: Callable[[], datetime],
    default_interval_s: int = 0,
    repeats: Repeats = Repeats(),  # noqa: B008  # It is frozen.
    domains: Domains = ALL_DOMAINS,
    webhook_urls: WebhookUrls | None = None,
) -> FastAPI:
    """The whole HTTP application. `clock` gives the aware UTC time of an order's creation."""
    app = _door()
    call = CallEndpoint(
        connector=connector,
        rules=rules,
        clock=clock,
        default_interval_s=default_interval_s,
        repeats=repeats,
        domains=domains,
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
        locales=frozenset(locales()),
        default_interval_s=default_interval_s,
        key_lifetime_s=repeats.key_lifetime_s,
        domains=domains,
        webhook_urls=webhook_urls,
    )
    app.router.routes.append(Route(CONNECTIONS_PATH, ask.__call__, methods=["POST"]))
    streams = Streams(feed=feed, listeners=listeners, records=records, clock=clock)
    app.include_router(api_routes(records, canceller, clock, streams))
    app.include_router(stop_routes(switch))
    app.include_router(webhook_routes(hooks, records))

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(StoreError, _no_record)
    app.add_exception_handler(Exception, _internal_error)
    _describe(app)
    return app


def description() -> dict[str, Any]:
    """What `/openapi.json` says, without a service."""
    app = _door()
    nothing: Any = None  # Nobody asks.
    app.include_router(api_routes(nothing, nothing, nothing, nothing))
    app.include_router(stop_routes(nothing))
    app.include_router(webhook_routes(nothing, nothing))
    return completed(app.openapi())


def _door() -> FastAPI:
    # The interactive pages load scripts from elsewhere, so they are off; /openapi.json is there.
    return FastAPI(title="Dosvoces", version=version("dosvoces"), docs_url=None, redoc_url=None, redirect_slashes=False)


_ALLOWED = {CONNECTIONS_PATH: "GET, POST", STOP_PATH: "DELETE, POST"}
"""Where two routes have one address: Starlette names the methods of the first alone."""


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not _in_v1(request):
        return JSONResponse({"Message": error.detail}, status_code=error.status_code, headers=error.headers)
    if error.status_code == 405:
        allow = _ALLOWED.get(request.url.path) or (error.headers or {}).get("Allow", "")
        return _response(problem(METHOD, "", (b"allow", allow.encode())))
    return _response(problem(NO_SUCH_ADDRESS))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _response(error.reply)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """What FastAPI found wrong with a path or a query, in our words."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["loc"][0] == "path" for one in found):
        return _response(problem(_missing(request.url.path, {one["loc"][1] for one in found})))
    problems = [
        Problem(".".join(map(str, one["loc"][1:])), _FIELD_CODES.get(one["type"], "format"), one["msg"])
        for one in found
    ]
    return _response(invalid(problems))


def _missing(path: str, wrong: set[str]) -> Kind:
    """What there isn't at an address of which these parts can't be."""
    if path.startswith(PROBLEMS_PATH):
        return NO_SUCH_ADDRESS
    if path.startswith(WEBHOOKS_PATH):
        return NO_SUCH_ENDPOINT
    return NO_SUCH_DELIVERY if wrong == {"message"} else NO_SUCH_CONNECTION


_FIELD_CODES = {
    "enum": "unknown",
    "literal_error": "unknown",
    "greater_than_equal": "range",
    "less_than_equal": "range",
    "string_too_long": "too_long",
    "int_parsing": "type",
    "missing": "missing",
}


async def _no_record(request: Request, error: Exception) -> Response:
    """The store's words name files; they are for the operator, who has them in the log and in `/readyz`."""
    _log.warning("record_not_reached", method=request.method, path=request.url.path, error=str(error))
    if _in_v1(request):
        return _response(problem(NO_RECORD, "", (b"retry-after", b"5")))
    return JSONResponse({"Message": NO_RECORD.title}, 503, {"Retry-After": "5"})


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    if _in_v1(request):
        return _response(problem(FAILED))
    return JSONResponse({"Message": FAILED.title}, status_code=500)


def _in_v1(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


def _response(reply: Reply) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    return Response(reply.body, reply.status, headers, media_type=reply.media_type)


def _describe(app: FastAPI) -> None:
    """Add to `/openapi.json` what FastAPI can't derive."""
    derived = app.openapi
    app.openapi = lambda: completed(derived())  # type: ignore[method-assign]  # FastAPI's documented way
