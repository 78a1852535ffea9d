"""
What `/openapi.json` says of the addresses that are no FastAPI routes, by hand: `POST /call`, `POST /v1/connections`,
and those for whoever watches the service. Tests keep it true.
"""

from typing import Any

from dosvoces.web.described import ASKED, OPEN_EXAMPLE, PROBLEM_SCHEMA, with_nulls
from dosvoces.web.fields import MAX_INTERVAL_S
from dosvoces.web.terms import (
    LEAD_NAMES,
    MAX_LEAD_MEMBERS,
    MAX_METADATA_MEMBERS,
    MAX_METADATA_TEXT,
    MAX_RING_TIMEOUT_S,
    MAX_TALK_LIMIT_S,
)
from dosvoces.web.webhook_urls import MAX_URL

_MESSAGE: dict[str, Any] = {
    "application/json": {
        "schema": {"type": "object", "properties": {"Message": {"type": "string"}}, "required": ["Message"]}
    }
}

_PROBLEMS: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "Message": {"type": "string", "example": "Missing arguments firstnumber: , secondnumber: , email: "},
                "Errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {name: {"type": "string"} for name in ("field", "code", "message")},
                    },
                },
            },
            "required": ["Message", "Errors"],
        }
    }
}

KEY_PATTERN = r"""^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"""
"""As `repeats.idempotency_key` takes it."""

