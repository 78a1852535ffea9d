"""
What the widget says, in every language that it has, and the consent that a visitor gives. Pure but for its files.

A consent is known by its version, of the text as it was shown: what somebody agreed to can't change afterwards.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("static")
LOCALES = ("ca", "en", "es", "fr", "pt")
_PLACE = "/*TEXTS*/ {}"


@dataclass(frozen=True, slots=True)
class Consent:
    """What a visitor agrees to."""

    locale: str
    version: str
    """`es-` and 12 hex digits of the text's SHA-256."""
    text: str


class WidgetTexts:
    """The texts with the controller's name in them."""

    def __init__(self, *, controller: str, privacy_url: str) -> None:
        self._texts = {locale: _texts(locale) for locale in LOCALES}
        self.consents: dict[str, Consent] = {}
        """By version."""
        for locale, texts in self._texts.items():
            text = texts["consent"].replace("{controller}", controller)
            digest = hashlib.sha256(f"{text} {privacy_url}".encode()).hexdigest()
            consent = Consent(locale, f"{locale}-{digest[:12]}", text)
            self.consents[consent.version] = consent
            texts |= {"consent": text, "consent_version": consent.version, "privacy_url": privacy_url}

    def module(self) -> str:
        """The ES module that a page loads, with all texts in it."""
        source = (FOLDER / "widget.js").read_text("utf-8")
        assert _PLACE in source
        return source.replace(_PLACE, json.dumps(self._texts, ensure_ascii=False, sort_keys=True), 1)


def _texts(locale: str) -> dict[str, str]:
    texts: Mapping[str, str] = tomllib.loads((FOLDER / "widget" / f"{locale}.toml").read_text("utf-8"))
    return dict(texts)
