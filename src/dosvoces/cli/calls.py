"""The commands about calls: ask a running service for one, and be a phone that is called."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dosvoces.cli.options import Config, settings_of
from dosvoces.errors import DosvocesError

MAX_INTERVAL_S = 300  # the contract's; `web.fields` checks it, and costs too much to load for it

calls_app = typer.Typer(rich_markup_mode=None)


@calls_app.command()
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
    from dosvoces.cli.follow import follow as tell
    from dosvoces.client import post_call, service_url

    fields = {name: value for name, value in locals().items() if name in CONTRACT_FIELDS and value is not None}
    settings = settings_of(context, config)
    answer = post_call(
        service := url or service_url(settings.http.host, settings.http.port),
        fields,
        key=key.strip(),
        # Both may ring out, after the mail and the interval. An interval that can't be is the service's to refuse.
        timeout_s=settings.mail.timeout_s
        + 2 * settings.dialing.ring_timeout_s
        + min(max(call_interval or MAX_INTERVAL_S, 0), MAX_INTERVAL_S)
        + 10,
    )
    typer.echo("\n  ".join([f"{answer.status} {answer.text}", *answer.errors]))
    if answer.connection_id:
        typer.echo(f"dosvoces show {answer.connection_id}")
    if answer.connection_id and (follow or (follow is None and url and key)):
        tell(service, key.strip(), answer.connection_id, asked=bool(follow))
    raise typer.Exit(answer.status != 200)


CONTRACT_FIELDS = frozenset(
    "firstnumber secondnumber email nombre_propiedad nombre_comercializador url_anuncio ciudad_propiedad m2_vivienda "
    "precio_vivienda call_interval".split()
)


@calls_app.command()
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
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        address = _parsed(Bind, bind)
    except ValueError as error:
        raise typer.BadParameter(f"{bind!r}: {error}", param_hint="'--bind'") from error
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
