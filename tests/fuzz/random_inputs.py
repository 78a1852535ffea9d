"""Inputs without a guide: valid ones changed by SIP's grammar or byte by byte, from a seed."""

import random
from collections.abc import Iterator

from tests.fuzz.targets import Target
from tests.sip_mutator import NASTY, NUMBERS, Mutator

EDGES = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\x00\x00",
    b"\x7f\xff",
    b"\x80\x00",
    b"\xff\xff\xff\xff",
]


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """The seeds themselves, then changed ones without end."""
    yield from target.seeds
    chance = random.Random(seed)
    mutator = Mutator(chance)
    while True:
        data = chance.choice(target.seeds)
        if target.text and b"\r\n\r\n" in data and chance.random() < 0.6:
            data = mutator.mutate(data)
        else:
            data = _bytewise(data, chance, NASTY + NUMBERS if target.text else EDGES)
        if target.name == "agent" and chance.random() < 0.3:
            data += b"\x00\x00" + mutator.mutate(chance.choice(target.seeds))
        yield data


def _bytewise(data: bytes, chance: random.Random, pieces: list[bytes]) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at, to = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[:at] + data[min(to, at + 8) :]
        elif kind == 1:
            data = data[:at] + chance.choice(pieces) + data[at:]
        elif kind == 2:
            data = data[:at] + chance.choice(pieces) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at:to] * 2 + data[to:]
        elif kind == 4:
            data = data[:at] + chance.randbytes(1) + data[at + 1 :]
        else:
            data = data[:to]
    return data
