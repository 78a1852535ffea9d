"""The pages made of what the HTTP door says of itself are current, and say all of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema_rs import Draft202012Validator  # schemathesis brings it

from dosvoces.web import description, problems, reference
from tests.web_fakes import FakeConnector, app_with

DOCS = Path(__file__).parent.parent / "docs" / "reference"


def test_the_pages_are_what_make_docs_writes() -> None:
    assert reference.page(description()) == (DOCS / "http-api.md").read_text("utf-8")
    assert problems.page() == (DOCS / "problems.md").read_text("utf-8")


def test_what_is_described_without_a_service_is_what_the_service_describes() -> None:
    assert app_with(FakeConnector()).openapi() == description()


def test_every_answer_of_v1_has_an_example() -> None:
    for path, operations in description()["paths"].items():
        for method, operation in operations.items() if path.startswith("/v1") else ():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    assert content.get("example") or content.get("examples"), (method, path, status)


def test_every_example_is_of_its_own_schema() -> None:
    said = description()
    examples = list(_examples(said["paths"], "paths"))
    assert len(examples) > 200
    wrong = [
        (where, error.message)
        for where, schema, example in examples
        for error in Draft202012Validator(
            schema | {"components": said["components"]}, validate_formats=True
        ).iter_errors(example)
    ]
    assert [] == wrong


def _examples(value: object, where: str) -> Iterator[tuple[str, dict[str, Any], object]]:
    """Every example with the schema that it stands beside or in."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _examples(one, f"{where} {number}")
    if not isinstance(value, dict):
        return
    for name, one in value.items():
        if name == "example":
            yield where, value.get("schema", value), one
        elif name == "examples":
            for code, kept in one.items():
                yield f"{where} {code}", value["schema"], kept["value"]
        else:
            yield from _examples(one, f"{where} {name}")


def test_every_reference_leads_somewhere() -> None:
    said = description()
    for schema in _referred(said):
        assert schema.rpartition("/")[2] in said["components"]["schemas"]


def _referred(value: object) -> list[str]:
    if isinstance(value, list):
        return [found for one in value for found in _referred(one)]
    if not isinstance(value, dict):
        return []
    return [found for name, one in value.items() for found in ([str(one)] if name == "$ref" else _referred(one))]
