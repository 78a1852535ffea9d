"""The core's states as a diagram and as tables, made from its own rules: `docs/reference/states.md`."""

from collections.abc import Iterable
from functools import cache

from dosvoces.core import LEG_TABLE, LegState, Phase
from dosvoces.events import Elapsed, Event
from dosvoces.model import EndReason, Outcome
from dosvoces.testing import steps

BEGIN, END = "<!-- states: made by make docs -->", "<!-- /states -->"

_HEAD = """\
# States

This page is made from the core's own table and rules by `make docs`; a test fails when it is not current.

## A connection

Every phase that any order of events can reach, and what leads from one to the next. `Elapsed` is a limit that ran out.
"""


def page() -> str:
    """The whole page, Markdown with Mermaid diagrams."""
    parts = [
        _HEAD,
        phases(),
        "## A leg\n\nWhat a carrier's event makes of a leg; the rest is late or doubled and changes nothing.\n",
        _diagram(_leg_edges()),
        "## Outcomes\n\nOf a connection, set once:\n",
        _listed(outcome for outcome in Outcome),
        "## Why a leg ends\n",
        _listed(reason for reason in EndReason),
    ]
    return "\n".join(parts)


@cache
def phases() -> str:
    """The diagram of a connection's phases alone."""
    return _diagram(_phase_edges())


def with_phases(text: str) -> str:
    """`text` with the diagram between its two marks made anew."""
    before, _begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    assert end, f"the text has no {BEGIN} … {END}"
    return f"{before}{BEGIN}\n{phases()}{END}{after}"


def _phase_edges() -> dict[tuple[str, str], list[str]]:
    edges: dict[tuple[str, str], list[str]] = {}
    for before, event, _commands, after in steps():
        if before.phase is not after.phase:
            _add(edges, before.phase, after.phase, _label(event))
    order = {phase: at for at, phase in enumerate(Phase)}
    return dict(sorted(edges.items(), key=lambda edge: (order[Phase(edge[0][0])], order[Phase(edge[0][1])])))


def _leg_edges() -> dict[tuple[str, str], list[str]]:
    edges: dict[tuple[str, str], list[str]] = {}
    _add(edges, LegState.IDLE, LegState.DIALING, "Dial")
    for (state, kind), after in LEG_TABLE.items():
        if after is LegState.IDLE:
            _add(edges, state, after, f"{kind.__name__} (another way is left)")
            _add(edges, state, LegState.ENDED, f"{kind.__name__} (the last attempt)")
        elif state is not after:
            _add(edges, state, after, kind.__name__)
    for state in (LegState.DIALING, LegState.RINGING, LegState.ANSWERED):
        _add(edges, state, LegState.RELEASING, "Hangup")
    return edges


def _label(event: Event) -> str:
    side = getattr(event, "side", None)
    return type(event).__name__ + (f" {side.upper()}" if side is not None and not isinstance(event, Elapsed) else "")


def _add(edges: dict[tuple[str, str], list[str]], before: str, after: str, label: str) -> None:
    labels = edges.setdefault((before, after), [])
    if label not in labels:
        labels.append(label)


def _diagram(edges: dict[tuple[str, str], list[str]]) -> str:
    lines = [f"    {before} --> {after}: {', '.join(labels)}" for (before, after), labels in edges.items()]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def _listed(words: Iterable[str]) -> str:
    return "\n".join(f"- `{word}`" for word in words) + "\n"
