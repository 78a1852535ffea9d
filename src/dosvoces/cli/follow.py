"""`dosvoces call --url … --key …`, or `--follow`: the events of the connection that was asked for, as they happen."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dosvoces.client import Client


def follow(url: str, key: str, connection: str, *, asked: bool = True) -> None:
    """
    Print its events until it is over, then how it ended. Raises `ApiError`, `Unreachable`.

    If nobody `asked` for that, a key that may not read is no error.
    """
    from dosvoces.client import ApiError, Client

    address = url if "//" in url else f"http://{url}"
    with Client(address.rstrip("/").removesuffix("/call"), key=key) as client:
        try:
            _tell(client, connection)
        except ApiError as error:
            if asked or error.status != 403:
                raise
            typer.echo("not followed: the key has no scope `read`", err=True)


def _tell(client: "Client", connection: str) -> None:
    for event in client.events(connection):
        side = f" {event.side.upper()}" if event.side else ""
        typer.echo(f"{event.at:%H:%M:%S} {event.event}{side}")
    typer.echo(client.get(connection).outcome or "not over yet")
