"""Whether an outcome of the record can be true, given what the two phones saw."""

from collections.abc import Callable

from tests.chaos.evidence import Leg

BUSY = 486


def contradiction(outcome: str, a: Leg | None, b: Leg | None, *, disturbed: bool, cancelled: bool) -> str | None:
    """
    What the phones say against it, `None` if nothing.

    `disturbed`: whether anything was done to the services meanwhile; `cancelled`: whether a client asked for the end.
    """
    rule = _RULES.get(outcome)
    if rule is None:
        return "that is no outcome"
    if outcome == "interrupted":
        return None if disturbed else "nothing had been done to the services"
    if outcome == "cancelled":
        return None if cancelled else "nobody had asked for that"
    if outcome.endswith("failed") and disturbed:
        return None  # What broke may be ours: the record, the audio.
    return rule(a, b)


def _answered(leg: Leg | None) -> bool:
    return leg is not None and leg.acked_at is not None


def _completed(a: Leg | None, b: Leg | None) -> str | None:
    return None if _answered(a) and _answered(b) else "not both had answered"


def _nobody_dialled(a: Leg | None, b: Leg | None) -> str | None:
    return "somebody was dialled" if a or b else None


def _busy(leg: Leg | None) -> str | None:
    return None if leg is not None and leg.refused == BUSY else "the phone wasn't busy"


def _unanswered(leg: Leg | None) -> str | None:
    if leg is None:
        return "nobody was dialled"
    if leg.refused is not None:
        return f"the phone had refused it with {leg.refused}"
    # An answer that crossed the end of the ringing is hung up at once: then nobody talked, and our BYE came.
    return "the phone had hung up itself" if leg.left_at is not None else None


def _left(leg: Leg | None) -> str | None:
    return None if leg is not None and leg.left_at is not None else "the phone hadn't hung up"


def _failed(leg: Leg | None) -> str | None:
    if leg is None:
        return "nobody was dialled"
    if leg.refused == BUSY:
        return "the phone was busy"
    return "the phone had answered" if _answered(leg) else None


def _of_first(rule: Callable[[Leg | None], str | None]) -> Callable[[Leg | None, Leg | None], str | None]:
    return lambda a, b: rule(a)


def _of_second(rule: Callable[[Leg | None], str | None]) -> Callable[[Leg | None, Leg | None], str | None]:
    return lambda a, b: rule(b) if _answered(a) else "the first had not answered"


def _nothing(_a: Leg | None, _b: Leg | None) -> str | None:
    return None


def _alone(rule: Callable[[Leg | None], str | None]) -> Callable[[Leg | None, Leg | None], str | None]:
    """The first's call came to nothing: the second was not dialled."""
    return lambda a, b: "the second was dialled" if b else rule(a)


_RULES: dict[str, Callable[[Leg | None, Leg | None], str | None]] = {
    "completed": _completed,
    "first_busy": _alone(_busy),
    "first_no_answer": _alone(_unanswered),
    "first_failed": _of_first(_failed),
    "first_hung_up": _of_first(_left),
    "second_busy": _of_second(_busy),
    "second_no_answer": _of_second(_unanswered),
    "second_failed": _of_second(_failed),
    "second_hung_up": _of_second(_left),
    "mail_failed": _nobody_dialled,
    "refused": _nobody_dialled,
    "interrupted": _nothing,
    "cancelled": _nothing,
}
