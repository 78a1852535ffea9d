"""
Asks the DNS for `sip.resolve`, without ever blocking the loop: dnspython over the loop's own sockets.

Names of the hosts file are honoured, as everywhere else on the machine; of the name service switch's other sources
nothing is known here.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdtypes.IN.NAPTR
import dns.rdtypes.IN.SRV
import dns.resolver

from dosvoces.sip.resolve import Answer, Located, Naptr, Query, ResolveError, Srv, Target, locate

LIFETIME_S = 5.0  # of one question, over all servers
TRY_S = 2.0  # of one try at one server
HOSTS_TTL_S = 60.0
HOSTS = Path("/etc/hosts")


class Dns:
    """The system's resolvers, or `servers` as (address, port)."""

    def __init__(self, servers: Sequence[tuple[str, int]] = (), *, lifetime_s: float = LIFETIME_S) -> None:
        self._servers = servers
        self._lifetime_s = lifetime_s

    async def locate(self, target: Target, *, transports: Sequence[str], families: Sequence[str]) -> Located:
        """Where requests to `target` may go. Raises `ResolveError`."""
        location = locate(target, transports=transports, families=families)
        try:
            questions = next(location)
            while True:
                answers = await asyncio.gather(*map(self.ask, questions))
                questions = location.send(dict(zip(questions, answers, strict=True)))
        except StopIteration as found:
            located = found.value
            assert isinstance(located, Located)
            return located
        finally:
            location.close()

    async def ask(self, query: Query) -> Answer:
        """One question. What goes wrong is in the answer."""
        if query.kind in ("A", "AAAA") and (known := tuple(_in_hosts_file(query))):
            return Answer(known, HOSTS_TTL_S)
        try:
            # A name of one label means one of the local domains (resolv.conf, search).
            found = await self._resolver().resolve(
                query.name, query.kind, search="." not in query.name, lifetime=self._lifetime_s
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return Answer()
        except dns.resolver.LifetimeTimeout:
            return Answer(failure=f"the DNS gave no answer within {self._lifetime_s:g} s")
        except dns.resolver.NoNameservers as error:
            return Answer(failure=_refusal(error))
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            return Answer(failure=f"the DNS can't be asked: {error}")
        records = tuple(_record(rdata) for rdata in found)
        return Answer(records, float(found.rrset.ttl if found.rrset is not None else 0))

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """Made anew for each question: resolv.conf may have changed, and it is read in a fraction of a millisecond."""
        if not self._servers:
            resolver = dns.asyncresolver.Resolver()
        else:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers = [address for address, _port in self._servers]
            resolver.nameserver_ports = dict(self._servers)
        resolver.timeout = TRY_S
        return resolver


def _record(rdata: object) -> Naptr | Srv | str:
    if isinstance(rdata, dns.rdtypes.IN.NAPTR.NAPTR):
        flags, service = rdata.flags.decode("ascii", "replace"), rdata.service.decode("ascii", "replace")
        return Naptr(rdata.order, rdata.preference, flags, service, _text(rdata.replacement))
    if isinstance(rdata, dns.rdtypes.IN.SRV.SRV):
        return Srv(rdata.priority, rdata.weight, rdata.port, _text(rdata.target))
    return str(rdata)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _refusal(error: dns.resolver.NoNameservers) -> str:
    """`SERVFAIL`, as the last server said it."""
    errors = error.kwargs.get("errors") or []
    said = [str(each[3]) for each in errors if len(each) > 3]
    return f"the DNS answered {said[-1]}" if said else "no DNS server answered"


def _in_hosts_file(query: Query) -> Iterator[str]:
    try:
        lines = HOSTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        if query.name.lower() in (name.lower() for name in names) and (":" in address) == (query.kind == "AAAA"):
            yield address


__all__ = ["Dns", "ResolveError"]
