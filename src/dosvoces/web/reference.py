"""`docs/reference/http-api.md`, made from what `/openapi.json` says. Pure."""

import json
from collections.abc import Iterator
from typing import Any

_HEAD = """# HTTP API

Written by `make docs` from the service's own `/openapi.json` (OpenAPI 3.1); don't edit it here. How to use it is told
in [the API](../howto/api.md), what goes wrong at `/v1` in [problems](problems.md).
"""


def page(description: dict[str, Any]) -> str:
    """The whole page, Markdown."""
    lines = [_HEAD]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    lines += ["# Schemas", ""]
    for name, schema in sorted(description["components"]["schemas"].items()):
        lines += [f"## `{name}`", "", schema.get("description", "").strip(), "", *_members(schema), ""]
    return "\n".join(lines)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"## `{title}`", "", f"{operation.get('summary', '')}.", "")
    if words := operation.get("description"):
        yield from (words, "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | is |", "| --- | --- | --- |")
        for one in parameters:
            said = one.get("description") or one["schema"].get("description", "")
            yield f"| `{one['name']}` | {one['in']} | {_cell(_words(one['schema'], said))} |"
        yield ""
    if body := operation.get("requestBody"):
        yield from ("The body:", "")
        for content in body["content"].values():
            yield from (*_members(content["schema"]), "")
    yield from ("| answer | is |", "| --- | --- |")
    for status, answer in sorted(operation["responses"].items()):
        kinds = ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
        codes = [f"`{code}`" for content in answer.get("content", {}).values() for code in content.get("examples", {})]
        yield f"| {status} | {_cell('. '.join(filter(None, (answer['description'], kinds, ', '.join(codes)))))} |"
    yield ""
    for status, answer in sorted(operation["responses"].items()):
        example = answer.get("content", {}).get("application/json", {}).get("example")
        if example is not None and str(status).startswith("2"):
            yield from (f"{status}:", "", "```json", json.dumps(example, ensure_ascii=False, indent=1), "```", "")


def _members(schema: dict[str, Any]) -> Iterator[str]:
    if not (members := schema.get("properties")):
        return
    required = schema.get("required", ())
    yield from ("| member | is |", "| --- | --- |")
    for name, member in members.items():
        said = member.get("description", "")
        yield f"| `{name}`{' (mandatory)' if name in required else ''} | {_cell(_words(member, said))} |"


def _words(schema: dict[str, Any], said: str) -> str:
    bounds = [
        f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "characters at most"))
        if name in schema
    ]
    return "; ".join(filter(None, (_type(schema), said, ", ".join(bounds))))


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "")
    name = " or ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{name} of {_type(schema['items'])}" if name == "array" and "items" in schema else name


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
