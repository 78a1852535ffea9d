"""The command that explains what becomes of a phone number."""

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from dosvoces.cli_options import AsJson, Config, as_json, settings_of

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
    from dosvoces.dialplan import steps
    from dosvoces.dialplan.data import VERSION

    rules = number_rules(settings_of(context, config))
    verdicts = []
    for number in numbers:
        asked = list(steps(number, rules))
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


def _show(verdict: _Verdict) -> None:
    typer.echo(f"{verdict.number} {verdict.reason}")
    for step in verdict.steps:
        typer.echo(f"  {step['question'].replace('_', ' '):<11} {step['answer']}")
