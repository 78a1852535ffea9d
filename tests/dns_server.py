"""A DNS server on loopback that says what the test wrote down, and can fail in the ways that servers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from dosvoces.carriers.dns import Dns
from dosvoces.sip.resolve import Query

HOST = "127.0.0.1"


class DnsServer(asyncio.DatagramProtocol):
    """Answers over UDP. What isn't in `records` is NXDOMAIN."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        """By name and kind: the records' texts, as in a zone file."""
        self.ttl = 60
        self.rcode: dns.rcode.Rcode | None = None
        """Every question is answered with that."""
        self.silent = False
        self.asked: list[Query] = []
        self.dns: Dns

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["DnsServer"]:
        transport, server = await asyncio.get_running_loop().create_datagram_endpoint(cls, local_addr=(HOST, 0))
        server.dns = Dns([transport.get_extra_info("sockname")], lifetime_s=0.5)
        try:
            yield server
        finally:
            transport.close()

    def add(self, name: str, kind: str, *texts: str) -> None:
        self.records[name, kind] = list(texts)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(Query(name, kind))
        if self.silent:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif texts := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", kind, *texts))
        elif not any(known == name for known, _kind in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(response.to_wire(), addr)
