"""
From `dosvoces.toml` and the environment to `Settings`: merging, secrets in files, and errors a person can act on.

pydantic-settings is not used: it passes by a `DOSVOCES_` variable that it doesn't know, it can't reach into
`[[trunks]]` and `[[webhooks]]`, and it can't say which of file and environment a bad value came from.
"""

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from dosvoces import crashpoints
from dosvoces.settings import InvalidSettings, Settings

PREFIX = "DOSVOCES_"
DEFAULT_FILE = Path("dosvoces.toml")
NOT_SETTINGS = {"DOSVOCES_CONFIG", "DOSVOCES_KEY", crashpoints.VARIABLE}  # options of the commands, see `cli`
LISTS = {"trunks": "trunk", "webhooks": "webhook"}
"""Sections of which there may be several, and the word for one of them."""
MAX_FILE = 1 << 20  # bytes of dosvoces.toml, and of a secret's file
URL_WITH_PASSWORD = re.compile(r"//[^/]*:.*@|[?&]password=")
MAX_SHOWN = 80  # characters of a wrong value

KeyPath = tuple[str | int, ...]
"""Where a value is in the tree: `("trunks", 0, "password")`."""


@dataclass
class Origin:
    """Where the values came from, to name it when one is wrong."""

    file: Path | None
    variables: dict[KeyPath, str] = field(default_factory=dict)
    """The environment variable that set the value."""
    problems: list[str] = field(default_factory=list)
    """What is wrong already, before any value is looked at."""
    unread: set[KeyPath] = field(default_factory=set)
    """Secrets that aren't there because their file can't be read, which is among the problems."""

    @property
    def name(self) -> str:
        return str(self.file) if self.file is not None else "the environment"


# --- gathering ---


def gather(config: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, Any], Origin]:
    """The file's values with those of the environment over them. Raises `SettingsError` if the file can't be read."""
    values, origin = _merged(config, environ)
    _read_secret_files(values, origin)
    return values, origin


def _merged(config: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, Any], Origin]:
    """As `gather`, with the secrets' files named and not read."""
    if crashpoints.VARIABLE in environ:
        crashpoints.wanted(environ[crashpoints.VARIABLE])
    file = file_to_read(config)
    origin = Origin(file)
    values = _read_toml(file) if file is not None else {}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            _set(values, variable, environ[variable], origin)
    return values, origin


def file_to_read(config: Path | None) -> Path | None:
    """`config` if it is named, else what has the file's name in this folder: if that is no file, reading it says so."""
    return config if config is not None else DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise InvalidSettings(str(file), [f"it is larger than {MAX_FILE >> 20} MiB"])
        text = content.decode()
    except IsADirectoryError as error:
        # Docker makes a folder where a bind mount names a file that isn't there.
        why = "it is a folder: remove it and put a file in its place, the one that a container mounts before it starts"
        raise InvalidSettings(str(file), [why]) from error
    except OSError as error:
        why = f"it can't be read: {error.strerror}"
        if isinstance(error, FileNotFoundError) and file.is_symlink():
            why = f"it is a link to {file.readlink()}, which is not there: make that file, or remove the link"
        raise InvalidSettings(str(file), [why]) from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(str(file), ["it is not UTF-8 text"]) from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(str(file), [f"not TOML: {error}{_stumbled_over(text, str(error))}"]) from None


def _stumbled_over(text: str, error: str) -> str:
    """The line that can't be read, unless a secret may stand in it, and what is mostly the matter."""
    said = re.search(r"at line (\d+)", error)
    line = _printable(text.split("\n")[int(said[1]) - 1].strip()) if said else ""
    shown = _STATEMENT.match(line)
    if shown is None:
        return ""
    if _MAY_BE_SECRET.search(line):
        line = f"{shown['key']} = •••" if shown["key"] else ""
    else:
        line = _shortened(line)
    hint = "; texts stand in quotes, true and false are written small" if error.startswith("Invalid value") else ""
    return f": {line}{hint}" if line else ""


_STATEMENT = re.compile(r"(?P<key>[\w.-]+)\s*=|\[")
_MAY_BE_SECRET = re.compile("password|secret|url", re.IGNORECASE)


