"""
What goes wrong at `/v1`, as problem details (RFC 9457): every code there is, and the answers made of them.

A code is for programs and stays; its words are for people and may change. `type` is an address of this service, which
tells what the code means; `docs/reference/problems.md` is made of the same table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dosvoces.web.answers import Header, Problem, Reply

MEDIA_TYPE = "application/problem+json"
PATH = "/v1/problems"


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be wrong."""

    code: str
    status: int
    title: str
    remedy: str
    """What it means for the client, and what to do."""

    @property
    def type(self) -> str:
        return f"{PATH}/{self.code}"


INVALID = Kind(
    "invalid_request",
    400,
    "The request is not valid",
    "Nothing was done. `errors` names each member that is missing or wrong, with a code of its own; mend them and ask "
    "again.",
)
BROKEN_OFF = Kind("broken_off", 400, "The request was broken off", "Nothing was done. Ask again.")
FORBIDDEN = Kind(
    "forbidden",
    403,
    "This needs a key that may do more",
    "Nothing was done. Use an API key with the scope that `detail` names.",
)
KEY_NEEDED = Kind(
    "key_needed",
    401,
    "An API key is needed: Authorization: Bearer dv_…",
    "Nothing was done. Show a key as a bearer token, as the user name of Basic, or in `X-Api-Key`.",
)
SEVERAL_KEYS = Kind(
    "several_keys",
    401,
    "The request shows different API keys; show one",
    "Nothing was done. Show one key in one place.",
)
KEY_UNKNOWN = Kind(
    "key_unknown", 401, "There is no such API key", "Nothing was done. Look for a typing error, or make a key."
)
KEY_REVOKED = Kind("key_revoked", 401, "This API key was revoked", "Nothing was done. Use the key that took its place.")
KEY_EXPIRED = Kind("key_expired", 401, "This API key has expired", "Nothing was done. Ask the operator for a new one.")
STRAY_TEST_KEY = Kind(
    "test_key_unknown",
    401,
    "There is no such test key here, and without a key the calls are real",
    "Nothing was done. Make a test key with this service, or show no key to make real calls.",
)
NETWORK_REFUSED = Kind(
    "network_refused",
    403,
    "Requests from this network are not taken",
    "Nothing was done. `[http] allow` names the networks whose requests are.",
)
KEY_NETWORK = Kind(
    "key_network",
    403,
    "This API key may not be used from this network",
    "Nothing was done. The key names the networks that it may be used from.",
)
SCOPE_MISSING = Kind(
    "scope_missing", 403, "This API key lacks a scope", "Nothing was done. `detail` names the scope that this takes."
)
TEST_KEY = Kind(
    "test_key_refused",
    403,
    "A test key asks for connections, ends its own and looks at all: for this, use a live key",
    "Nothing was done.",
)
FOREIGN_PAGE = Kind(
    "foreign_page",
    403,
    "Requests from this page are not taken",
    "Nothing was done. `[http] origins` names the pages whose requests are.",
)
KEYS_UNREACHABLE = Kind(
    "keys_unreachable",
    503,
    "The API keys can't be checked now; nothing was done",
    "Ask again after `Retry-After` seconds.",
)
NO_SUCH_ADDRESS = Kind("no_such_address", 404, "There is nothing at this address", "Look the path up.")
NO_SUCH_CONNECTION = Kind(
    "no_such_connection",
    404,
    "There is no such connection",
    "It never was, or the time for which connections are kept is over. Ids are 26 characters, in lower case.",
)
NOT_A_TRIAL = Kind(
    "not_a_trial_run",
    403,
    "A test key ends trial runs alone",
    "Nothing was done: this is a real connection. Use a live key.",
)
METHOD = Kind("method_not_allowed", 405, "This address does not take this method", "`Allow` names those that it takes.")
TOO_SLOW = Kind(
    "body_too_slow", 408, "The body took too long", "Nothing was done. Ask again, and send the body at once."
)
NO_SUCH_DELIVERY = Kind(
    "no_such_delivery",
    404,
    "There is no such delivery",
    "That message was told to nobody of that name. `GET /v1/connections/{id}/deliveries` shows what was told to whom.",
)
NO_SUCH_ENDPOINT = Kind(
    "no_such_webhook",
    404,
    "There is no such webhook",
    "Name one of the settings; `GET /v1/webhooks` lists them.",
)
NO_SUCH_EVENT = Kind(
    "no_such_event",
    410,
    "There is no such event any more",
    "What followed the event that `Last-Event-ID` names can't be told: it was forgotten, or never was. Read the list "
    "of connections, and listen without `Last-Event-ID`.",
)
TOO_LARGE = Kind("body_too_large", 413, "The body is too large", "Nothing was done. A body has at most 64 KiB.")
MEDIA = Kind(
    "unsupported_media_type", 415, "The body is not JSON", "Send it as `Content-Type: application/json`, in UTF-8."
)
KEY_REUSED = Kind(
    "key_reused",
    422,
    "This Idempotency-Key was used for another request",
    "Nothing was done. A new request needs a new key; a repeat must ask for the same.",
)
TOO_MANY = Kind(
    "too_many",
    429,
    "A ceiling is reached",
    "Nothing was done: as much was asked for in this hour or day as the operator allows, or as many of this key's "
    "connections are open; `detail` says which. Ask again after `Retry-After` seconds. `RateLimit` tells how the key "
    "and the network address stand.",
)
FAILED = Kind(
    "internal_error",
    500,
    "Internal error",
    "A fault of the service, which its log has. Whether anything was done, the list of connections tells.",
)
NOT_NOW = Kind(
    "not_now",
    503,
    "Not tried now",
    "Nothing was done: the service is full, is stopping, or reaches no trunk; `detail` says which. Ask again after "
    "`Retry-After` seconds.",
)
NOT_RECORDED = Kind(
    "not_recorded", 503, "The request can't be recorded now", "Nothing was done. Ask again after `Retry-After` seconds."
)
NO_RECORD = Kind("record_unreachable", 503, "The record can't be reached now", "Ask again after `Retry-After` seconds.")
NO_MORE_STREAMS = Kind(
    "no_more_streams",
    503,
    "No more streams now",
    "So many listen to this node already (`[http] max_streams`), or it is stopping. Ask again after `Retry-After` "
    "seconds; with `Last-Event-ID`, nothing is missed.",
)
OVERLOADED = Kind(
    "overloaded", 503, "Too many requests at once", "Nothing was done. Ask again after `Retry-After` seconds."
)

