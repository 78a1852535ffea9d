"""The command that moves a record from one database to another."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from dosvoces.cli.options import Config, operator, settings_of
from dosvoces.errors import DosvocesError, NoRecordYet, NotAllowed, SettingsError, StoreError

if TYPE_CHECKING:
    from dosvoces.store.database import Database

data_app = typer.Typer(rich_markup_mode=None)


@data_app.command("migrate-data")
def migrate_data(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", help="The record to copy, as [database] url names it.")],
    target: Annotated[
        str | None, typer.Option("--to", help="The empty database to copy it to; else the configured one.")
    ] = None,
    config: Config = None,
) -> None:
    """Copy a whole record into another, empty database, while no service runs on either."""
    from dosvoces.store.moving import move_record
    from dosvoces.store.sql import open_database

    to = _opened(target, "--to") if target is not None else open_database(settings_of(context, config).database.address)
    of = _opened(source, "--from")
    if of.name == to.name:
        raise NotAllowed(f"{of.name} is where it is already: say with --to, or [database] url, where to copy it")
    typer.echo(f"Copying {of.name} to {to.name}")
    options = {of.name: "--from", **({to.name: "--to"} if target is not None else {})}
    try:
        moved = move_record(of, to, lambda progress: typer.echo(f"  {progress}"), by=operator())
    except NoRecordYet as error:  # Only of the source: a record is made in the target.
        raise DosvocesError(f"there is no record in {of.name}: mend --from") from error
    except StoreError as error:
        raise DosvocesError(_by_option(str(error), options)) from error
    typer.echo(
        f"All {sum(moved.rows.values())} rows of {len(moved.rows)} tables are there, each as it was. "
        f"The old record is untouched; see that [database] url names {to.name}, and start the service."
    )


def _opened(url: str, option: str) -> "Database":
    """The database of an option, which a wrong one is told to be wrong by."""
    from dosvoces.store.sql import open_database

    try:
        return open_database(url)
    except SettingsError as error:
        raise SettingsError(str(error).replace("[database] url", option, 1)) from error


def _by_option(text: str, options: Mapping[str, str]) -> str:
    """What is wrong with a database, told by the option that names it; by the longer of two names if both are in it."""
    for name in sorted(options, key=len, reverse=True):
        if name in text:
            return text.replace("[database] url = ", f"{options[name]} ").replace("[database] url", options[name])
    return text
