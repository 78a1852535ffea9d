"""For whoever watches the service: is the process alive, and could it make a call now?"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dosvoces import telemetry
from dosvoces.keys import Scope
from dosvoces.web.auth import principal_of
from dosvoces.web.ports import Readiness


async def healthz(request: Request) -> Response:
    """200 as long as the process answers at all."""
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Counters and gauges in Prometheus' text format."""
    return Response(telemetry.metrics_page(), media_type=telemetry.METRICS_TYPE)


def readyz(readiness: Readiness) -> Callable[[Request], Awaitable[Response]]:
    """200 if a call could be made now, otherwise 503; what is missing is told to who may read."""

    async def respond(request: Request) -> Response:
        problems, warnings = await readiness.ready(), readiness.warnings()
        principal = principal_of(request.scope)
        if principal is None or not principal.may(Scope.READ):
            state = "not ready" if problems else "ready"
            return JSONResponse({"status": state}, status_code=503 if problems else 200)
        told = {"warnings": warnings} if warnings else {}
        if not problems:
            return JSONResponse({"status": "ready", **told})
        return JSONResponse({"status": "not ready", "problems": problems, **told}, status_code=503)

    return respond
