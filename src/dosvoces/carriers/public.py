"""
Our public address behind a NAT: who tells it, and where it is said.

A STUN server's word goes before a registrar's, as it is asked more often. Until one has told it, what the settings or
the socket say stands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from dosvoces.media import Address
from dosvoces.model import Side
from dosvoces.sip.agent import Agent
from dosvoces.sip.public_address import PublicAddress

log = structlog.get_logger(__name__)

FIRST_ANSWER_S = 2.0  # how long a start waits for the STUN server


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """What is to be learned, and from whom."""

    stun: tuple[str, int] | None = None
    """A STUN server; without one, the registrars tell it."""
    signalling: bool = False
    """Whether Via and Contact say the learned address."""
    media: bool = False
    """Whether SDP says the learned host."""


NOTHING_LEARNED = Nat()


class PublicSide:
    """What is known of our address."""

    def __init__(self, nat: Nat, *, changed: Callable[[], None]) -> None:
        """`changed` is told when Via and Contact say another address than before."""
        self._nat = nat
        self._changed = changed
        self._agent: Agent | None = None
        self._stun: PublicAddress | None = None
        self._host = ""
        self._port = 0
        """As a registrar told it; 0: none did."""
        self._told: dict[str, tuple[str, int]] = {}
        """By trunk, what its registrar told last."""
        self._several_ports = False
        """Whether that was told to differ."""

    async def start(self, agent: Agent) -> None:
        """Begin to ask; returns when the address is known, after `FIRST_ANSWER_S` at most."""
        self._agent = agent
        nat = self._nat
        if nat.stun is not None and (nat.signalling or nat.media):
            self._stun = agent.learn_public_address(nat.stun, self._learned, advertise=nat.signalling)
            await self._stun.first(FIRST_ANSWER_S)

    def seen(self, trunk: str, host: str, port: int) -> None:
        """
        The registrar of this trunk saw us at this address; port 0 where it could not see the one that we listen on.

        A NAT that gives each destination another port shows each registrar another one, and no port is right for all.
        So what another one's answer is merely different from changes nothing: only a registrar that sees us elsewhere
        than before tells of a change. Else each answer would have all trunks registered anew, without end.
        """
        agent = self._agent
        if agent is None or self._stun is not None or not (self._nat.signalling or self._nat.media):
            return
        before, self._told[trunk] = self._told.get(trunk), (host, port)
        if before == (host, port) or (before is None and host == self._host and (self._port or not port)):
            self._warn_of_ports(trunk, host, port)
            return
        self._port = port or self._port
        advertised = agent.advertised
        if self._nat.signalling:
            agent.set_advertised(host, port or None)
        if host != self._host or agent.advertised != advertised:
            log.warning("our public address is another", host=host, port=port or None)
            self._learned((host, port))

    def _warn_of_ports(self, trunk: str, host: str, port: int) -> None:
        if self._nat.signalling and host == self._host and port not in (0, self._port) and not self._several_ports:
            self._several_ports = True
            log.warning("the NAT gives each trunk another port: see docs/howto/nat.md", trunk=trunk, port=port)

    def media(self, addresses: Mapping[Side, Address]) -> dict[Side, Address]:
        """Where a connection's audio shall be sent, as the parties see it."""
        if not self._nat.media or not self._host:
            return dict(addresses)
        return {side: Address(self._host, address.port) for side, address in addresses.items()}

    def warnings(self) -> list[str]:
        """What an operator should know."""
        if not (self._nat.signalling or self._nat.media):
            return []
        if self._stun is not None and self._stun.problem:
            return [f"the public address can't be asked of the STUN server: {self._stun.problem}"]
        return [] if self._host else ["the public address is not known yet: no registrar has told it"]

    def _learned(self, address: tuple[str, int]) -> None:
        self._host = address[0]
        if self._nat.signalling:
            self._changed()
