"""The section `[http]` of the settings: where requests come in, and which of them are repeats."""

from typing import Annotated

from pydantic import Field

from dosvoces.settings_section import Section

ListenPort = Annotated[int, Field(ge=0, le=65535)]


class Http(Section):
    """Where requests come in."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. `0.0.0.0` lets other machines in: put a proxy with TLS and access rules before it."""
    port: ListenPort = 8080
    """TCP port to listen on; 0 lets the system choose."""
    idempotency_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    """How long an `Idempotency-Key` counts: see [Repeated requests](../howto/idempotency.md)."""
    coalesce: bool = True
    """Whether a `POST /call` without a key that says the same as one that is open, or has ended just now, gets that
    one's answer, and nobody is called again."""
    coalesce_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """For how many seconds after the first one's end."""
