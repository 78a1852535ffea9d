"""The house as `docs/architecture.md` draws it: who may import whom, and how long a file and a function may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "dosvoces"
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70

LAYERS: tuple[frozenset[str], ...] = (
    # The lowest first; a part may import what is in its own or a lower layer.
    frozenset({"", "model", "errors", "crashpoints"}),
    frozenset({"core", "events", "states", "testing", "dialplan", "keys", "open_files", "resources"}),
    frozenset(
        {
            "carriers",
            "store",
            "mail",
            "media",
            "sip",
            "settings",
            "telemetry",
            "timeline",
            "capture",
            "clock",
        }
    ),
    frozenset({"deferred", "journal", "snapshot", "nodes", "recovery", "switchboard", "phone", "client"}),
    frozenset({"web"}),
    frozenset(
        {
            "cli",
            "doctor",
            "app",
            "demo",
            "reference",
            "__main__",
        }
    ),
)
"""By the first name below `dosvoces`; `""` is the package itself."""

ADAPTERS = frozenset({"carriers", "store", "mail", "media", "sip"})
PORTS = {"carriers": {"media", "sip", "store"}, "store": {"mail"}}
"""What an adapter may import of others beside itself: the SIP driver is made of the agent and the media port."""

PURE = {"core", "events", "model", "errors"}
PURE_IMPORTS = {"collections", "dataclasses", "datetime", "enum", "re", "typing", "functools"}
CONCRETE = frozenset(
    {
        "carriers.fake",
        "carriers.sip",
        "deferred.engine",
        "mail.inbox",
        "mail.smtp",
        "media.relay",
        "media.rtpengine",
        "media.worker",
        "store.postgres",
        "store.sql",
        "store.sqlite",
    }
)
"""Adapters' insides that `app` alone puts together."""
MAY_NAME_CONCRETE = {
    "app",
    "app.deferred",
    "app.telephony",
    "app.trial",
    "cli.data",
    "cli.dnc",
    "cli.keys",
    "cli.nodes",
    "cli.people",
    "cli.record",
    "cli.service",
    "cli.webhooks",
    "testing",
}


def modules() -> list[str]:
    paths = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)
    names = (".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths)
    return [name.removesuffix("__init__").removesuffix(".") for name in names]


def path_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    return ast.parse(path_of(module).read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Full names of what `module` imports, relative ones resolved; `from a import b` gives `a.b`."""
    package = ["dosvoces", *module.split(".")] if module else ["dosvoces"]
    if path_of(module).name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def ours(module: str) -> Iterator[str]:
    """What `module` imports of ours, as the longest module name there is, below `dosvoces`."""
    known = set(modules())
    for name in imports(module):
        if name == "dosvoces" or name.startswith("dosvoces."):
            below = name.removeprefix("dosvoces").removeprefix(".")
            while below and below not in known:
                below = below.rpartition(".")[0]
            yield below


def layer(module: str) -> int:
    part = module.partition(".")[0]
    found = [number for number, parts in enumerate(LAYERS) if part in parts]
    assert found, f"{part} stands in no layer: give it its place in tests/test_architecture.py"
    return found[0]


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module: str) -> None:
    upwards = [name for name in ours(module) if layer(name) > layer(module)]
    assert upwards == []


@pytest.mark.parametrize("module", [m for m in modules() if m.partition(".")[0] in ADAPTERS])
def test_adapters_do_not_import_each_other(module: str) -> None:
    part = module.partition(".")[0]
    allowed = {part, *PORTS.get(part, ())}
    others = [name for name in ours(module) if (other := name.partition(".")[0]) in ADAPTERS and other not in allowed]
    assert others == []


@pytest.mark.parametrize("module", [m for m in modules() if m.partition(".")[0] == "sip"])
def test_sip_could_be_its_own_package(module: str) -> None:
    assert [name for name in ours(module) if not name.startswith("sip")] == []


@pytest.mark.parametrize("module", modules())
def test_only_the_app_names_concrete_adapters(module: str) -> None:
    part = module.partition(".")[0]
    named = [name for name in ours(module) if name in CONCRETE and name.partition(".")[0] != part]
    assert named == [] or module in MAY_NAME_CONCRETE


@pytest.mark.parametrize("module", sorted(PURE))
def test_the_core_is_pure(module: str) -> None:
    outside = {name.partition(".")[0] for name in imports(module)} - PURE_IMPORTS - {"dosvoces"}
    assert outside == set()


@pytest.mark.parametrize("module", modules())
def test_files_and_functions_are_short(module: str) -> None:
    text = path_of(module).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    too_long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert too_long == []
