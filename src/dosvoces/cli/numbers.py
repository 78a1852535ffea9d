"""The command that explains what becomes of a phone number."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dosvoces.cli.options import AsJson, Config, as_json, settings_of
from dosvoces.errors import NoRecordYet

if TYPE_CHECKING:
    from dosvoces.dialplan import Step
    from dosvoces.dialplan.hours import CallingHours
    from dosvoces.settings import Settings
    from dosvoces.store.do_not_call import DoNotCall

numbers_app = typer.Typer(rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class _Verdict:
    number: str
    called: bool
    code: str
    reason: str
    steps: list[dict[str, str]]


@numbers_app.command("number")
def explain(
    context: typer.Context,
    numbers: Annotated[list[str], typer.Argument(help="As a request would have it, such as +34600000011.")],
    config: Config = None,
    for_programs: AsJson = False,
) -> None:
    """Whether a number would be called, and why: each question asked of it. Calls nobody; status 1 if one wouldn't."""
    from dosvoces.app import number_rules
    from dosvoces.dialplan import as_e164, steps
    from dosvoces.dialplan.data import VERSION

    settings = settings_of(context, config)
    rules = number_rules(settings)
    never = never_called(settings, numbers)
    verdicts = []
    for number in numbers:
        asked = list(steps(number, rules))
        if asked[-1].refusal is None and never is not None:
            asked.append(_list_step(listed=as_e164(number) in never))
        if asked[-1].refusal is None and rules.hours:
            asked.append(_hours_step(rules.hours, number, datetime.now(UTC)))
        refusal = asked[-1].refusal
        verdicts.append(
            _Verdict(
                number,
                called=refusal is None,
                code="" if refusal is None else refusal.code,
                reason="would be called" if refusal is None else refusal.message,
                steps=[{"question": step.name, "answer": step.answer} for step in asked],
            )
        )
    if for_programs:
        typer.echo(as_json({"data": VERSION, "verdicts": [asdict(verdict) for verdict in verdicts]}))
    else:
        for verdict in verdicts:
            _show(verdict)
        typer.echo(f"judged by the numbers of {VERSION} and the settings")
    if not all(verdict.called for verdict in verdicts):
        raise typer.Exit(1)


def never_called(settings: "Settings", numbers: Sequence[str]) -> set[str] | None:
    """Those of `numbers` (E.164) that are on the do-not-call list; `None` where there is no record yet."""
    from dosvoces.cli.dnc import ask
    from dosvoces.dialplan import as_e164

    async def look(listed: "DoNotCall") -> set[str]:
        wanted = {number for number in map(as_e164, numbers) if number is not None}
        return {number for number in wanted if await listed.listed(number)}

    try:
        return ask(settings, look)
    except NoRecordYet:
        return None


def _list_step(*, listed: bool) -> "Step":
    from dosvoces.dialplan import Refusal, Step

    if listed:
        return Step("list", "on the do-not-call list", Refusal("do_not_call", "is on the do-not-call list"))
    return Step("list", "not on the do-not-call list")


def _hours_step(hours: "CallingHours", number: str, now: datetime) -> "Step":
    from dosvoces.dialplan import Refusal, Step, as_e164
    from dosvoces.dialplan.hours import LOOK_AHEAD_DAYS

    opens = hours.next_opening([as_e164(number) or number], now)
    if opens == now:
        return Step("hours", "its calling hours, or none are set")
    if opens is None:
        when = f"not within {LOOK_AHEAD_DAYS} days: no hour is one in all the time zones where it may be"
    else:
        # A number may be in several zones, and the one whose hours begin last needn't be the country's usual one.
        there, utc = f"{opens:%Y-%m-%d %H:%M} in {opens.tzinfo}", f"{opens.astimezone(UTC):%Y-%m-%d %H:%M}"
        when = f"not now: from {there}, that is {utc} UTC"
    return Step("hours", when, Refusal("quiet_hours", "is not called at this hour"))


def _show(verdict: _Verdict) -> None:
    typer.echo(f"{verdict.number} {verdict.reason}")
    for step in verdict.steps:
        typer.echo(f"  {step['question'].replace('_', ' '):<11} {step['answer']}")