def _set(values: dict[str, Any], variable: str, value: str, origin: Origin) -> None:
    """Put one environment variable in its place: `DOSVOCES_HTTP__PORT`, `DOSVOCES_TRUNKS__0__PASSWORD`."""
    path: list[str | int] = list(variable[len(PREFIX) :].lower().split("__"))
    place: Any = values
    for at, step in enumerate(path[:-1]):
        if path[0] in LISTS and at == 1:
            listed = values.setdefault(path[0], [])
            index = _index(listed, str(step)) if isinstance(listed, list) else None
            if index is None:
                one = LISTS[str(path[0])]
                origin.problems.append(f"{variable}: there is no such {one}; name one, or count them from 0")
                return
            path[1] = index
            place = listed[index]
        elif not (path[0] in LISTS and at == 0):
            place = place.setdefault(step, {})
        if not isinstance(place, dict):
            origin.problems.append(f"{variable}: {_where(values, tuple(path[: at + 1]))} has no keys")
            return
    if path[0] in LISTS and len(path) < 3:
        example = {"trunks": "TRUNKS__0__PASSWORD", "webhooks": "WEBHOOKS__0__SECRET"}[str(path[0])]
        origin.problems.append(f"{variable}: name the {LISTS[str(path[0])]} and the key: {PREFIX}{example}")
        return
    last = str(path[-1])
    # A secret set here outweighs the file's own, in whichever of the two ways that was given.
    place.pop(last.removesuffix("_file") if last.endswith("_file") else f"{last}_file", None)
    place[last] = value
    origin.variables[tuple(path)] = variable


def _index(listed: list[Any], step: str) -> int | None:
    """The section meant by its number or its name; the next number makes a new one."""
    if step.isdecimal():
        if int(step) == len(listed):
            listed.append({})
        return int(step) if int(step) < len(listed) else None
    for index, section in enumerate(listed):
        if isinstance(section, dict) and str(section.get("name", "")).replace("-", "_") == step:
            return index
    return None


def _read_secret_files(values: dict[str, Any], origin: Origin) -> None:
    """Replace every `password_file`, `secret_file` and `url_file` by what is in that file, without the line's end."""
    for path, section, key, file in list(_secret_files(values, origin)):
        name = section.pop(f"{key}_file")
        where = _where(values, (*path, f"{key}_file"))
        if key in section:
            origin.problems.append(f"{where}: {key} is given too; keep one of them")
            continue
        try:
            with file.open("rb") as stream:
                section[key] = stream.read(MAX_FILE).decode().rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            origin.problems.append(f"{where} = {_toml(str(name))}: can't be read: {why}")
            origin.unread.add((*path, key))


def _secret_files(values: dict[str, Any], origin: Origin) -> Iterator[tuple[KeyPath, dict[str, Any], str, Path]]:
    """Every secret that stands in a file: where its section is, the section, its key, and the file."""
    for path, section, model in _sections(values):
        for key in _secret_keys(model):
            if (name := section.get(f"{key}_file")) is not None:
                # A relative path goes from the file that it stands in, one of the environment from here.
                base = origin.file.parent if origin.file and (*path, f"{key}_file") not in origin.variables else Path()
                yield path, section, key, base / str(name)


def _sections(values: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], type[BaseModel]]]:
    """Every section that is there, where it is, and the model that it must fit."""
    for name, info in Settings.model_fields.items():
        value = values.get(name)
        if isinstance(value, dict) and (model := _model(info.annotation)) is not None:
            yield (name,), value, model
        elif isinstance(value, list) and (model := _model(info.annotation)) is not None:
            yield from (((name, at), item, model) for at, item in enumerate(value) if isinstance(item, dict))


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((model for part in typing.get_args(annotation) if (model := _model(part)) is not None), None)


def secrets_in(file: Path) -> list[str]:
    """The keys whose secrets stand in `file` itself, as it writes them; of a `url` only one with a password."""
    values = _read_toml(file)
    return [
        _where(values, (*path, key))
        for path, section, model in _sections(values)
        for key in _secret_keys(model)
        if key in section and (key != "url" or URL_WITH_PASSWORD.search(str(section[key])))
    ]


def secret_files(config: Path | None, environ: Mapping[str, str]) -> list[tuple[str, Path]]:
    """The keys that name a secret's file, as `dosvoces.toml` writes them, and the file."""
    values, origin = _merged(config, environ)
    return [(_where(values, (*path, f"{key}_file")), file) for path, _, key, file in _secret_files(values, origin)]


def _secret_keys(model: type[BaseModel]) -> list[str]:
    return [name for name, info in model.model_fields.items() if _is_secret(info.annotation)]


def _is_secret(annotation: Any) -> bool:
    """Also of `Annotated[SecretStr, …] | None`: what is annotated stands deeper than the union's parts."""
    return annotation is SecretStr or any(_is_secret(part) for part in typing.get_args(annotation))


# --- checking ---


