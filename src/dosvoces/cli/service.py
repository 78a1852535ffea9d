"""The commands that run the service: `serve`, `check` before it, and `demo` instead of it."""

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dosvoces import __version__
from dosvoces.cli.options import AsJson, Config, as_json, settings_of
from dosvoces.errors import SettingsError

if TYPE_CHECKING:
    from dosvoces.doctor import Finding
    from dosvoces.settings import Settings

service_app = typer.Typer(rich_markup_mode=None)


@service_app.command()
def serve(context: typer.Context, config: Config = None) -> None:
    """Run the service until Ctrl-C or SIGTERM."""
    import uvloop  # a part of uvicorn[standard]

    from dosvoces import telemetry
    from dosvoces.app import serve

    settings = settings_of(context, config)
    telemetry.configure(settings.log)

    def welcome(url: str, missing: list[str]) -> None:
        if settings.log.format != "json":
            typer.echo(_welcome(settings, url, missing))

    # A tenth less CPU per connection than asyncio's own loop (docs/performance.md).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, welcome=welcome))


def _welcome(settings: "Settings", url: str, missing: list[str]) -> str:
    """One screen: what it is ready for, what is missing, what to do about it."""
    from dosvoces.doctor import Level, offline
    from dosvoces.store.address import parse_database_url

    inbox = settings.mail.url.get_secret_value() == "inbox:"
    mails = "kept here, not sent: dosvoces mail list" if inbox else f"sent as {settings.mail.from_}"
    trunks = [f"{trunk.name} ({trunk.proxy or trunk.carrier})" for trunk in settings.trunks]
    lines = [
        f"Dosvoces {__version__}",
        "",
        f"  requests  POST {url}/call",
        f"  mails     {mails}",
        f"  record    {parse_database_url(settings.database.address)}",
        f"  trunks    {', '.join(trunks) or 'none: no call can be made yet'}",
        "",
    ]
    if not settings.trunks:
        return "\n".join([*lines, TRUNK_WANTED])
    lines += [f"  not ready: {problem}" for problem in missing]
    lines += [f"  {f.thing}: {f.text}; {f.remedy}" for f in offline(settings) if f.level is not Level.OK]
    return "\n".join(lines).rstrip() + "\n"


TRUNK_WANTED = """To make calls, add a trunk to dosvoces.toml and start again:

  [sip]
  bind = "0.0.0.0:5060"

  [media]
  address = "0.0.0.0"
  advertised = "198.51.100.7"      # this machine, as the trunk sees it

  [[trunks]]
  name = "main"
  proxy = "sip:sip.example.com:5060;transport=udp"
  username = "…"
  password = "…"
  caller_id = "+34910000000"

Then `dosvoces check` tells what is still missing. To see it work without a trunk: `dosvoces demo`.
"""


@service_app.command()
def demo(
    stay: Annotated[bool | None, typer.Option(help="Stay open for a look; by default in a terminal.")] = None,
) -> None:
    """Connect two built-in phones and show the proof; needs nothing and leaves nothing behind."""
    from dosvoces.demo import run_demo

    stays = sys.stdin.isatty() and sys.stdout.isatty() if stay is None else stay
    raise typer.Exit(asyncio.run(run_demo(stay=stays)))


@service_app.command()
def check(context: typer.Context, config: Config = None, for_programs: AsJson = False) -> None:
    """Tell what is wrong with the configuration on this machine, and how to mend it."""
    findings = _findings(context, config)
    if for_programs:
        typer.echo(as_json([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            _print_finding(finding)
    raise typer.Exit(any(finding.level == "error" for finding in findings))


def _findings(context: typer.Context, config: Path | None) -> "list[Finding]":
    from dosvoces.app import open_mailbox
    from dosvoces.doctor import Finding, Level, examine
    from dosvoces.settings import InvalidSettings
    from dosvoces.settings.sources import file_to_read
    from dosvoces.store.sql import open_keys, open_store

    try:
        settings = settings_of(context, config)
        store = open_store(settings.database.address, reader=True)
        keys = open_keys(settings.database.address)
        mailbox = open_mailbox(settings, store)
    except InvalidSettings as error:
        return [Finding(Level.ERROR, error.source, problem) for problem in error.problems]
    except SettingsError as error:
        return [Finding(Level.ERROR, "configuration", str(error))]
    file = file_to_read(config or context.find_root().obj)
    return asyncio.run(examine(settings, file=file, store=store, mailbox=mailbox, keys=keys))


_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}


def _print_finding(finding: "Finding") -> None:
    level = typer.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
    typer.echo(f"{level} {finding.thing}: {finding.text}")
    if finding.remedy:
        typer.echo(f"         → {finding.remedy}")
