"""Brings a database to the tables of this version: Alembic's migrations, shipped in the package."""

from pathlib import Path

from sqlalchemy import Connection, inspect, select

from dosvoces.errors import NoRecordYet, StoreError
from dosvoces.store.tables import REVISION, alembic_version

_MIGRATIONS = Path(__file__).with_name("migrations")


def revision(db: Connection) -> str | None:
    """The migration that the database is at; `None` when it has none of our tables."""
    if not inspect(db).has_table(alembic_version.name):
        return None
    return db.scalar(select(alembic_version.c.version_num))


def check_revision(db: Connection, *, name: str) -> None:
    """Raise `StoreError` unless the database `name` is exactly what this version reads."""
    found = revision(db)
    if found is None:
        raise NoRecordYet(
            f"there is no record in {name} yet: start `dosvoces serve` first, or mend [database] url", permanent=True
        )
    if found != REVISION:
        raise StoreError(
            f"the record {name} is at version {found}, this program reads {REVISION}: "
            "start `dosvoces serve` of this version once to bring it up to date",
            permanent=True,
        )


def migrate(db: Connection, *, name: str) -> None:
    """
    Bring the database `name` to `REVISION`. All or nothing: the caller begins the transaction and commits it.

    Raises `StoreError` for a database of a newer version; nothing is changed then.
    """
    # Alembic is loaded only when there is something to do: it would be a fifth of the start.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    try:
        command.upgrade(config, REVISION)
    except CommandError as error:
        raise StoreError(
            f"the record {name} can't be brought to version {REVISION} ({error}): "
            "it was written by a newer Dosvoces; use that one, or another [database] url",
            permanent=True,
        ) from error
