"""The commands that read the record beside a running service: connections, their messages, mails."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dosvoces.cli.options import AsJson, Config, as_json, settings_of
from dosvoces.errors import DosvocesError

if TYPE_CHECKING:
    from dosvoces.settings import Settings
    from dosvoces.store import ConnectionRecord, Store

T = TypeVar("T")

record_app = typer.Typer(rich_markup_mode=None)
mail_app = typer.Typer(help="The mails kept in the embedded inbox.", no_args_is_help=True, rich_markup_mode=None)

MAX_MAIL_NUMBER = 2**31 - 1  # PostgreSQL's integer
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")]


@record_app.command("list")
def list_connections(
    context: typer.Context, limit: Limit = 20, config: Config = None, for_programs: AsJson = False
) -> None:
    """The newest connections."""
    from dosvoces import timeline

    records = read_record(settings_of(context, config), lambda store: store.connections(limit=limit))
    now = datetime.now(UTC)
    if for_programs:
        typer.echo(as_json([_members(record, now) for record in records]))
    else:
        typer.echo(timeline.render_list(records, now))


@record_app.command()
def show(
    context: typer.Context,
    connection: Annotated[str, typer.Argument(metavar="ID", help="As `list` and the answer's Location name it.")],
    config: Config = None,
    for_programs: AsJson = False,
    as_ladder: Annotated[bool, typer.Option("--ladder", help="Its SIP messages, drawn as a ladder.")] = False,
    pcap_file: Annotated[
        Path | None, typer.Option("--pcap", metavar="FILE", help="Write its SIP messages for Wireshark; - for stdout.")
    ] = None,
) -> None:
    """One connection as a timeline."""
    if as_ladder or pcap_file is not None:
        _show_capture(settings_of(context, config), connection, as_ladder=as_ladder, pcap_file=pcap_file)
        return
    from dosvoces import timeline
    from dosvoces.model import ConnectionId

    async def both(store: "Store") -> Any:
        connection_id = ConnectionId(connection.lower())
        return await store.connection(connection_id), await store.entries(connection_id)

    record, entries = read_record(settings_of(context, config), both)
    if record is None:
        raise _no_connection(connection)
    now = datetime.now(UTC)
    if for_programs:
        typer.echo(as_json({**_members(record, now), "journal": [asdict(entry) for entry in entries]}))
    else:
        typer.echo(timeline.render_connection(record, entries, now))


def _members(record: "ConnectionRecord", now: datetime) -> dict[str, Any]:
    """For programs; the phase is the API's, which tells of one that waits what for."""
    return {**asdict(record), "phase": record.phase_at(now)}


def _show_capture(settings: "Settings", connection: str, *, as_ladder: bool, pcap_file: Path | None) -> None:
    from dosvoces.capture import unpack
    from dosvoces.capture.ladder import ladder
    from dosvoces.capture.pcap import pcap
    from dosvoces.model import ConnectionId

    async def both(store: "Store") -> Any:
        connection_id = ConnectionId(connection.lower())
        return await store.connection(connection_id), await store.capture(connection_id)

    record, packed = read_record(settings, both)
    if record is None:
        raise _no_connection(connection)
    if packed is None:
        raise DosvocesError(
            f"no SIP messages are kept of {connection!r}: they are when it is over, if [sip] capture is on"
        )
    capture = unpack(packed)
    if pcap_file is not None:
        _write(pcap_file, pcap(capture))
    if as_ladder:
        typer.echo(ladder(capture))


def _write(file: Path, content: bytes) -> None:
    if str(file) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        file.write_bytes(content)
    except OSError as error:
        raise DosvocesError(f"{file} can't be written: {error.strerror}; name another file, or - for stdout") from error


def _no_connection(named: str) -> DosvocesError:
    return DosvocesError(f"there is no connection {named!r}; `dosvoces list` names those that there are")


@mail_app.command("list")
def list_mails(context: typer.Context, limit: Limit = 20, config: Config = None) -> None:
    """The newest mails."""
    from dosvoces import timeline

    typer.echo(
        timeline.render_mail_list(read_record(settings_of(context, config), lambda store: store.mails(limit=limit)))
    )


@mail_app.command("show")
def show_mail(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=1, max=MAX_MAIL_NUMBER, help="As `mail list` numbers it.")],
    raw: Annotated[bool, typer.Option("--raw", help="The whole message as it would go over the wire.")] = False,
    config: Config = None,
) -> None:
    """One mail: what its reader sees, in plain text."""
    from dosvoces import timeline

    kept = read_record(settings_of(context, config), lambda store: store.mail(number))
    if kept is None:
        raise DosvocesError(f"there is no mail {number}; `dosvoces mail list` names those that there are")
    if raw:
        sys.stdout.buffer.write(kept.content)
    else:
        typer.echo(timeline.render_mail(kept))


def read_record(settings: "Settings", question: "Callable[[Store], Awaitable[T]]") -> T:
    """Ask the record, beside a running service."""
    from dosvoces.store.sql import open_store

    async def ask() -> T:
        store = open_store(settings.database.address, reader=True)
        await store.open()
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(ask())