def validate(values: dict[str, Any], origin: Origin) -> Settings:
    """The settings, or `InvalidSettings` with everything that is wrong."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        told = [_problem(d, values, origin) for d in details if d["loc"] not in origin.unread]
        raise InvalidSettings(origin.name, origin.problems + told) from None
    if origin.problems:
        raise InvalidSettings(origin.name, origin.problems)
    return settings


def _problem(detail: ErrorDetails, values: dict[str, Any], origin: Origin) -> str:
    """One line: the key, its value, the remedy."""
    path = _reach(values, detail["loc"])
    where = _where(values, path)
    if variable := origin.variables.get(path):
        where = f"{variable}, that is {where}" if origin.file is not None else variable
    value = _at(values, path)
    if detail["type"] == "missing":
        return f"{where}: it is missing"
    if detail["type"] == "extra_forbidden":
        return f"{where}: there is no such key{_suggestion(path)}"
    shown = "" if isinstance(value, dict | list) else f" = {_shown(value, str(path[-1]) if path else '')}"
    return f"{where}{shown}: {_remedy(detail)}" if where else _remedy(detail)


def _remedy(detail: ErrorDetails) -> str:
    key = detail["loc"][-1] if detail["loc"] else ""
    match detail["type"]:
        case "model_type":
            return f"write it as a section, [{detail['loc'][0]}]"
        case "tuple_type" if len(detail["loc"]) == 1 and key in LISTS:
            return f"write every {LISTS[str(key)]} as a section of its own, [[{key}]]"
        case "tuple_type" if isinstance(key, str):
            return f"write it as a list, such as {_LIST_EXAMPLES[key]}"
        case "string_type" | "named_tuple_type" | "tuple_type":
            return "write it as a text, in quotes"
        case "bool_type" | "bool_parsing":
            return "write true or false"
        case _:
            text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return f"it {text}" if text.startswith("should ") else text


_LIST_EXAMPLES = {
    "allow": '["10.0.0.0/8"]',
    "trusted_proxies": '["10.0.0.0/8"]',
    "networks": '["10.0.0.0/8"]',
    "origins": '["https://www.example.com"]',
    "recipient_domains": '["example.com"]',
    "rtpengine": '["127.0.0.1:2223"]',
    "countries": '["ES", "PT"]',
    "hosts": '["sbc2.example.com"]',
    "caller_ids": '["+34910000000"]',
    "prefixes": '["+34", "+351"]',
    "deny_prefixes": '["+34803"]',
    "allow_prefixes": '["+34902"]',
    "calling_hours": '["ES mon-fri 09:00-21:00"]',
    "holidays": '["ES 2026-12-25"]',
    "codecs": '["PCMA", "PCMU"]',
    "events": '["connection.ended"]',
}
"""By the key, whatever its section."""


def _reach(values: dict[str, Any], location: tuple[int | str, ...]) -> KeyPath:
    """`location` as far as it is in the file: pydantic adds the branch of a union that it tried."""
    path: list[int | str] = []
    place: Any = values
    for step in location:
        if isinstance(place, dict) and isinstance(step, str) and (step in place or not path or len(path) < 3):
            place = place.get(step)
        elif isinstance(place, list | tuple) and isinstance(step, int) and step < len(place):
            place = place[step]
        else:
            break
        path.append(step)
    return tuple(path)


def _at(values: Any, path: KeyPath) -> Any:
    for step in path:
        values = values.get(step) if isinstance(values, dict) else values[step]
    return values


def _where(values: dict[str, Any], path: KeyPath) -> str:
    """The key as the file writes it: `[http] port`, `[[trunks]] caller_id (trunk "main")`."""
    match path:
        case ():
            return ""
        case (str(section),):
            return f"[{section}]" if isinstance(values.get(section), dict) else section
        case (str(kind), int(at), *rest) if kind in LISTS:
            section = _at(values, (kind, at))
            name = section.get("name") if isinstance(section, dict) else None
            named = isinstance(name, str) and rest != ["name"]
            which = f'{LISTS[kind]} "{name}"' if named else f"the {_ordinal(at + 1)}"
            return f"[[{kind}]]{_key(rest)} ({which})"
        case _:
            return f"[{path[0]}]{_key(path[1:])}"


def _key(steps: Sequence[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f" {step}" for step in steps)


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _suggestion(path: KeyPath) -> str:
    """`; did you mean …?`, or what there is instead."""
    model: type[BaseModel] = Settings
    for step in path[:-1]:
        if isinstance(step, str):
            model = _model(model.model_fields[step].annotation) or model
    keys = [info.alias or name for name, info in model.model_fields.items()]
    keys += [f"{key}_file" for key in _secret_keys(model)]
    if near := difflib.get_close_matches(str(path[-1]), keys, n=1, cutoff=0.6):
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(keys)}"


def _shown(value: Any, key: str) -> str:
    """The value as the file writes it, its secret masked."""
    if key == "url" and isinstance(value, str):
        return _toml(re.sub(r"//.*@", "//•••@", value))
    return '"•••"' if key in ("password", "secret") else _toml(value)


def _toml(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return _shortened(_printable(text))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in text)
