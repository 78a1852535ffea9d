"""
Bencoding, as rtpengine's NG protocol uses it: integers, texts, lists and dictionaries of them.

Pure. Dictionaries keep the order of their members: rtpengine neither sends nor asks for sorted ones. Bytes that are no
text (a recording) can be written; what is read as text is decoded as UTF-8, with replacement.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Value: TypeAlias = "int | str | bytes | Sequence[Value] | Mapping[str, Value]"

MAX_DEPTH = 32  # an answer of rtpengine has nine


class BencodeError(ValueError):
    """These bytes are no bencoded value."""


def encode(value: Value) -> bytes:
    """`value` on the wire."""
    match value:
        case int():
            return b"i%de" % value
        case str():
            return encode(value.encode())
        case bytes():
            return b"%d:%b" % (len(value), value)
        case Mapping():
            return b"d%be" % b"".join(encode(key) + encode(member) for key, member in value.items())
        case _:
            return b"l%be" % b"".join(map(encode, value))


def decode(data: bytes) -> Any:
    """The value in `data`: `int`, `str`, `list` or `dict` of them. Raises `BencodeError`, and nothing else."""
    try:
        value, end = _decode(data, 0, 0)
    except (ValueError, IndexError) as error:
        raise BencodeError(f"not bencoded: {data[:40]!r}") from error
    if end != len(data):
        raise BencodeError(f"{len(data) - end} bytes after the value")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise BencodeError("too deep")
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        members: list[Any] = []
        at += 1
        while data[at] != ord("e"):
            member, at = _decode(data, at, depth + 1)
            members.append(member)
        if kind == b"l":
            return members, at + 1
        if len(members) % 2 or not all(isinstance(key, str) for key in members[::2]):
            raise BencodeError("a dictionary with a key that is no text, or without its value")
        return dict(zip(members[::2], members[1::2], strict=True)), at + 1
    colon = data.index(b":", at)
    length, start = int(data[at:colon]), colon + 1
    if length < 0 or start + length > len(data):
        raise BencodeError("a text that is cut off")
    return data[start : start + length].decode("utf-8", "replace"), start + length
