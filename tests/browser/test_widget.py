"""
The widget in a real browser (Debian's Chromium), on another site's page, against the live service and two phones.

With DOSVOCES_SCREENSHOTS=FOLDER each test leaves pictures there.
"""

import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from dosvoces.phone import PhoneBehaviour
from dosvoces.web.tokens import seal
from dosvoces.web.widget_texts import LOCALES
from tests.browser.site import Site
from tests.house import EMAIL, FIRST, SECOND, House, house_and_phones

SECRET = "browser-" * 4
LIMIT_MS = 30_000
EXPECTED = ["starting", "calling_visitor", "visitor_answered", "calling_agent", "joined", "ended"]
SLOW = PhoneBehaviour(answer_after_s=2.0)
TALKS = PhoneBehaviour(answer_after_s=2.0, hangup_after_s=3.0)


@dataclass
class Visit:
    page: Page
    house: House
    complaints: list[str] = field(default_factory=list)
    """What the browser's console was told as an error: a policy that is violated, say."""

    async def states(self) -> list[str]:
        found: list[str] = await self.page.evaluate("window.states")
        return found

    async def picture(self, name: str) -> None:
        if folder := os.environ.get("DOSVOCES_SCREENSHOTS"):
            await self.page.screenshot(path=Path(folder) / f"{name}.png")


@asynccontextmanager
async def visit(
    folder: Path,
    first: PhoneBehaviour = SLOW,
    second: PhoneBehaviour = TALKS,
    *,
    lang: str = "es",
    attributes: str = "",
) -> AsyncIterator[Visit]:
    """A visitor on the page, the service and both phones."""
    async with Site.open() as site:
        widget: dict[str, object] = {
            "secret": SECRET,
            "origins": [site.origin],
            "controller": "Casas Claras, S. L.",
            "privacy_url": f"{site.origin}/privacy",
        }
        async with house_and_phones(folder, first, second, widget=widget) as (house, _):
            url = house.service.http_url
            site.token = lambda: token(site.origin)
            site.policy = (
                f"default-src 'none'; script-src {url}; connect-src 'self' {url}; require-trusted-types-for 'script'"
            )
            shown = attributes or 'token-url="/token"'
            site.page = (
                f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8"><title>Ático</title>'
                f'<script type="module" src="{url}/widget.js"></script></head>'
                f"<body><h1>Ático en Valencia</h1><dosvoces-call {shown}></dosvoces-call></body></html>"
            )
            async with browser_page() as page:
                visitor = Visit(page, house)

                def heard(message: ConsoleMessage) -> None:
                    if message.type == "error":
                        visitor.complaints.append(message.text)

                page.on("console", heard)
                await page.add_init_script(
                    "window.states = []; addEventListener('dosvoces-progress', (e) => states.push(e.detail.state));"
                )
                await page.goto(site.origin)
                yield visitor


@asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    program = shutil.which("chromium")
    assert program is not None, "Debian's chromium is missing: `make test` installs it (scripts/debian-packages)"
    # Chromium's own sandbox doesn't run as root, nor in most containers; what is shown here is ours.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=60_000
        )
        try:
            page = await browser.new_page(viewport={"width": 480, "height": 640}, reduced_motion="reduce")
            page.set_default_timeout(LIMIT_MS)
            yield page
        finally:
            await browser.close()


def token(origin: str) -> str:
    return seal(
        {
            "jti": secrets.token_urlsafe(16),
            "exp": int(datetime.now(UTC).timestamp()) + 300,
            "origin": origin,
            "agent": SECOND,
            "email": EMAIL,
            "lead": {"property_name": "Ático", "city": "Valencia"},
        },
        SECRET.encode(),
    )