_DESCRIPTIVE: dict[str, Any] = {"type": ["string", "number", "null"], "maxLength": 2000}
_LOCATION = {"Location": {"description": "The connection as a resource", "schema": {"type": "string"}}}
_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true`: the answer to an earlier request, of the same key or body",
        "schema": {"type": "string", "const": "true"},
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}

CALL_PATH: dict[str, Any] = {
    "post": {
        "summary": "E-mail a lead, dial two numbers and join them",
        "description": "Answers when both calls have been made: the second party's phone rings. "
        "Takes at least `call_interval` seconds.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "A repeat under the same key gets the first answer; nobody is called twice. In quotes, "
                "which may be left out where it has no blanks, commas, semicolons, quotes or backslashes.",
                "schema": {"type": "string", "pattern": KEY_PATTERN},
                "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["firstnumber", "secondnumber", "email"],
                        "properties": {
                            "firstnumber": {"type": "string", "example": "+34222222222"},
                            "secondnumber": {"type": "string", "example": "+34111111111"},
                            "email": {"type": "string", "format": "email"},
                            "nombre_propiedad": _DESCRIPTIVE,
                            "nombre_comercializador": _DESCRIPTIVE,
                            "url_anuncio": _DESCRIPTIVE,
                            "ciudad_propiedad": _DESCRIPTIVE,
                            "m2_vivienda": _DESCRIPTIVE,
                            "precio_vivienda": _DESCRIPTIVE,
                            "call_interval": {"type": ["integer", "null"], "minimum": 0, "maximum": 300},
                        },
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "Both calls were made",
                "headers": _LOCATION | _REPLAYED,
                "content": {"text/plain": {"schema": {"type": "string", "const": "Data received successfully"}}},
            },
            "400": {"description": "Something is missing or invalid; nothing was done", "content": _PROBLEMS},
            "401": {"description": "No API key, where one is needed, or one that opens nothing", "content": _MESSAGE},
            "403": {"description": "The key, the network or the page may not ask for this", "content": _MESSAGE},
            "408": {"description": "The body took too long", "content": _MESSAGE},
            "409": {
                "description": "The first request with this key has no answer yet",
                "headers": _RETRY_AFTER,
                "content": _MESSAGE,
            },
            "413": {"description": "The body is larger than 64 KiB", "content": _MESSAGE},
            "415": {"description": "The body is not application/json", "content": _MESSAGE},
            "422": {"description": "The key was used for another request", "content": _MESSAGE},
            "429": {
                "description": "A ceiling is reached; nothing was done",
                "headers": _RETRY_AFTER,
                "content": _MESSAGE,
            },
            "500": {
                "description": "The e-mail or a call failed",
                "headers": _LOCATION | _REPLAYED,
                "content": _MESSAGE,
            },
            "503": {"description": "Not tried; safe to repeat", "headers": _RETRY_AFTER, "content": _MESSAGE},
        },
    }
}

_KEY: dict[str, Any] = CALL_PATH["post"]["parameters"][0]
_E164 = {"type": ["string", "null"], "pattern": r"^\+[0-9]{7,15}$", "example": "+34910000000"}


def _seconds(most: int, least: int, what: str) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": least, "maximum": most, "description": what}


def _moment(what: str) -> dict[str, Any]:
    return {"type": ["string", "null"], "format": "date-time", "description": what}


_ASK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["first_number", "second_number", "email"],
    "properties": {
        "first_number": {"type": "string", "example": "+34600000011", "description": "Who is dialled first"},
        "second_number": {"type": "string", "example": "+34960000022"},
        "email": {"type": "string", "format": "email", "description": "Whom the lead is mailed to"},
        **dict.fromkeys(LEAD_NAMES, _DESCRIPTIVE),
        "lead": {
            "type": ["object", "null"],
            "description": "Whatever else the mail shall tell, under names of your own",
            "maxProperties": MAX_LEAD_MEMBERS,
            "propertyNames": {"pattern": r"^[A-Za-z0-9 _.-]{0,59}[A-Za-z0-9]$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"], "maxLength": 2000},
        },
        "interval": _seconds(MAX_INTERVAL_S, 0, "Seconds from dialling the first to dialling the second"),
        "ring_timeout": _seconds(MAX_RING_TIMEOUT_S, 1, "Longest that each is rung; at most what the settings say"),
        "talk_limit": _seconds(MAX_TALK_LIMIT_S, 1, "Longest conversation; at most what the settings say"),
        "caller_ids": {
            "type": ["object", "null"],
            "description": "What each party sees, of the trunk's caller_ids",
            "properties": {"first": _E164, "second": _E164},
        },
        "not_before": _moment("When it may begin; absent or past: at once"),
        "schedule_at": _moment("Another name for not_before"),
        "expires_at": _moment("If it hasn't begun by then, nobody is called"),
        "locale": {"type": ["string", "null"], "example": "es", "description": "The language of its mails"},
        "metadata": {
            "type": ["object", "null"],
            "description": "Yours; kept, given back, and searched for. Don't put personal data here",
            "maxProperties": MAX_METADATA_MEMBERS,
            "propertyNames": {"pattern": r"^[A-Za-z0-9_.-]{1,40}$"},
            "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_TEXT},
        },
        "webhook_url": {
            "type": ["string", "null"],
            "format": "uri",
            "maxLength": MAX_URL,
            "example": "https://crm.example.com/dosvoces",
            "description": "Told of all that happens, signed; 400 where [webhook_urls] of the settings has no secret",
        },
    },
}

ASK: dict[str, Any] = {
    "tags": ["connections"],
    "summary": "Ask for a connection, now or later",
    "operationId": "ask_for_connection",
    "description": "Answers at once, or with `Prefer: wait=N` when both talk, when it is over, or after N seconds.",
    "parameters": [
        _KEY,
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`wait=N` (RFC 7240); more than 60 seconds count as 60",
            "schema": {"type": "string"},
            "example": "wait=5",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _ASK_SCHEMA,
                "example": {
                    "first_number": "+34600000011",
                    "second_number": "+34960000022",
                    "email": "ana@example.com",
                    "interval": 3,
                    "lead": {"city": "Valencia", "rooms": 3},
                    "metadata": {"lead_id": "4711"},
                },
            }
        },
    },
    "responses": {
        "202": {
            "description": "It is recorded and begun, or waits",
            "headers": _LOCATION
            | _REPLAYED
            | {"Preference-Applied": {"description": "The `wait` that was heeded", "schema": {"type": "string"}}},
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ConnectionView"},
                    "example": OPEN_EXAMPLE,
                }
            },
        },
        **{str(status): said for status, said in ASKED.items()},
    },
}

_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
_WORDS = {"type": "array", "items": {"type": "string"}}


def _status(description: str, example: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = _STATUS | {"properties": {"status": {"type": "string"}, **more}}
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


WATCHED: dict[str, Any] = {
    "/healthz": {
        "get": {
            "tags": ["health"],
            "summary": "Whether the process answers",
            "responses": {"200": _status("It does", {"status": "ok"})},
        }
    },
    "/readyz": {
        "get": {
            "tags": ["health"],
            "summary": "Whether a call could be made now",
            "responses": {
                "200": _status("It could", {"status": "ready"}, warnings=_WORDS),
                "503": _status(
                    "It could not",
                    {"status": "not ready", "problems": ["no trunk is configured"]},
                    problems=_WORDS,
                    warnings=_WORDS,
                ),
            },
        }
    },
    "/metrics": {
        "get": {
            "tags": ["health"],
            "summary": "Figures for Prometheus",
            "responses": {
                "200": {
                    "description": "Counters and gauges",
                    "content": {"text/plain": {"schema": {"type": "string"}, "example": "dosvoces_open_connections 3"}},
                }
            },
        }
    },
}


SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `dv_live_…` or `dv_test_…`, where needed",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "The API key as user name; any password"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
"""Each of them says the same key, in the place that a client can put it."""
for _path in WATCHED.values():
    _path["get"]["security"] = []  # `/metrics` is open to this machine alone, which can't be said here.


def completed(derived: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI derived, with what it can't know. Doing it twice changes nothing."""
    paths = derived["paths"] = with_nulls(derived["paths"])
    paths.update({"/call": CALL_PATH, **WATCHED})
    paths["/v1/connections"]["post"] = ASK
    schemas = derived["components"]["schemas"]
    derived["components"]["securitySchemes"] = SECURITY_SCHEMES
    derived["security"] = [{name: []} for name in SECURITY_SCHEMES]
    schemas["Problem"] = PROBLEM_SCHEMA
    # FastAPI's own form of refusing a query is not ours: it is answered with 400.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in paths.values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    return derived
