"""The page `docs/reference/settings.md`, made from the settings themselves, so that it can't lag behind."""

import re
from typing import Any

from pydantic import BaseModel, SecretStr

from dosvoces.settings import Settings, Trunk

_HEAD = """# Settings

Written by `make docs` from `src/dosvoces/settings.py`; don't edit it here.

The settings come from `dosvoces.toml` in the folder where the service starts, or from the file that `--config` (or
`DOSVOCES_CONFIG`) names. Environment variables lie over the file: `DOSVOCES_HTTP__PORT=8080` sets `port` in `[http]`,
`DOSVOCES_TRUNKS__MAIN__PASSWORD` the password of the trunk called `main` (or `…__0__…`, counted from 0). Lists are
written with commas. A secret may stand in a file of its own: `password_file`, `url_file`. A key that isn't on this page
is an error. `dosvoces check` tells what is wrong with the settings in force, and how to mend it.
"""


def settings_page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD]
    for name, info in Settings.model_fields.items():
        if name == "trunks":
            parts.append(_section("[[trunks]]", Trunk))
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
        case int() | float():
            return f"`{value}`"
        case tuple() if type(value) is tuple:
            return "`[" + ", ".join(f'"{part}"' for part in value) + "]`"
        case _:
            return f'`"{value}"`'
