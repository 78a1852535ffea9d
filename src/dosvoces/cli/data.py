"""The command that moves a record from one database to another."""

from typing import Annotated

import typer

from dosvoces.cli.options import Config, operator, settings_of

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

    to = open_database(target if target is not None else settings_of(context, config).database.address)
    of = open_database(source)
    typer.echo(f"Copying {of.name} to {to.name}")
    moved = move_record(of, to, lambda progress: typer.echo(f"  {progress}"), by=operator())
    typer.echo(
        f"All {sum(moved.rows.values())} rows of {len(moved.rows)} tables are there, each as it was. "
        f"The old record is untouched; see that [database] url names {to.name}, and start the service."
    )
