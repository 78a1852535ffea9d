"""What goes wrong at the service, as exceptions made of its problem details (RFC 9457)."""

from dataclasses import dataclass

import httpx

from dosvoces.errors import DosvocesError


@dataclass(frozen=True, slots=True)
class FieldError:
    """One member that is wrong."""

    field: str
    code: str
    message: str


class Unreachable(DosvocesError):
    """No answer came; under an idempotency key the request may be repeated."""


class ApiError(DosvocesError):
    """The service refused."""

    def __init__(self, status: int, code: str, text: str, errors: tuple[FieldError, ...], retry_after_s: float) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        """As in docs/reference/problems.md; empty where the answer is no problem."""
        self.errors = errors
        self.retry_after_s = retry_after_s
        """0 where the service didn't say."""


class InvalidRequest(ApiError):
    """400, 413, 415, 422: `errors` names the members."""


class NotPermitted(ApiError):
    """401, 403."""


class NotThere(ApiError):
    """404, 410."""


class NotNow(ApiError):
    """429, 503: nothing was done; ask again after `retry_after_s`."""


_KINDS = {
    **dict.fromkeys((400, 413, 415, 422), InvalidRequest),
    **dict.fromkeys((401, 403), NotPermitted),
    **dict.fromkeys((404, 410), NotThere),
    **dict.fromkeys((429, 503), NotNow),
}


def error_of(response: httpx.Response) -> ApiError:
    """The exception for an answer that is none of success."""
    try:
        said = response.json()
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    errors = tuple(
        FieldError(str(each.get("field")), str(each.get("code")), str(each.get("message")))
        for each in said.get("errors", ())
    )
    text = said.get("detail") or said.get("title") or said.get("Message") or f"HTTP {response.status_code}"
    after = response.headers.get("retry-after", "")
    kind = _KINDS.get(response.status_code, ApiError)
    retry_after_s = float(after) if after.isascii() and after.isdigit() else 0.0
    return kind(response.status_code, str(said.get("code", "")), str(text), errors, retry_after_s)
