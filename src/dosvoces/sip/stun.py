"""
The little of STUN (RFC 8489) that tells us our public address: a binding request, and what its answer says.

Pure: no socket, no clock. STUN shares the SIP socket, as only that socket's mapping is worth knowing; its messages
begin with two zero bits, which no SIP message does.
"""

import ipaddress
import struct

from .api import Address

MAGIC = 0x2112A442  # RFC 8489 §5
HEADER_BYTES = 20
TRANSACTION_BYTES = 12
RETRIES_S = (0.5, 1.0, 2.0, 4.0)  # RFC 8489 §6.2.1: RTO 500 ms, doubled; four tries instead of seven, as we ask again

_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_BINDING_ERROR = 0x0111
_MAPPED_ADDRESS = 0x0001
_ERROR_CODE = 0x0009
_XOR_MAPPED_ADDRESS = 0x0020
_OPTIONAL = 0x8000  # RFC 8489 §14: attributes from here on may be left unread
_KNOWN = frozenset({_MAPPED_ADDRESS, _ERROR_CODE, _XOR_MAPPED_ADDRESS})
_IPV4, _IPV6 = 1, 2


class StunError(ValueError):
    """The server refused, or its answer says nothing that we can use."""


def binding_request(transaction: bytes) -> bytes:
    """Ask for our address; `transaction` is 12 random bytes."""
    assert len(transaction) == TRANSACTION_BYTES
    return struct.pack("!HHI", _BINDING_REQUEST, 0, MAGIC) + transaction


def transaction_of(data: bytes) -> bytes | None:
    """The transaction that `data` answers, `None` if it is no STUN answer."""
    if len(data) < HEADER_BYTES or data[0] & 0xC0:
        return None
    kind, length, magic = struct.unpack_from("!HHI", data)
    if magic != MAGIC or length % 4 or length + HEADER_BYTES != len(data):
        return None
    return data[8:HEADER_BYTES] if kind in (_BINDING_SUCCESS, _BINDING_ERROR) else None


def mapped_address(data: bytes) -> Address:
    """Our address, from a message that `transaction_of` knows. Raises `StunError` and nothing else."""
    attributes = _attributes(data)
    if struct.unpack_from("!H", data)[0] == _BINDING_ERROR:
        raise StunError(_refusal(attributes.get(_ERROR_CODE, b"")))
    if unknown := [kind for kind in attributes if kind < _OPTIONAL and kind not in _KNOWN]:
        raise StunError(f"an answer with attribute {unknown[0]:#06x}, which is not known here")
    if (value := attributes.get(_XOR_MAPPED_ADDRESS)) is not None:
        return _address(value, data[4:HEADER_BYTES])
    if (value := attributes.get(_MAPPED_ADDRESS)) is not None:
        return _address(value, bytes(16))  # a server of RFC 3489
    raise StunError("an answer without an address")


def _attributes(data: bytes) -> dict[int, bytes]:
    """The first of each kind (RFC 8489 §14)."""
    found: dict[int, bytes] = {}
    at = HEADER_BYTES
    while at < len(data):
        kind, length = struct.unpack_from("!HH", data, at)
        at += 4
        if at + length > len(data):
            raise StunError("an attribute that is cut short")
        found.setdefault(kind, data[at : at + length])
        at += (length + 3) & ~3
    return found


def _address(value: bytes, mask: bytes) -> Address:
    family = value[1] if len(value) > 1 else 0
    size = {_IPV4: 4, _IPV6: 16}.get(family, 0)
    if not size or len(value) != 4 + size:
        raise StunError("an address of no known family")
    plain = bytes(a ^ b for a, b in zip(value[2:], mask[:2] + mask[:size], strict=True))
    host, port = ipaddress.ip_address(plain[2:]), int.from_bytes(plain[:2], "big")
    if host.is_unspecified or host.is_multicast or not port:
        raise StunError(f"{host}:{port}, which is nobody's address")
    return str(host), port


def _refusal(value: bytes) -> str:
    if len(value) < 4:
        return "an error"
    reason = value[4:].decode("utf-8", "replace")[:64]
    return f"{(value[2] & 7) * 100 + value[3]} {''.join(c for c in reason if c.isprintable())}".strip()
