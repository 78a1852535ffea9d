"""The section `[mail]` of the settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from dosvoces.settings import values as values
from dosvoces.settings.section import Section

Sender = Annotated[str, AfterValidator(values.mail_from)]
Recipient = Annotated[str, AfterValidator(values.mail_to)]


class Mail(Section):
    """Who takes the mails."""

    url: Annotated[SecretStr, AfterValidator(values.mail_url)] = SecretStr("inbox:")
    """`inbox:` keeps mails in the record (`dosvoces mail list`). `smtp://user:password@host:587?tls=starttls` submits
    them; `tls=implicit` (port 465, the same as `smtps://`) and `tls=none` too; further options are `ca`, `connections`,
    `ehlo`, `allow_plain_login=1`. In user and password `@` is written `%40`. Or `url_file`."""
    from_: Sender = Field(default="Dosvoces <dosvoces@localhost>", alias="from")
    """The sender, `Name <local@domain>`. A real mail server wants an address of yours."""
    locale: Literal["es", "en"] = "es"
    """Language of the mails."""
    timeout_s: Annotated[float, Field(gt=0, le=14)] = 10.0
    """Longest that handing over one mail may take, in seconds; nobody is dialled before it has been taken."""
    recipient_domains: Annotated[
        tuple[Annotated[str, AfterValidator(values.mail_domain)], ...] | None,
        BeforeValidator(values.comma_separated),
        Field(min_length=1, max_length=1000),
    ] = None
    """Domains that leads may be mailed to, such as `["example.com", "*.example.com"]` (what is below it); a request for
    another gets 400. Without it: all, so that who can ask for a call can mail a lead to anybody."""
    outcome: Literal["never", "failed", "always"] = "never"
    """Whether a second mail tells how it ended: `always`; `failed`, unless both talked or the client cancelled;
    `never`. It is tried for three days."""
    outcome_to: Recipient | None = None
    """Who gets it. Without it: whom the lead was mailed to."""
    timezone: Annotated[str, AfterValidator(values.time_zone)] = "Europe/Madrid"
    """Time zone in which that mail tells when it ended, such as `Atlantic/Canary` or `UTC` (tz database)."""
