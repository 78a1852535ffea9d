"""The commands about nodes, through the record: what there is, drain one, end a connection wherever it is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dosvoces.cli.options import AsJson, Config, as_json, ask_record, operator, settings_of
from dosvoces.errors import DosvocesError

if TYPE_CHECKING:
    from dosvoces.nodes.rules import Times
    from dosvoces.settings import Settings
    from dosvoces.store.roll import Glance, Node, Roll

T = TypeVar("T")

POLL_S = 0.5

nodes_app = typer.Typer(rich_markup_mode=None)


@nodes_app.command("nodes")
def list_nodes(context: typer.Context, config: Config = None, for_programs: AsJson = False) -> None:
    """The nodes on this record: where they are, how full, and whether they live."""
    from dosvoces.nodes.table import render_nodes, state_of

    settings = settings_of(context, config)
    glance = _ask(settings, lambda roll: roll.look())
    times = _times(settings)
    if not for_programs:
        typer.echo(render_nodes(glance, times))
        return
    typer.echo(
        as_json(
            [
                {
                    **asdict(node.identity),
                    **asdict(node.sign),
                    "started_at": node.started_at,
                    "beat_at": node.beat_at,
                    "drain_by": node.drain_by,
                    "drain_until": node.drain_until,
                    "heir": node.heir,
                    "state": state_of(node, glance.now, times),
                }
                for node in glance.nodes
            ]
        )
    )


@nodes_app.command()
def drain(
    context: typer.Context,
    node: Annotated[str | None, typer.Argument(help="Its name or id; not needed if there is only one.")] = None,
    limit: Annotated[
        float | None,
        typer.Option("--limit", min=0, help="After so many seconds, what is still open is warned and hung up."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing is open on it any more.")] = False,
    config: Config = None,
) -> None:
    """Have a node take no new calls, so that it can be stopped when those that it has are over."""

    settings = settings_of(context, config)

    async def ask(roll: "Roll") -> None:
        glance = await roll.look()
        chosen = choose(glance.nodes, node)
        must_live(chosen, glance, settings)
        await roll.ask_to_drain(chosen.id, by=operator(), limit_s=limit)
        typer.echo(f"{chosen.identity.name} ({chosen.id}) drains")
        while wait:
            glance = await roll.look()
            found = [each for each in glance.nodes if each.id == chosen.id]
            if not found:
                break
            must_live(found[0], glance, settings)
            if found[0].sign.draining and not found[0].sign.open_connections:
                break
            await asyncio.sleep(POLL_S)

    _ask(settings, ask)


def _times(settings: "Settings") -> "Times":
    from dosvoces.nodes.rules import Times

    return Times(settings.node.beat_s, settings.node.fence_s, settings.node.dead_s)


def must_live(node: "Node", glance: "Glance", settings: "Settings") -> None:
    """Raises `DosvocesError` if nobody is there who could drain, for whom one would wait for ever."""
    from dosvoces.nodes.table import state_of

    if state_of(node, glance.now, _times(settings)).startswith("dead"):
        raise DosvocesError(
            f"{node.identity.name} ({node.id}) is dead: its last sign of life is of {node.beat_at:%Y-%m-%d %H:%M:%S} "
            "UTC; its calls are ended by another node, or when it is started again"
        )


def choose(nodes: "Sequence[Node]", wanted: str | None) -> "Node":
    """The one that is meant. Raises `DosvocesError` if that isn't one."""
    if not nodes:
        raise DosvocesError("no node is running on this record: start `dosvoces serve`, or mend [database] url")
    fitting = [each for each in nodes if wanted is None or wanted in (each.identity.name, each.id)]
    if len(fitting) == 1:
        return fitting[0]
    there_are = ", ".join(f"{each.identity.name} ({each.id})" for each in fitting or nodes)
    what = "name one of them" if wanted is None else f"{wanted!r} is not one of them"
    if wanted is not None and fitting:
        what = f"several are called {wanted!r}, name one by its id"
    raise DosvocesError(f"{what}; the nodes are: {there_are}")


@nodes_app.command("stop-calls")
def stop_calls(context: typer.Context, config: Config = None) -> None:
    """End all calls on all nodes, and let nobody be called until `resume-calls`. For emergencies."""
    stopped = _ask(settings_of(context, config), lambda roll: roll.stop_calls(by=operator()))
    typer.echo("all calls are being hung up, and no new ones are made" if stopped else "all calls are stopped already")


@nodes_app.command("resume-calls")
def resume_calls(context: typer.Context, config: Config = None) -> None:
    """Let calls be made again after `stop-calls`."""
    resumed = _ask(settings_of(context, config), lambda roll: roll.resume_calls(by=operator()))
    typer.echo("calls are made again" if resumed else "calls were not stopped")


@nodes_app.command()
def hangup(
    context: typer.Context,
    connection: Annotated[str, typer.Argument(metavar="ID", help="As `list` and the answer's Location name it.")],
    config: Config = None,
) -> None:
    """End a connection, in whatever state and on whatever node it is."""
    from dosvoces.model import ConnectionId

    wanted = ConnectionId(connection.lower())
    asked = _ask(settings_of(context, config), lambda roll: roll.ask_to_cancel(wanted, by=operator()))
    if asked is None:
        raise DosvocesError(f"there is no connection {connection!r}; `dosvoces list` names those that there are")
    typer.echo("it is being hung up" if asked else "it is over already")


def _ask(settings: "Settings", question: "Callable[[Roll], Awaitable[T]]") -> T:
    """Ask the roll, beside the services."""
    from dosvoces.store.sql import open_roll

    return ask_record(settings, open_roll, question)
