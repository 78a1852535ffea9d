"""
The pages under `docs/` that are made from the code, so that they can't lag behind: `make docs` writes them.

The page of settings is made here, those of states in `states.py`.
"""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from dosvoces import states
from dosvoces.settings import Settings, Trunk, Webhook
from dosvoces.web import description, problems
from dosvoces.web import reference as http_reference

_HEAD = """# Settings

Written by `make docs` from `src/dosvoces/settings/`; don't edit it here.

The settings come from `dosvoces.toml` in the folder where the service starts, or from the file that `--config` (or
`DOSVOCES_CONFIG`) names. Environment variables lie over the file: `DOSVOCES_HTTP__PORT=8080` sets `port` in `[http]`,
`DOSVOCES_TRUNKS__MAIN__PASSWORD` the password of the trunk called `main` (or `…__0__…`, counted from 0). Lists are
written with commas. A secret may stand in a file of its own: `password_file`, `url_file`, relative to the file that
names it. A key that isn't on this page is an error. `dosvoces check` tells what is wrong with the settings in force,
and how to mend it.
"""


LISTED: dict[str, type[BaseModel]] = {"trunks": Trunk, "webhooks": Webhook}


def write_pages(docs: Path) -> None:
    """Write every generated page below `docs` anew."""
    (docs / "reference").mkdir(parents=True, exist_ok=True)
    (docs / "reference" / "settings.md").write_text(settings_page(), encoding="utf-8")
    (docs / "reference" / "states.md").write_text(states.page(), encoding="utf-8")
    (docs / "reference" / "problems.md").write_text(problems.page(), encoding="utf-8")
    (docs / "reference" / "http-api.md").write_text(http_reference.page(description()), encoding="utf-8")
    architecture = docs / "architecture.md"
    architecture.write_text(states.with_phases(architecture.read_text(encoding="utf-8")), encoding="utf-8")


def settings_page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD]
    for name, info in Settings.model_fields.items():
        if name in LISTED:
            parts.append(_section(f"[[{name}]]", LISTED[name]))
        elif isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            parts.append(_section(f"[{name}]", info.annotation))
    return "\n".join(parts)


def _section(heading: str, model: type[BaseModel]) -> str:
    lines = [f"## `{heading}`", "", model.__doc__ or "", "", "| key | default | what it is |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        text = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
        default = "required" if field.is_required() else _default(field.default)
        lines.append(f"| `{field.alias or name}` | {default} | {text} |")
    return "\n".join([*lines, ""])


def _default(value: Any) -> str:
    match value:
        case None:
            return "none"
        case SecretStr():
            return f'`"{value.get_secret_value()}"`'
        case bool():
            return f"`{str(value).lower()}`"  # as TOML has it
        case int() | float():
            return f"`{value}`"
        case tuple() if type(value) is tuple:
            return "`[" + ", ".join(f'"{part}"' for part in value) + "]`"
        case _:
            return f'`"{value}"`'
