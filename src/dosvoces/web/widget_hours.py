"""How often something was done within the last hour, on this node. Pure."""

import ipaddress
from collections import deque
from datetime import datetime, timedelta

from dosvoces.keys import Address

HOUR = timedelta(hours=1)
MAX_KNOWN = 10_000
"""Of how many that is known; beyond, who was seen longest ago is forgotten."""


class Hourly:
    """At most `most` in any hour for each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._when: dict[object, deque[datetime]] = {}

    def admits(self, who: Address | str | None, now: datetime) -> bool:
        """Whether one more is within the limit. Who isn't known shares one count."""
        times = self._when.get(_counted(who))
        while times and times[0] <= now - HOUR:
            times.popleft()
        return not times or len(times) < self._most

    def count(self, who: Address | str | None, now: datetime) -> None:
        """One more was done."""
        key = _counted(who)
        times = self._when.pop(key, None) or deque(maxlen=self._most)
        times.append(now)
        self._when[key] = times  # Put last: the first is who was seen longest ago.
        if len(self._when) > MAX_KNOWN:
            del self._when[next(iter(self._when))]

    def take_back(self, who: Address | str | None, now: datetime) -> None:
        """What was counted at `now` was not done after all."""
        times = self._when.get(_counted(who))
        if times and now in times:
            times.remove(now)


def _counted(who: Address | str | None) -> object:
    """An IPv6 customer has a /64 (RFC 6177) and may take any address of it."""
    if isinstance(who, ipaddress.IPv6Address):
        return ipaddress.ip_network((who, 64), strict=False)
    return who
