"""What `/openapi.json` says of `POST /call`, by hand: the endpoint is no FastAPI route. A test keeps it true."""

from typing import Any

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
                "schema": {"type": "string", "minLength": 1, "maxLength": 512},
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
            "408": {"description": "The body took too long", "content": _MESSAGE},
            "409": {
                "description": "The first request with this key has no answer yet",
                "headers": _RETRY_AFTER,
                "content": _MESSAGE,
            },
            "413": {"description": "The body is larger than 64 KiB", "content": _MESSAGE},
            "415": {"description": "The body is not application/json", "content": _MESSAGE},
            "422": {"description": "The key was used for another request", "content": _MESSAGE},
            "500": {
                "description": "The e-mail or a call failed",
                "headers": _LOCATION | _REPLAYED,
                "content": _MESSAGE,
            },
            "503": {"description": "Not tried; safe to repeat", "headers": _RETRY_AFTER, "content": _MESSAGE},
        },
    }
}
