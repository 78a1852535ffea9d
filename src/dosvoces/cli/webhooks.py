"""The commands about webhooks: what was told to whom, once more, how the receivers fare, and a trial message."""

import asyncio
import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dosvoces.cli.options import AsJson, Config, as_json, ask_record, operator, settings_of
from dosvoces.cli.record import read_record
from dosvoces.errors import DosvocesError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dosvoces.deferred.webhooks import Endpoint, Reply
    from dosvoces.settings import Settings
    from dosvoces.store.endpoints import Endpoints
    from dosvoces.store.reports import Delivery, Reports

T = TypeVar("T")

webhooks_app = typer.Typer(
    help="Webhooks and outcome mails: what waits, what was tried.", no_args_is_help=True, rich_markup_mode=None
)
TEST_EVENT = "test"
NONE_AT_ALL = "there is no webhook in the settings: add a section [[webhooks]], see docs/howto/webhooks.md"
FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


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

    state = DeliveryState.WAITING if waiting else None
    found = _reports(settings_of(context, config), lambda reports: reports.deliveries(state=state, limit=limit))
    if for_programs:
        typer.echo(as_json([{"webhook_id": f"{one.connection_id}.{one.number}", **asdict(one)} for one in found]))
    else:
        typer.echo(render(found))


@webhooks_app.command("endpoints")
def list_endpoints(context: typer.Context, config: Config = None, for_programs: AsJson = False) -> None:
    """The webhooks of the settings and how they fare: those that fail, those that are disabled."""
    from dosvoces.app.deferred import endpoints_of

    settings = settings_of(context, config)
    states = _at_desk(settings, lambda desk: desk.states())
    found = [(endpoint, states.get(endpoint.name)) for endpoint in endpoints_of(settings)]
    if for_programs:
        nothing = {"failing_since": None, "disabled_at": None, "why": ""}
        rows = [
            {**(nothing if state is None else asdict(state)), "name": end.name, "url": end.url} for end, state in found
        ]
        typer.echo(as_json(rows))
        return
    if not found:
        typer.echo(NONE_AT_ALL)
    for endpoint, state in found:
        how = "enabled"
        if state is not None:
            how = "failing" if state.disabled_at is None else f"DISABLED since {state.disabled_at:%Y-%m-%d %H:%M} UTC"
            how += f", took nothing since {state.failing_since:%Y-%m-%d %H:%M} UTC: {state.why}"
        typer.echo(f"{endpoint.name:<16} {endpoint.url:<40} {how}")


@webhooks_app.command()
def enable(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the webhook.")],
    config: Config = None,
) -> None:
    """Let a webhook that was disabled be told again; what waits for it comes first, within half a minute."""
    settings = settings_of(context, config)
    _named(settings, name)
    if _at_desk(settings, lambda desk: desk.enable(name, by=operator())):
        typer.echo(f"{name} is told again")
    else:
        typer.echo(f"{name} was not disabled")


@webhooks_app.command()
def replay(
    context: typer.Context,
    message: Annotated[
        str | None, typer.Argument(metavar="ID", help="A webhook-id, or a connection's id: all of its messages.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="To this webhook alone.")] = None,
    failed_since: Annotated[
        datetime | None,
        typer.Option("--failed-since", formats=FORMATS, help="What happened since then, UTC, and was not taken."),
    ] = None,
    config: Config = None,
) -> None:
    """Tell something once more, under the same webhook-id: a running service does it, within half a minute."""
    if (message is None) == (failed_since is None):
        raise DosvocesError("say what: dosvoces webhooks replay ID, or --failed-since 2026-05-09")
    settings = settings_of(context, config)
    if endpoint is not None:
        _named(settings, endpoint)
    if failed_since is not None:
        since = failed_since if failed_since.tzinfo else failed_since.replace(tzinfo=UTC)
        told = _at_desk(settings, lambda desk: _replay_failed(desk, since, endpoint))
    else:
        found = _of_message(settings, message or "", endpoint)
        told = _at_desk(settings, lambda desk: desk.replay(found, by=operator()))
        if not told:
            typer.echo("nothing to tell again: it waits already, or its body is not kept any more")
            return
    typer.echo(f"{told} to be told again")


async def _replay_failed(desk: "Endpoints", since: datetime, endpoint: str | None) -> int:
    told = 0
    while found := await desk.failed_since(since, endpoint):
        replayed = await desk.replay(found, by=operator())
        told += replayed
        if not replayed:
            break  # Others were quicker.
    return told


def _of_message(settings: "Settings", message: str, endpoint: str | None) -> "Sequence[Delivery]":
    from dosvoces.deferred.hooks import is_for
    from dosvoces.model import ConnectionId

    connection, _, number = message.partition(".")
    found = [
        one
        for one in _reports(settings, lambda reports: reports.deliveries_of(ConnectionId(connection)))
        if is_for(one, endpoint) and number in ("", str(one.number))
    ]
    if not found:
        raise DosvocesError(f"no webhook was sent as {message[:48]!r}; `dosvoces webhooks list` shows what was")
    return found


def _named(settings: "Settings", name: str) -> None:
    names = [webhook.name for webhook in settings.webhooks]
    if name not in names:
        raise DosvocesError(f"there is no webhook {name[:32]!r}; {_those(names)}")


def _those(names: "Sequence[str]") -> str:
    return f"those in the settings are: {', '.join(names)}" if names else NONE_AT_ALL


def _at_desk(settings: "Settings", question: "Callable[[Endpoints], Awaitable[T]]") -> T:
    """Ask the record, or change it, beside the services."""
    from dosvoces.store.endpoints import Endpoints
    from dosvoces.store.sql import open_database

    return ask_record(settings, lambda url: Endpoints(open_database(url)), question)


@webhooks_app.command("test")
def try_webhook(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of the webhook; not needed if there is only one.")] = None,
    config: Config = None,
) -> None:
    """Post a signed trial message (`type` is `test`) and tell what came of it."""
    from dosvoces.app.deferred import endpoints_of

    endpoints = endpoints_of(settings_of(context, config))
    names = [endpoint.name for endpoint in endpoints]
    chosen = [endpoint for endpoint in endpoints if name in (None, endpoint.name)]
    if name is None and len(names) > 1:
        raise DosvocesError(f"name one: dosvoces webhooks test NAME; {_those(names)}")
    if len(chosen) != 1:
        raise DosvocesError(f"there is no webhook {name[:32]!r}; {_those(names)}" if name else NONE_AT_ALL)
    reply = asyncio.run(_post(chosen[0]))
    typer.echo(f"{chosen[0].url}: {'taken' if reply.taken else 'not taken'}: {reply.words}")
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


def _reports(settings: "Settings", question: "Callable[[Reports], Awaitable[T]]") -> T:
    return read_record(settings, lambda store: question(store.reports))


async def _post(endpoint: "Endpoint") -> "Reply":
    from dosvoces.deferred.webhooks import Poster

    body = {"type": TEST_EVENT, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "data": {}}
    poster = Poster()
    try:
        return await poster.post(endpoint, f"test_{secrets.token_hex(8)}", json.dumps(body))
    finally:
        await poster.close()
