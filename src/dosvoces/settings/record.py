"""The section `[record]` of the settings: for how long what is remembered."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from dosvoces.settings.section import Section

Days = Annotated[float, Field(gt=0, le=36_500)]


class Record(Section):
    """How long the record remembers."""

    lead_days: Days | None = None
    """Of connections that ended longer ago the lead is blanked: its texts, metadata, numbers as written, SIP messages,
    webhooks' bodies, and so are kept mails of that age deleted. Facts of the call stay. Looked after once an hour.
    Without it they stay as long as the connection."""
    keep_days: Days | None = None
    """Connections that ended longer ago are deleted, with journals, SIP messages, idempotency keys and what became of
    their webhooks, and so are kept mails of that age. Looked after once an hour. Without it nothing is deleted."""

    @model_validator(mode="after")
    def _lead_goes_first(self) -> Self:
        if self.lead_days is not None and self.keep_days is not None and self.lead_days > self.keep_days:
            raise ValueError("`lead_days` is more than `keep_days`, when the whole connection is deleted: make it less")
        return self
