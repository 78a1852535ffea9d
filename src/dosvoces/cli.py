"""
The command `dosvoces`: reads the settings, calls what does the work, prints what came of it.

Imports of ours stand inside the commands, so that `--version` and `--help` cost nothing. An error of ours is one clear
message on standard error; exit status 2 means that the command line or the configuration is wrong, 1 that it failed.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dosvoces import __version__
from dosvoces.cli_data import data_app
from dosvoces.cli_dnc import dnc_app
from dosvoces.cli_keys import audit_app, keys_app
from dosvoces.cli_nodes import nodes_app
from dosvoces.cli_numbers import numbers_app
from dosvoces.cli_options import AsJson, Config, as_json, settings_of
from dosvoces.cli_people import people_app
from dosvoces.cli_webhooks import webhooks_app
from dosvoces.cli_widget import widget_app
from dosvoces.errors import DosvocesError, SettingsError

if TYPE_CHECKING:
    from dosvoces.doctor import Finding
    from dosvoces.settings import Settings
    from dosvoces.store import Store

T = TypeVar("T")

app = typer.Typer(
    help="One POST e-mails a lead, dials two numbers and joins them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
mail_app = typer.Typer(help="The mails kept in the embedded inbox.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(mail_app, name="mail")
app.add_typer(nodes_app)
app.add_typer(data_app)
app.add_typer(numbers_app)
app.add_typer(keys_app, name="keys")
app.add_typer(dnc_app, name="dnc")
app.add_typer(audit_app)
app.add_typer(people_app)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(widget_app, name="widget")

Limit = Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. `arguments` are those after the program's name."""
    try:
        # Without standalone mode typer returns `Exit`'s code and raises the rest, so that errors look alike.
        return int(app(args=arguments, prog_name="dosvoces", standalone_mode=False) or 0)
    except SettingsError as error:
        return _fail(str(error), 2)
    except DosvocesError as error:
        return _fail(str(error), 1)
    except typer.exceptions.TyperException as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as a shell says it
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); Python must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(text: str, status: int) -> int:
    typer.echo(f"dosvoces: {text}", err=True)
    return status


def _usage(error: typer.exceptions.TyperException) -> int:
    show = getattr(error, "show", None)
    if show is None:
        return _fail(str(error), error.exit_code)
    show()
    return error.exit_code


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    config: Config = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"dosvoces {__version__}")
        raise typer.Exit
    context.obj = config


# --- the service ---


@app.command()
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


@app.command()
def demo(
    stay: Annotated[bool | None, typer.Option(help="Stay open for a look; by default in a terminal.")] = None,
) -> None:
    """Connect two built-in phones and show the proof; needs nothing and leaves nothing behind."""
    from dosvoces.demo import run_demo

    stays = sys.stdin.isatty() and sys.stdout.isatty() if stay is None else stay
    raise typer.Exit(asyncio.run(run_demo(stay=stays)))


@app.command()
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
    from dosvoces.settings_load import file_to_read
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


# --- calls ---


