"""
The command `dosvoces`: reads the settings, calls what does the work, prints what came of it.

Imports of ours stand inside the commands, so that `--version` and `--help` cost nothing. An error of ours is one clear
message on standard error; exit status 2 means that the command line or the configuration is wrong, 1 that it failed.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dosvoces import __version__
from dosvoces.cli.calls import calls_app
from dosvoces.cli.data import data_app
from dosvoces.cli.dnc import dnc_app
from dosvoces.cli.keys import audit_app, keys_app
from dosvoces.cli.nodes import nodes_app
from dosvoces.cli.numbers import numbers_app
from dosvoces.cli.options import Config
from dosvoces.cli.people import people_app
from dosvoces.cli.record import mail_app, record_app
from dosvoces.cli.service import service_app
from dosvoces.cli.webhooks import webhooks_app
from dosvoces.cli.widget import widget_app
from dosvoces.errors import DosvocesError, SettingsError

app = typer.Typer(
    help="One POST e-mails a lead, dials two numbers and joins them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(service_app)
app.add_typer(calls_app)
app.add_typer(record_app)
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
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)  # as without any argument
        raise typer.Exit(2)
    context.obj = config


@app.command(hidden=True)
def reference(docs: Path) -> None:
    """Write the generated pages of the documentation anew."""
    from dosvoces.reference import write_pages

    write_pages(docs)