async def test_a_visitor_is_called_and_connected(tmp_path: Path) -> None:
    async with visit(tmp_path) as visitor:
        page = visitor.page
        await visitor.picture("form")
        await page.get_by_label("Tu número de teléfono").fill("600 000 011")
        await page.get_by_label("Acepto que Casas Claras, S. L.").check()
        await page.get_by_role("button", name="Llamadme ahora").click()
        await expect(page.get_by_role("status")).to_have_text("Ya estáis en contacto.", timeout=LIMIT_MS)
        await visitor.picture("joined")
        await expect(page.get_by_role("status")).to_have_text("La llamada ha terminado. Gracias.", timeout=LIMIT_MS)
        states = await visitor.states()
        assert states == [state for state in EXPECTED if state in states]  # In order, each told once.
        assert {"starting", "joined", "ended"} <= set(states)
        assert (record := await visitor.house.newest()) is not None
        assert (record.first, record.second, record.email) == (FIRST, SECOND, EMAIL)
        assert record.metadata["widget.consent"].startswith("es-")
        assert SECOND not in await page.content()
        assert visitor.complaints == []


async def test_the_keyboard_is_enough_and_errors_are_tied_to_their_fields(tmp_path: Path) -> None:
    async with visit(tmp_path, lang="en-GB") as visitor:
        page = visitor.page
        number, consent = page.get_by_label("Your phone number"), page.get_by_role("checkbox")
        await page.keyboard.press("Tab")
        await expect(number).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(number).to_have_accessible_description("For example 600 123 456 Write your phone number.")
        await expect(number).to_be_focused()
        await expect(consent).to_have_accessible_description("Without your agreement we may not call you.")
        await visitor.picture("errors")
        await page.keyboard.type("112")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        await expect(consent).to_be_checked()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(number).to_have_attribute("aria-invalid", "true")
        await expect(number).to_have_accessible_description(
            "For example 600 123 456 We can't call this number. Write another one."
        )
        await expect(number).to_be_focused()
        assert await visitor.house.newest() is None


async def test_an_agent_who_does_not_answer_is_told(tmp_path: Path) -> None:
    async with visit(tmp_path, second=PhoneBehaviour(reject=(486, "Busy Here")), lang="ca") as visitor:
        page = visitor.page
        await page.get_by_role("textbox").fill(FIRST)
        await page.get_by_role("checkbox").check()
        await page.get_by_role("button").click()
        await expect(page.get_by_role("status")).to_have_text(
            "L'agent no et pot atendre ara. Té la teva sol·licitud i et trucarà.", timeout=LIMIT_MS
        )
        assert (await visitor.states())[-1] == "agent_unreached"


async def test_a_page_with_a_stale_token_says_so(tmp_path: Path) -> None:
    async with visit(tmp_path, lang="fr", attributes='token="a.b.c"') as visitor:
        page = visitor.page
        await page.get_by_role("textbox").fill(FIRST)
        await page.get_by_role("checkbox").check()
        await page.get_by_role("button").click()
        await expect(page.get_by_role("status")).to_have_text(
            "L'appel n'a pas pu être passé. Réessayez plus tard.", timeout=LIMIT_MS
        )
        await expect(page.get_by_role("button")).to_be_disabled()


@pytest.mark.parametrize("lang", LOCALES)
async def test_every_language_is_shown_and_readable(tmp_path: Path, lang: str) -> None:
    async with visit(tmp_path, lang=lang) as visitor:
        section = visitor.page.locator("dosvoces-call section")
        await expect(section).to_have_attribute("lang", lang)
        await visitor.picture(f"form-{lang}")
        wide: list[int] = await visitor.page.evaluate("[document.body.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        contrasts: list[float] = await visitor.page.evaluate(CONTRASTS)
        assert len(contrasts) >= 7
        assert min(contrasts) >= 4.5  # WCAG 2.2, 1.4.3


CONTRASTS = """() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const shown = document.querySelector("dosvoces-call").shadowRoot
    .querySelectorAll("h2, label, span, input[type=tel], a, button, p");
  return [...shown].map((node) => {
    const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  });
}"""