AT_THE_DOOR = (
    KEY_NEEDED,
    SEVERAL_KEYS,
    KEY_UNKNOWN,
    KEY_REVOKED,
    KEY_EXPIRED,
    STRAY_TEST_KEY,
    NETWORK_REFUSED,
    KEY_NETWORK,
    SCOPE_MISSING,
    TEST_KEY,
    FOREIGN_PAGE,
    KEYS_UNREACHABLE,
)
"""What any address may be answered with before it is looked at."""

KINDS = {
    kind.code: kind
    for kind in (
        INVALID,
        BROKEN_OFF,
        FORBIDDEN,
        *AT_THE_DOOR,
        NO_SUCH_ADDRESS,
        NO_SUCH_CONNECTION,
        NO_SUCH_DELIVERY,
        NO_SUCH_ENDPOINT,
        NOT_A_TRIAL,
        NO_SUCH_EVENT,
        METHOD,
        TOO_SLOW,
        TOO_LARGE,
        MEDIA,
        KEY_REUSED,
        TOO_MANY,
        FAILED,
        NOT_NOW,
        NOT_RECORDED,
        NO_RECORD,
        NO_MORE_STREAMS,
        OVERLOADED,
    )
}

FIELD_CODES = {
    "missing": "mandatory, and not there or empty",
    "type": "of another JSON type than it must be",
    "format": "not written as it must be",
    "range": "too small, too large, too early or too late",
    "too_long": "a text with too many characters",
    "too_many": "has too many members",
    "twice": "given in two places at once",
    "same_number": "both parties have the same number",
    "not_allowed": "not permitted by the settings of this installation",
    "do_not_call": "a number on the operator's do-not-call list",
    "no_rate": "a number that the operator's rate table, and so the day's budget, has no price for",
    "quiet_hours": "asked for outside of the hours in which the two parties' countries are called",
    "unknown": "nothing that there is a choice of",
}
"""The codes within `errors`; the rules for numbers (`dialplan`) add theirs, which `dosvoces number` explains."""


class ProblemError(Exception):
    """Ends a request of `/v1` with a problem."""

    def __init__(
        self, kind: Kind, detail: str = "", errors: Sequence[Problem] = (), headers: Sequence[Header] = ()
    ) -> None:
        super().__init__(detail or kind.title)
        self.reply = problem(kind, detail, *headers, errors=errors)


def problem(kind: Kind, detail: str = "", *headers: Header, errors: Sequence[Problem] = ()) -> Reply:
    """The answer that says so; `detail` is about this one occurrence."""
    body = json.dumps(details(kind, detail, errors), ensure_ascii=False)
    return Reply(kind.status, body, headers, media_type=MEDIA_TYPE)


def details(kind: Kind, detail: str, errors: Sequence[Problem]) -> dict[str, object]:
    """The body of such an answer."""
    body: dict[str, object] = {"type": kind.type, "title": kind.title, "status": kind.status, "code": kind.code}
    if detail:
        body["detail"] = detail
    if errors:
        body["errors"] = [{"field": p.field, "code": p.code, "message": p.message} for p in errors]
    return body


def invalid(errors: Sequence[Problem]) -> Reply:
    """The 400 that names each of `errors`."""
    names = ", ".join(dict.fromkeys(error.field for error in errors))
    return problem(INVALID, f"Missing or invalid: {names}", errors=errors)


def page() -> str:
    """`docs/reference/problems.md`."""
    lines = [
        "# Problems",
        "",
        "Written by `make docs` from `src/dosvoces/web/problems.py`; don't edit it here.",
        "",
        "What goes wrong at `/v1` is answered as `application/problem+json` (RFC 9457). `code` is stable and for",
        "programs, `title` and `detail` are for people. `type` is the address at which the service itself tells what",
        "stands here. `POST /call` has the answers of its contract instead.",
        "",
    ]
    for kind in KINDS.values():
        lines += [f"## `{kind.code}`", "", f"{kind.status}: {kind.title}. {kind.remedy}", ""]
    lines += ["## Codes within `errors`", "", "| code | the member is |", "| --- | --- |"]
    lines += [f"| `{code}` | {words} |" for code, words in FIELD_CODES.items()]
    lines += ["", "Refused numbers have codes of their own, which `dosvoces number +34…` explains.", ""]
    return "\n".join(lines)
