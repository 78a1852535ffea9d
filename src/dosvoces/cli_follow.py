"""`dosvoces call --follow`: the events of the connection that was asked for, as they happen."""

import typer


def follow(url: str, key: str, connection: str) -> None:
    """Print its events until it is over, then how it ended. Raises `ApiError`, `Unreachable`."""
    from dosvoces.client import Client

    address = url if "//" in url else f"http://{url}"
    with Client(address.rstrip("/").removesuffix("/call"), key=key) as client:
        for event in client.events(connection):
            side = f" {event.side.upper()}" if event.side else ""
            typer.echo(f"{event.at:%H:%M:%S} {event.event}{side}")
        typer.echo(client.get(connection).outcome or "not over yet")
