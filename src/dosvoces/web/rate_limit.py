"""
How a client stands against its ceilings, in the headers of the answer.

`RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10 (§3, §4): lists of Structured Fields
(RFC 9651) whose items are the policies' names. Only what is counted for the client itself is told: its key's and its
network address's ceilings.
"""

from collections.abc import Sequence

from dosvoces.model import Standing
from dosvoces.web.answers import Header


def rate_limit(standing: Sequence[Standing]) -> tuple[Header, ...]:
    """The headers; none where nothing is counted for the client."""
    if not standing:
        return ()
    policy = ", ".join(f'"{each.name}";q={each.most};w={each.window_s}' for each in standing)
    limit = ", ".join(f'"{each.name}";r={each.left};t={each.reset_s}' for each in standing)
    return (b"ratelimit-policy", policy.encode()), (b"ratelimit", limit.encode())
