"""The commands about webhooks: what was told to whom, what waits, and a trial message."""

import asyncio
import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dosvoces.cli_options import AsJson, Config, as_json, settings_of
from dosvoces.errors import DosvocesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dosvoces.deferred.webhooks import Endpoint, Reply
    from dosvoces.settings import Settings
    from dosvoces.store.reports import Delivery, DeliveryState

webhooks_app = typer.Typer(
    help="Webhooks and outcome mails: what waits, what was tried.", no_args_is_help=True, rich_markup_mode=None
)
TEST_EVENT = "test"


@webhooks_app.command("list")
def list_webhooks(
    context: typer.Context,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what is still to be delivered.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")] = 20,
    config: Config = None,
    for_programs: AsJson = False,
) -> None:
    """What was told to whom: state, tries, the last answer, the next try."""
    from dosvoces.store.reports import DeliveryState

    found = _deliveries(settings_of(context, config), DeliveryState.WAITING if waiting else None, limit)
    if for_programs:
        typer.echo(as_json([asdict(delivery) for delivery in found]))
    else:
        typer.echo(render(found))


@webhooks_app.command("test")
def try_webhook(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of the webhook; not needed if there is only one.")] = None,
    config: Config = None,
) -> None:
    """Post a signed trial message (`type` is `test`) and tell what came of it."""
    from dosvoces.app_deferred import endpoints_of

    endpoints = endpoints_of(settings_of(context, config))
    chosen = [endpoint for endpoint in endpoints if name in (None, endpoint.name)]
    if len(chosen) != 1:
        names = ", ".join(endpoint.name for endpoint in endpoints) or "none"
        raise DosvocesError(f"name one of the webhooks in the settings ({names}): dosvoces webhooks test NAME")
    reply = asyncio.run(_post(chosen[0]))
    typer.echo(f"{chosen[0].url}: {reply.words}, {'taken' if reply.taken else 'not taken'}")
    raise typer.Exit(not reply.taken)


def render(deliveries: "Sequence[Delivery]") -> str:
    """One delivery a line, for people."""
    lines = [f"{'report':<30} {'event':<24} {'to':<16} {'state':<10} {'tries':>5}  last answer"]
    for each in deliveries:
        report = f"{each.connection_id}.{each.number}"
        next_at = f"; next {each.next_at:%Y-%m-%d %H:%M:%S} UTC" if each.next_at is not None and each.tries else ""
        to = each.target.removeprefix("webhook:")
        lines.append(
            f"{report:<30} {each.event:<24} {to:<16} {each.state:<10} {each.tries:>5}  {each.answer or '-'}{next_at}"
        )
    return "\n".join(lines)


def _deliveries(settings: "Settings", state: "DeliveryState | None", limit: int) -> "Sequence[Delivery]":
    from dosvoces.store.sql import open_store

    async def ask() -> "Sequence[Delivery]":
        store = open_store(settings.database.address, reader=True)
        await store.open()
        try:
            return await store.reports.deliveries(state=state, limit=limit)
        finally:
            await store.close()

    return asyncio.run(ask())


async def _post(endpoint: "Endpoint") -> "Reply":
    from dosvoces.deferred.webhooks import Poster

    body = {"type": TEST_EVENT, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "data": {}}
    poster = Poster()
    try:
        return await poster.post(endpoint, f"test_{secrets.token_hex(8)}", json.dumps(body))
    finally:
        await poster.close()
