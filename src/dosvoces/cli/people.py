"""The commands about people: what the record knows of somebody, and taking them out of it."""

import base64
import json
from datetime import datetime
from typing import Annotated

import typer

from dosvoces.cli.options import Config, operator, settings_of

people_app = typer.Typer(rich_markup_mode=None)
Who = Annotated[str, typer.Argument(metavar="NUMBER|EMAIL", help="With the country's code: +34600000011.")]


@people_app.command()
def export(context: typer.Context, who: Who, config: Config = None) -> None:
    """Print all that the record knows of a number or an e-mail address, as JSON."""
    from dosvoces.store import personal
    from dosvoces.store.sql import open_database

    person = personal.person_of(who)
    database = open_database(settings_of(context, config).database.address)
    found = personal.known_of(database, person, by=operator())
    typer.echo(json.dumps({"about": person.value, "record": found}, indent=2, ensure_ascii=False, default=_plain))


@people_app.command()
def forget(
    context: typer.Context,
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    config: Config = None,
) -> None:
    """Take a number or an e-mail address, and the leads that came with it, out of the record for good."""
    from dosvoces.store import personal
    from dosvoces.store.sql import open_database

    person = personal.person_of(who)
    database = open_database(settings_of(context, config).database.address)
    if not yes:
        typer.confirm(f"Forget {person.value}, and what came with its calls? This can't be undone", abort=True)
    count = personal.forget(database, person, by=operator())
    typer.echo(f"{count} connection{'s' * (count != 1)} no longer know{'s' * (count == 1)} {person.value}")
    if not personal.scrub(database):
        typer.echo(
            "The old pages could not be cut from the file's log, as somebody reads them: do it again later", err=True
        )
        raise typer.Exit(1)


def _plain(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _:
            return str(value)
