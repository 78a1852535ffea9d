"""The fuzzing harnesses still work: each parser takes two thousand inputs, its valid ones among them."""

from itertools import islice

import pytest

from tests.fuzz.random_inputs import inputs
from tests.fuzz.targets import TARGETS, Target

INPUTS = 2_000


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_harness(target: Target) -> None:
    for number, data in enumerate(islice(inputs(target, 1), INPUTS)):
        try:
            target.fuzz_one(data)
        except BaseException as error:
            error.add_note(f"input {number} of {target.name}: {data[:2000]!r}")
            raise
