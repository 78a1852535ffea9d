"""The section `[limits]` of the settings: how much may be asked for, by whom, and to whom."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from dosvoces.settings.section import Section

Ceiling = Annotated[int, Field(ge=1, le=1_000_000_000)] | None


class Limits(Section):
    """Ceilings of an hour and of a day, both by UTC, exact over all nodes. What is beyond is refused with 429, before
    anything is mailed or dialled. Without them: no ceiling. See [ceilings](../howto/limits.md)."""

    calls_per_hour: Ceiling = None
    """Connections in an hour, of everybody together."""
    calls_per_day: Ceiling = None
    """Connections in a day, of everybody together."""
    key_calls_per_hour: Ceiling = None
    """Connections in an hour that one API key asks for, unless the key has a limit of its own. Where no keys are
    needed, everybody together counts as one."""
    key_calls_per_day: Ceiling = None
    """Connections in a day that one API key asks for."""
    key_max_open: Ceiling = None
    """Connections that one API key may have open at once."""
    source_calls_per_hour: Ceiling = None
    """Connections in an hour that one network address asks for; of IPv6, one /64."""
    source_calls_per_day: Ceiling = None
    """Connections in a day that one network address asks for."""
    number_calls_per_hour: Ceiling = None
    """Connections in an hour in which one number is called, whoever asks."""
    number_calls_per_day: Ceiling = None
    """Connections in a day in which one number is called."""
    recipient_mails_per_hour: Ceiling = None
    """Leads that one mailbox is sent in an hour."""
    recipient_mails_per_day: Ceiling = None
    """Leads that one mailbox is sent in a day."""
    domain_mails_per_hour: Ceiling = None
    """Leads that all mailboxes of one domain are sent in an hour."""
    domain_mails_per_day: Ceiling = None
    """Leads that all mailboxes of one domain are sent in a day."""
    minutes_per_day: Ceiling = None
    """Minutes of both lines together in a day. Each connection reserves `talk_limit_s` for both when it begins, and
    gives back at its end what it didn't use."""
    budget_per_day: Annotated[float, Field(gt=0, le=1_000_000_000)] | None = None
    """Money in a day, in the currency of `rates_file`, reserved and given back likewise. A number without a rate is not
    called."""
    rates_file: Annotated[str, Field(min_length=1)] | None = None
    """What a minute costs, by prefix (TOML), relative to where the service starts: see
    [ceilings](../howto/limits.md#minutes-and-money)."""

    @model_validator(mode="after")
    def _rates_for_a_budget(self) -> Self:
        if self.budget_per_day is not None and self.rates_file is None:
            raise ValueError("`budget_per_day` needs to know what calls cost: add `rates_file`, a rate table")
        return self
