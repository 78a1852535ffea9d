"""Which URLs a request may name to be told of its connection. Pure: a name is looked up when it is connected to."""

from dataclasses import dataclass
from ipaddress import ip_address

from dosvoces.deferred.guard import ForbiddenAddress, Network, check
from dosvoces.settings.webhooks import url_parts

MAX_URL = 2000  # characters
_NEAR = frozenset({"localhost", "local", "localdomain", "internal", "lan", "home", "intranet", "onion", "test"})
"""What names end in that no public address has (RFC 6761, RFC 6762, RFC 7686, ICANN on .internal; and custom)."""
_PLAIN = ("not_allowed", "is not https: what is sent holds phone numbers")


@dataclass(frozen=True, slots=True)
class WebhookUrls:
    """What the settings say of them."""

    hosts: tuple[str, ...] = ()
    """`crm.example.com`, and `*.example.com` for all below it; empty: any."""
    networks: tuple[Network, ...] = ()
    """Where else than to public addresses they may lead."""

    def problem(self, url: str) -> tuple[str, str] | None:
        """A code and what is wrong with it, in words that don't repeat it; `None` if nothing is."""
        if len(url) > MAX_URL:
            return "too_long", f"has more than {MAX_URL} characters"
        try:
            scheme, host, port = url_parts(url)
        except ValueError:
            return "format", "is no plain URL without user and #, as in https://crm.example.com/dosvoces"
        if port < 1024 and port not in (80, 443):
            return "not_allowed", "has a port that is neither 443, 80 nor above 1023"
        host = host.removesuffix(".")
        if self.hosts and not any(_matches(host, each) for each in self.hosts):
            return "not_allowed", "has a host that is not among [webhook_urls] hosts of the settings"
        try:
            address = ip_address(host)
        except ValueError:
            return self._problem_of_name(scheme, host)
        try:
            check(host, address, self.networks)
        except ForbiddenAddress:
            return "not_allowed", "has an address that is not public, nor in [webhook_urls] networks of the settings"
        if scheme == "http" and not any(address in network for network in self.networks):
            return _PLAIN
        return None

    def _problem_of_name(self, scheme: str, host: str) -> tuple[str, str] | None:
        if scheme == "http":
            return _PLAIN
        if not self.networks and ("." not in host or host.rpartition(".")[2] in _NEAR):
            return "not_allowed", "has a name that stands for no public address"
        return None


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
