"""The commands about the widget: a token for a trial, and the consent texts that visitors see."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from dosvoces.cli.options import AsJson, Config, as_json, settings_of
from dosvoces.errors import DosvocesError, SettingsError

widget_app = typer.Typer(help="The call form for a site's pages.", no_args_is_help=True, rich_markup_mode=None)
NO_WIDGET = "there is no [widget] secret in the settings, so there is no form: see docs/howto/widget.md"


@widget_app.command()
def token(
    context: typer.Context,
    agent: Annotated[str, typer.Option(help="The agent's number, such as +34960000022.")],
    email: Annotated[str, typer.Option(help="Whom the lead is mailed to.")],
    origin: Annotated[str | None, typer.Option(help="The page's origin. [default: the only one of [widget]]")] = None,
    lead: Annotated[str, typer.Option(help='The property, as JSON: {"city": "Valencia"}.')] = "{}",
    minutes: Annotated[int, typer.Option(min=1, max=15, help="How long it opens a call.")] = 15,
    agent_first: Annotated[bool, typer.Option("--agent-first", help="Ring the agent before the visitor.")] = False,
    config: Config = None,
) -> None:
    """Make a token, as the site's server does: for a trial."""
    from dosvoces.web.tokens import seal

    widget = settings_of(context, config).widget
    if not widget.secrets:
        raise SettingsError(NO_WIDGET)
    if origin is None and len(widget.origins) != 1:
        raise DosvocesError(f"name the page with --origin: {', '.join(widget.origins)}")
    chosen = origin or widget.origins[0]
    if chosen not in widget.origins:
        raise DosvocesError(f"{chosen} is not in [widget] origins: {', '.join(widget.origins)}")
    try:
        told = json.loads(lead)
    except ValueError as error:
        raise DosvocesError(f"--lead is not JSON: {error}") from error
    expires = datetime.now(UTC) + timedelta(minutes=minutes)
    claims: dict[str, object] = {
        "jti": secrets.token_urlsafe(16),
        "exp": int(expires.timestamp()),
        "origin": chosen,
        "agent": agent,
        "email": email,
        "lead": told,
    }
    if agent_first:
        claims["first"] = "agent"
    typer.echo(seal(claims, widget.secrets[0]))


@widget_app.command()
def consents(context: typer.Context, config: Config = None, for_programs: AsJson = False) -> None:
    """What visitors agree to, by language, with the version that the record has of each consent."""
    from dosvoces.app.widget import texts_of

    settings = settings_of(context, config)
    if not settings.widget.secrets:
        raise SettingsError(NO_WIDGET)
    found = texts_of(settings).consents.values()
    if for_programs:
        typer.echo(as_json([{"locale": c.locale, "version": c.version, "text": c.text} for c in found]))
    else:
        typer.echo("\n".join(f"{consent.version}  {consent.text}" for consent in found))
