"""What the docs show works as it stands there: settings are taken, links lead somewhere."""

import base64
import re
import tomllib
from pathlib import Path

import pytest

from dosvoces.dialplan.rates import parse_rates
from dosvoces.settings import load

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r'^(\w*(?:password|secret|url)_file) = "([^"]+)"', re.MULTILINE)


def snippets(language: str) -> list[tuple[str, str]]:
    """`(page and number, text)` of every block in that language."""
    return [
        (f"{page.relative_to(ROOT)}-{number}", block[2])
        for page in PAGES
        for number, block in enumerate(FENCED.finditer(page.read_text("utf-8")), 1)
        if block[1] == language
    ]


@pytest.mark.parametrize(("page", "text"), snippets("toml"), ids=lambda value: value if "\n" not in value else "")
def test_settings_in_the_docs_are_taken(tmp_path: Path, page: str, text: str) -> None:
    if "[rates]" in text:
        assert parse_rates(text).currency == tomllib.loads(text)["currency"]
        return
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    for key, name in NAMED_FILE.findall(text):
        file = tmp_path / Path(name).name
        file.write_text(f"{secret}\n")
        text = text.replace(f'{key} = "{name}"', f'{key} = "{file}"')
    (tmp_path / "dosvoces.toml").write_text(text)
    settings = load(tmp_path / "dosvoces.toml", {})
    assert set(tomllib.loads(text)) <= settings.model_fields_set


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_in_the_docs_lead_to_a_page_and_a_heading(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, heading = link.partition("#")
        if "://" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (heading and heading not in headings(there)):
            lost.append(link)
    assert lost == []


def test_every_page_is_found_from_the_readme() -> None:
    linked = {
        (ROOT / link.partition("#")[0]).resolve()
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text("utf-8"))
    }
    assert [page for page in ROOT.glob("docs/**/*.md") if page not in linked] == []


def headings(page: Path) -> set[str]:
    """The anchors of a page, as forges make them of its headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
