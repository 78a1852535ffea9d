"""The commands about the do-not-call list."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dosvoces.cli.options import AsJson, Config, as_json, ask_record, operator, settings_of
from dosvoces.errors import DosvocesError

if TYPE_CHECKING:
    from dosvoces.settings import Settings
    from dosvoces.store.do_not_call import DoNotCall

T = TypeVar("T")

MAX_FILE_BYTES = 64 * 1024 * 1024
BATCH = 5_000
"""Numbers in one transaction, for which the service's own writes wait."""

dnc_app = typer.Typer(help="The numbers that are never called.", no_args_is_help=True, rich_markup_mode=None)

Note = Annotated[str, typer.Option("--note", help="Why, for people.")]


@dnc_app.command()
def add(
    context: typer.Context,
    numbers: Annotated[list[str], typer.Argument(help="With country: +34600000011.")],
    note: Note = "",
    config: Config = None,
) -> None:
    """Never call these numbers again."""
    wanted = [e164(number) for number in numbers]
    added = ask(settings_of(context, config), lambda listed: listed.add(wanted, note=note, by=operator()))
    typer.echo(f"{added} added, {len(wanted) - added} were on the list already")


@dnc_app.command()
def remove(
    context: typer.Context,
    number: Annotated[str, typer.Argument(help="With country: +34600000011.")],
    config: Config = None,
) -> None:
    """Let a number be called again."""
    wanted = e164(number)
    if not ask(settings_of(context, config), lambda listed: listed.remove(wanted, by=operator())):
        raise DosvocesError(f"{wanted} is not on the list; `dosvoces dnc list` shows what is")
    typer.echo(f"{wanted} may be called again")


@dnc_app.command("list")
def list_numbers(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many, the newest first.")] = 100,
    config: Config = None,
    for_programs: AsJson = False,
) -> None:
    """The numbers on the list, who put them there, and why."""
    found = ask(settings_of(context, config), lambda listed: listed.numbers(limit=limit))
    if for_programs:
        typer.echo(as_json([{"number": f.number, "at": f.at, "by": f.by, "note": f.note} for f in found]))
    else:
        for one in found:
            typer.echo(f"{one.number:<16} {one.at:%Y-%m-%d %H:%M} {one.by:<20} {one.note}".rstrip())


@dnc_app.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="One number a line, first in the line; what follows a comma or ; is left.")
    ],
    note: Note = "",
    config: Config = None,
) -> None:
    """Put a file's numbers on the list: all of them, or none if one can't be read."""
    wanted = numbers_in(file)

    async def add_all(listed: "DoNotCall") -> int:
        added = 0
        for start in range(0, len(wanted), BATCH):
            added += await listed.add(wanted[start : start + BATCH], note=note or file.name, by=operator())
        return added

    added = ask(settings_of(context, config), add_all)
    typer.echo(f"{added} added, {len(wanted) - added} were on the list already")


def numbers_in(file: Path) -> list[str]:
    """The numbers of a file. Raises `DosvocesError` that names the first line which has none."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise DosvocesError(f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB: split it")
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DosvocesError(f"{file} can't be read: {error}") from error
    wanted: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.replace(";", ",").partition(",")[0].strip().strip('"')
        if not text or text.startswith("#") or (number == 1 and not any(map(str.isdigit, text))):
            continue  # A comment, or a CSV's line of headings.
        try:
            wanted[e164(text)] = None
        except DosvocesError as error:
            raise DosvocesError(f"{file}, line {number}: {error}; nothing was added") from error
    return list(wanted)


def e164(text: str) -> str:
    """As the record has it. Raises `DosvocesError`."""
    from dosvoces.dialplan import as_e164

    number = as_e164(text)
    if number is None:
        raise DosvocesError(
            f"{text[:32]!r} is no international number; write +34600000011, and no digit that is dialled only inside "
            "a country: +49 30 …, not +49 (0)30 …"
        )
    return number


def ask(settings: "Settings", question: "Callable[[DoNotCall], Awaitable[T]]") -> T:
    """Ask the record, beside the services."""
    from dosvoces.store.sql import open_do_not_call

    return ask_record(settings, open_do_not_call, question)
