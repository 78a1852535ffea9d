"""What the command line's modules share: the options that many commands have, and the settings that they lead to."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from dosvoces.settings import Settings

T = TypeVar("T")


class _Opened(Protocol):
    async def close(self) -> None: ...


Opened = TypeVar("Opened", bound=_Opened)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="DOSVOCES_CONFIG", help="Settings file; else ./dosvoces.toml if it is there."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def settings_of(context: typer.Context, config: Path | None) -> "Settings":
    """`--config` may stand before or behind the command."""
    from dosvoces.settings import load

    return load(config or context.find_root().obj)


def as_json(value: object) -> str:
    """For programs: times as ISO 8601, names as the record has them."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=lambda time: time.isoformat())


def operator() -> str:
    """Who sits here, for the record."""
    import getpass

    try:
        return f"operator {getpass.getuser()}"
    except (OSError, KeyError):
        return "operator"


def ask_record(settings: "Settings", opened: Callable[[str], Opened], question: Callable[[Opened], Awaitable[T]]) -> T:
    """Ask the record something, or change it, beside the services; `opened` gives the part of it, which is closed."""

    async def ask() -> T:
        part = opened(settings.database.address)
        try:
            return await question(part)
        finally:
            await part.close()

    return asyncio.run(ask())
