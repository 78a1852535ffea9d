"""The pages about states are those of today's core."""

from pathlib import Path

from dosvoces import states

DOCS = Path(__file__).parent.parent / "docs"


def test_the_states_page_is_current() -> None:
    assert states.page() == (DOCS / "reference" / "states.md").read_text()


def test_the_diagram_in_the_architecture_is_current() -> None:
    text = (DOCS / "architecture.md").read_text()
    assert states.with_phases(text) == text
