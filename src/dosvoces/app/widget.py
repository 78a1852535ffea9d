"""Puts the widget at its addresses, if the settings have one."""

from collections.abc import Callable
from datetime import datetime

from fastapi import FastAPI
from starlette.routing import Route

from dosvoces.dialplan import NumberRules
from dosvoces.mail.messages import locales
from dosvoces.settings import Settings
from dosvoces.web.ports import Connector, Records
from dosvoces.web.recipient import Domains
from dosvoces.web.widget import PATHS, Widget, WidgetTerms
from dosvoces.web.widget_texts import WidgetTexts


def add_widget(
    app: FastAPI,
    settings: Settings,
    *,
    connector: Connector,
    records: Records,
    rules: NumberRules,
    clock: Callable[[], datetime],
) -> None:
    """Without a `[widget] secret` there is nothing at its addresses."""
    if not settings.widget.secrets:
        return
    widget = Widget(
        WidgetTerms(
            secrets=settings.widget.secrets,
            origins=frozenset(settings.widget.origins),
            country=settings.widget.country or settings.countries[0],
            per_address=settings.widget.per_address,
            per_number=settings.widget.per_number,
            locales=frozenset(locales()),
            key_lifetime_s=settings.http.idempotency_hours * 3600,
        ),
        texts_of(settings),
        connector=connector,
        records=records,
        rules=rules,
        clock=clock,
        domains=Domains(settings.mail.recipient_domains),
    )
    app.router.routes[:0] = [Route(path, widget, name=path) for path in sorted(PATHS)]


def texts_of(settings: Settings) -> WidgetTexts:
    return WidgetTexts(controller=settings.widget.controller.strip(), privacy_url=settings.widget.privacy_url or "")
