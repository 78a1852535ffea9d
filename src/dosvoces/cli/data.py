"""The command that moves a record from one database to another."""

from typing import TYPE_CHECKING, Annotated

import typer

from dosvoces.cli.options import Config, operator, settings_of
from dosvoces.errors import NotAllowed, SettingsError

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
    moved = move_record(of, to, lambda progress: typer.echo(f"  {progress}"), by=operator())
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
