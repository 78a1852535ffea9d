"""
Whether a trunk can send to us at all, by the addresses that we listen on. Asks the routing table; sends nothing.
"""

import ipaddress
from functools import lru_cache

from dosvoces.sip.api import Hop
from dosvoces.sip.transport import reachable_address


def why_cut_off(hop: Hop, *, signalling: str, media: str) -> str:
    """
    Why a call to `hop` would fail or be silent, and what to change; empty if it needn't.

    `signalling` and `media` are where we take SIP and audio, literal addresses; empty: not known here. What is on
    loopback reaches this machine alone.
    """
    ours = [each for each in (signalling, media) if each and _is_loopback(each)]
    if not ours or _is_here(hop.host):
        return ""
    if signalling in ours:
        return f'{hop.host} can\'t reach us at {signalling}; set [sip] bind = "0.0.0.0:5060"'
    return (
        f'audio of {hop.host} can\'t come to {media}; set [media] address = "0.0.0.0" and advertised = the IP address '
        "that the trunk shall send audio to"
    )


def _is_here(host: str) -> bool:
    """Whether it is an address of this machine: packets to it leave from itself."""
    if _is_loopback(host):
        return True
    return reachable_address("::" if ":" in host else "0.0.0.0", host) == host


@lru_cache(maxsize=1024)  # It is asked for every dial, of few addresses, and to read one costs 10 µs.
def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
