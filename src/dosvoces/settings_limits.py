"""The section `[limits]` of the settings: how much may be asked for, by whom, and to whom."""

from typing import Annotated

from pydantic import Field

from dosvoces.settings_section import Section

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
