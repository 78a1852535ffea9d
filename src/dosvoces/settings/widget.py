"""The section `[widget]` of the settings: the call form on the pages of a site."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from dosvoces.settings.http import OriginList
from dosvoces.settings.section import Section
from dosvoces.settings.values import spelled

MIN_SECRET = 32  # bytes, RFC 7518 §3.2: a key as long as the hash


def widget_secret(value: SecretStr) -> SecretStr:
    secrets = value.get_secret_value().split()
    if not secrets or any(len(secret.encode()) < MIN_SECRET for secret in secrets):
        raise ValueError(f"write at least {MIN_SECRET} random characters: openssl rand -hex 32")
    return value


def page_url(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable():
        raise ValueError('write it as "https://www.example.com/privacy"')
    return value


class Widget(Section):
    """The call form for the pages of a site; see [widget](../howto/widget.md). Without a `secret` there is none."""

    secret: Annotated[SecretStr, AfterValidator(widget_secret)] | None = Field(default=None, repr=False)
    """What the site's server encrypts tokens with, at least 32 random characters; two of them with a blank between
    while you change from one to the other. Or `secret_file`."""
    origins: OriginList = ()
    """The pages that may have the form, such as `["https://www.example.com"]`."""
    controller: Annotated[str, Field(max_length=200)] = ""
    """Who answers for the visitors' data, as the consent text names them: the company's name."""
    privacy_url: Annotated[str, AfterValidator(page_url)] | None = None
    """The page with the privacy policy, which the consent text leads to."""
    country: Annotated[str, spelled("[A-Z]{2}", 'write two capital letters, such as "ES"')] | None = None
    """Whose numbers visitors may write without the country's code (ISO 3166). Without it: the first of those whose
    numbers may be dialled."""
    per_address: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Calls that are begun in an hour for visitors from one address (IPv6: one /64), on this node."""
    per_number: Annotated[int, Field(ge=1, le=1000)] = 3
    """Calls that are begun in an hour to one visitor's number, on this node."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return () if self.secret is None else tuple(each.encode() for each in self.secret.get_secret_value().split())

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.secret is not None and not (self.origins and self.controller.strip() and self.privacy_url):
            raise ValueError("the form needs `origins`, `controller` and `privacy_url` beside its `secret`")
        return self
