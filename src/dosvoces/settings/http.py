"""The section `[http]` of the settings: where requests come in, from whom, and which of them are repeats."""

import ipaddress
import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from dosvoces.settings.section import Section
from dosvoces.settings.values import comma_separated, is_loopback

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-f:.]+\](?::\d{1,5})?")


def network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f'write a network as "10.0.0.0/8", or one address ({error})') from None


def origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError('write it as browsers do: "https://www.example.com", small letters, nothing after the host')
    return value


Networks = Annotated[
    tuple[Annotated[Network, BeforeValidator(network)], ...], BeforeValidator(comma_separated), Field(max_length=1000)
]
OriginList = Annotated[
    tuple[Annotated[str, AfterValidator(origin)], ...], BeforeValidator(comma_separated), Field(max_length=100)
]

ListenPort = Annotated[int, Field(ge=0, le=65535)]


class Http(Section):
    """Where requests come in."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. `0.0.0.0` lets other machines in: put a proxy with TLS before it. On any address but this
    machine's own the service starts only with API keys, `allow`, or `i_accept_toll_fraud`."""
    port: ListenPort = 8080
    """TCP port to listen on; 0 lets the system choose."""
    idempotency_hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    """How long an `Idempotency-Key` counts: see [Repeated requests](../howto/idempotency.md)."""
    coalesce: bool = True
    """Whether a `POST /call` without a key that says the same as one that is open, or has ended just now, gets that
    one's answer, and nobody is called again."""
    coalesce_s: Annotated[int, Field(ge=0, le=3600)] = 30
    """For how many seconds after the first one's end."""
    keys: Literal["auto", "required"] = "auto"
    """Whether requests need an API key: `auto`, once one was made with `dosvoces keys create`; `required`, always. See
    [API keys](../howto/keys.md)."""
    allow: Networks = ()
    """Networks that requests are taken from, such as `["10.0.0.0/8", "192.0.2.7"]`; from others they get 403. Without
    it: from everywhere."""
    trusted_proxies: Networks = ()
    """Networks of proxies whose `X-Forwarded-For` tells where a request comes from. From anybody else it is ignored."""
    origins: OriginList = ()
    """Web pages that may send requests from a browser, such as `["https://www.example.com"]`; those of others get 403.
    Only these are answered with CORS headers."""
    max_streams: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Event streams that may be open at once; more get 503. See [events](../howto/events.md)."""
    i_accept_toll_fraud: bool = False
    """Start on a public address although whoever reaches it can make calls at your expense."""

    @property
    def guarded(self) -> bool:
        """Whether the settings alone keep strangers from making calls."""
        everybody = any(each.prefixlen == 0 for each in self.allow)
        return is_loopback(self.host) or self.keys == "required" or (bool(self.allow) and not everybody)
