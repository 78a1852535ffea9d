"""What the settings allow, as the record counts it."""

import math
from decimal import Decimal
from pathlib import Path

from dosvoces.dialplan.hours import CallingHours
from dosvoces.dialplan.rates import Rates, millionths, parse_rates
from dosvoces.errors import SettingsError
from dosvoces.settings import Settings
from dosvoces.store.budget import Budget
from dosvoces.store.ceilings import Ceilings, Most
from dosvoces.store.limits import Quota, TrunkQuota


def calling_hours(settings: Settings) -> CallingHours:
    """When the settings let whom be called."""
    return CallingHours(settings.numbers.calling_hours, frozenset(settings.numbers.holidays))


def quota(settings: Settings) -> Quota:
    """What all nodes together may do."""
    return Quota(
        max_open=settings.dialing.max_open,
        max_per_number=settings.dialing.max_per_number,
        trunks={
            trunk.name: TrunkQuota(trunk.max_calls, trunk.calls_per_second, trunk.max_wait_s)
            for trunk in settings.trunks
            if trunk.max_calls is not None or trunk.calls_per_second is not None
        },
        ceilings=_ceilings(settings),
        budget=budget(settings),
    )


def rates(settings: Settings) -> Rates | None:
    """The rate table, where there is a budget. Raises `SettingsError`."""
    file = settings.limits.rates_file
    if settings.limits.budget_per_day is None or file is None:
        return None
    try:
        return parse_rates(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f'[limits] rates_file = "{file}": can\'t be read: {error.strerror}') from error
    except ValueError as error:
        raise SettingsError(f'[limits] rates_file = "{file}": {error}') from error


def budget(settings: Settings) -> Budget:
    """What may be spent in a day. Raises `SettingsError`."""
    limits, talk_limit_s = settings.limits, settings.dialing.talk_limit_s
    most_s = None if limits.minutes_per_day is None else limits.minutes_per_day * 60
    if most_s is not None and most_s < 2 * math.ceil(talk_limit_s):
        raise SettingsError(
            f"[limits] minutes_per_day = {limits.minutes_per_day} has no room for one conversation of [dialing] "
            f"talk_limit_s = {talk_limit_s:g}, which takes up to {2 * talk_limit_s / 60:g} minutes on both lines: "
            "lower talk_limit_s, or raise minutes_per_day"
        )
    return Budget(
        seconds_per_day=most_s,
        money_per_day=None if limits.budget_per_day is None else millionths(Decimal(str(limits.budget_per_day))),
        rates=rates(settings),
        talk_limit_s=talk_limit_s,
    )


def _ceilings(settings: Settings) -> Ceilings:
    limits = settings.limits
    return Ceilings(
        calls=Most(limits.calls_per_hour, limits.calls_per_day),
        key=Most(limits.key_calls_per_hour, limits.key_calls_per_day),
        key_max_open=limits.key_max_open,
        source=Most(limits.source_calls_per_hour, limits.source_calls_per_day),
        number=Most(limits.number_calls_per_hour, limits.number_calls_per_day),
        recipient=Most(limits.recipient_mails_per_hour, limits.recipient_mails_per_day),
        domain=Most(limits.domain_mails_per_hour, limits.domain_mails_per_day),
    )