@app.command()
def call(
    context: typer.Context,
    firstnumber: Annotated[str, typer.Option("--firstnumber", help="Dialled first.")],
    secondnumber: Annotated[str, typer.Option("--secondnumber", help="Dialled second.")],
    email: Annotated[str, typer.Option("--email", help="Whom the lead is mailed to.")],
    nombre_propiedad: Annotated[str | None, typer.Option("--nombre_propiedad", help="The property.")] = None,
    nombre_comercializador: Annotated[str | None, typer.Option("--nombre_comercializador", help="The agent.")] = None,
    url_anuncio: Annotated[str | None, typer.Option("--url_anuncio", help="The advertisement.")] = None,
    ciudad_propiedad: Annotated[str | None, typer.Option("--ciudad_propiedad", help="Its city.")] = None,
    m2_vivienda: Annotated[str | None, typer.Option("--m2_vivienda", help="Its area.")] = None,
    precio_vivienda: Annotated[str | None, typer.Option("--precio_vivienda", help="Its price.")] = None,
    call_interval: Annotated[int | None, typer.Option("--call_interval", help="Seconds between the calls.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="The service; else as [http] says.")] = None,
    key: Annotated[
        str, typer.Option("--key", envvar="DOSVOCES_KEY", help="The API key, where the service wants one.")
    ] = "",
    follow: Annotated[bool | None, typer.Option(help="Tell what happens; so with --url and --key.")] = None,
    config: Config = None,
) -> None:
    """Ask a running service to connect two numbers."""
    from dosvoces.cli_follow import follow as tell
    from dosvoces.client import post_call, service_url

    fields = {name: value for name, value in locals().items() if name in CONTRACT_FIELDS and value is not None}
    settings = settings_of(context, config)
    answer = post_call(
        service := url or service_url(settings.http.host, settings.http.port),
        fields,
        key=key.strip(),
        # Both may ring out, after the mail and the interval.
        timeout_s=settings.mail.timeout_s + 2 * settings.dialing.ring_timeout_s + (call_interval or 300) + 10,
    )
    typer.echo(f"{answer.status} {answer.text}")
    if answer.connection_id:
        typer.echo(f"dosvoces show {answer.connection_id}")
    if answer.connection_id and (follow or (follow is None and url and key)):
        tell(service, key.strip(), answer.connection_id, asked=bool(follow))
    raise typer.Exit(answer.status != 200)


CONTRACT_FIELDS = frozenset(
    "firstnumber secondnumber email nombre_propiedad nombre_comercializador url_anuncio ciudad_propiedad m2_vivienda "
    "precio_vivienda call_interval".split()
)


@app.command()
def phone(
    bind: Annotated[str, typer.Option(help="Address to listen on, UDP and TCP.")] = "127.0.0.1:5070",
    answer_after: Annotated[float, typer.Option(min=0, help="Seconds of ringing before it answers.")] = 1.0,
    ring: Annotated[bool, typer.Option("--ring", help="Ring for ever.")] = False,
    busy: Annotated[bool, typer.Option("--busy", help="Be busy (486).")] = False,
    decline: Annotated[bool, typer.Option("--decline", help="Decline (603) after ringing.")] = False,
    not_found: Annotated[bool, typer.Option("--not-found", help="Be nobody (404).")] = False,
    hangup_after: Annotated[float | None, typer.Option(min=0, help="Hang up so many seconds after answering.")] = None,
    tone: Annotated[int | None, typer.Option(min=1, max=3999, help="Play a tone of so many Hz.")] = None,
    keys: Annotated[str, typer.Option(help="Press these after answering: 0-9 * # A-D.")] = "",
    srtp: Annotated[bool, typer.Option("--srtp", help="Encrypt where that is offered.")] = False,
    calls: Annotated[int | None, typer.Option(min=1, help="End after so many calls.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Listen for TLS on the next port, with this (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, if it isn't in the same file.")] = None,
) -> None:
    """A small SIP phone for trials: answers, plays a tone, tells what it hears."""
    from dosvoces import phone as phones
    from dosvoces.settings import Bind

    if sum((ring, busy, decline, not_found)) > 1:
        raise typer.BadParameter("--ring, --busy, --decline and --not-found exclude each other")
    refusal = phones.BUSY if busy else phones.DECLINE if decline else phones.NOT_FOUND if not_found else None
    try:
        behaviour = phones.PhoneBehaviour(
            answer_after_s=None if ring else answer_after,
            reject=refusal,
            reject_after_s=answer_after if decline else 0.0,
            hangup_after_s=hangup_after,
            tone_hz=tone,
            keys=keys,
            srtp=srtp,
        )
        address = _parsed(Bind, bind)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    tls = None
    if certificate is not None:
        port = address.port and address.port + 1
        tls = phones.Tls(certificate_file=str(certificate), key_file=str(key or ""), port=port)
    with _socket_errors(f"can't listen on {bind}"):
        names = {425: "ringing tone"}
        asyncio.run(phones.run_phone(behaviour, bind=address, tls=tls, say=typer.echo, calls=calls, names=names))


def _parsed(kind: Any, text: str) -> Any:
    """`text` by a settings type's own rules. Raises `ValueError` with the remedy."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


@contextlib.contextmanager
def _socket_errors(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # a certificate that can't be used says so by itself
        raise DosvocesError(str(error)) from error
    except OSError as error:
        raise DosvocesError(f"{what}: {error.strerror or error}; choose another address") from error


# --- the record ---


@app.command("list")
def list_connections(
    context: typer.Context, limit: Limit = 20, config: Config = None, for_programs: AsJson = False
) -> None:
    """The newest connections."""
    from dosvoces import timeline

    records = _read(settings_of(context, config), lambda store: store.connections(limit=limit))
    typer.echo(as_json([asdict(record) for record in records]) if for_programs else timeline.render_list(records))


@app.command()
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

    record, entries = _read(settings_of(context, config), both)
    if record is None:
        raise DosvocesError(f"there is no connection {connection!r}; `dosvoces list` names those that there are")
    if for_programs:
        typer.echo(as_json({**asdict(record), "journal": [asdict(entry) for entry in entries]}))
    else:
        typer.echo(timeline.render_connection(record, entries))


def _show_capture(settings: "Settings", connection: str, *, as_ladder: bool, pcap_file: Path | None) -> None:
    from dosvoces.capture import unpack
    from dosvoces.capture.ladder import ladder
    from dosvoces.capture.pcap import pcap
    from dosvoces.model import ConnectionId

    packed = _read(settings, lambda store: store.capture(ConnectionId(connection.lower())))
    if packed is None:
        raise DosvocesError(
            f"no SIP messages are kept of {connection!r}: they are when it is over, if [sip] capture is on"
        )
    capture = unpack(packed)
    if pcap_file is not None:
        content = pcap(capture)
        sys.stdout.buffer.write(content) if str(pcap_file) == "-" else pcap_file.write_bytes(content)
    if as_ladder:
        typer.echo(ladder(capture))


@mail_app.command("list")
def list_mails(context: typer.Context, limit: Limit = 20, config: Config = None) -> None:
    """The newest mails."""
    from dosvoces import timeline

    typer.echo(timeline.render_mail_list(_read(settings_of(context, config), lambda store: store.mails(limit=limit))))


@mail_app.command("show")
def show_mail(
    context: typer.Context,
    number: Annotated[int, typer.Argument(min=1, help="As `mail list` numbers it.")],
    raw: Annotated[bool, typer.Option("--raw", help="The whole message as it would go over the wire.")] = False,
    config: Config = None,
) -> None:
    """One mail: what its reader sees, in plain text."""
    from dosvoces import timeline

    kept = _read(settings_of(context, config), lambda store: store.mail(number))
    if kept is None:
        raise DosvocesError(f"there is no mail {number}; `dosvoces mail list` names those that there are")
    if raw:
        sys.stdout.buffer.write(kept.content)
    else:
        typer.echo(timeline.render_mail(kept))


def _read(settings: "Settings", question: "Callable[[Store], Awaitable[T]]") -> T:
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


@app.command(hidden=True)
def reference(docs: Path) -> None:
    """Write the generated pages of the documentation anew."""
    from dosvoces.reference import write_pages

    write_pages(docs)
