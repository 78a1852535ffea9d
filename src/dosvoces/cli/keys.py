"""The commands about API keys: make one, look at them, revoke, rotate; and the audit of who did what."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dosvoces.cli.options import AsJson, Config, as_json, ask_record, operator, settings_of
from dosvoces.errors import DosvocesError, NoRecordYet
from dosvoces.keys import OWN_LIMITS, SECRET_BITS, ApiKey, Limits, Network, Scope, digest_of, id_of, is_key, make

if TYPE_CHECKING:
    from dosvoces.settings import Settings
    from dosvoces.store.keys import Act, Keys

T = TypeVar("T")

keys_app = typer.Typer(
    help="The keys that open the HTTP door, and who made them.", no_args_is_help=True, rich_markup_mode=None
)
audit_app = typer.Typer(rich_markup_mode=None)

Named = Annotated[str, typer.Argument(metavar="KEY", help="Its id or name, as `keys list` shows them.")]

_FROM_NOW_ON = (
    "It is the first key in this record: from now on every request needs a key. Give each client that sends none a key "
    "of its own (dosvoces keys create NAME); until then it is answered 401."
)


@keys_app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Who gets it, such as website or crm.")],
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it opens; may be repeated. [default: call, read]")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="Where it may be used from, such as 10.0.0.0/8; repeatable.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it ends: 90d, 12h, or a date such as 2027-01-31 (UTC).")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="A limit of its own: calls_per_day=100; may be repeated."),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="A key for trials, dv_test_….")] = False,
    config: Config = None,
) -> None:
    """Make a key. It is shown once and kept nowhere."""
    now = datetime.now(UTC)
    text, key = _new(
        name.strip(),
        test=test,
        now=now,
        scopes=frozenset(scope or (Scope.CALL, Scope.READ)),
        networks=tuple(_network(each) for each in network or ()),
        expires_at=None if expires is None else moment(expires, now),
        limits=_limits(limit or ()),
    )

    async def ask(keys: "Keys") -> bool:
        earlier = (await keys.ring()).keys
        _must_be_new(name.strip(), earlier, now)
        await keys.create(key, by=operator())
        return not earlier

    is_first = _ask_or_begin(settings_of(context, config), ask)
    _show_once(text, key)
    if is_first:
        typer.echo(_FROM_NOW_ON, err=True)


@keys_app.command("list")
def list_keys(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those that ended, too.")] = False,
    config: Config = None,
    for_programs: AsJson = False,
) -> None:
    """The keys: what they open, from where, until when, and when they were last used."""
    ring = _ask(settings_of(context, config), lambda keys: keys.ring())
    shown = [key for key in ring.keys if everything or key.state(ring.now) in ("valid", "ending")]
    if for_programs:
        typer.echo(as_json([_facts(key, ring.now) for key in shown]))
    else:
        typer.echo(render(shown, ring.now))


@keys_app.command()
def revoke(context: typer.Context, key: Named, config: Config = None) -> None:
    """Let a key open nothing any more: within a second, on every node."""

    async def ask(keys: "Keys") -> ApiKey:
        ring = await keys.ring()
        chosen = choose(ring.keys, key, ring.now)
        await keys.revoke(chosen.id, by=operator())
        return chosen

    chosen = _ask(settings_of(context, config), ask)
    typer.echo(f"{chosen.name} ({chosen.id}) is revoked")


@keys_app.command()
def rotate(
    context: typer.Context,
    key: Named,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old one still works: 24h, 7d, 0m.")] = "24h",
    config: Config = None,
) -> None:
    """Make a key in the place of another, which still works while the new one is taken into use."""
    lasts = duration(overlap)

    async def ask(keys: "Keys") -> tuple[str, ApiKey, ApiKey]:
        ring = await keys.ring()
        old = choose(ring.keys, key, ring.now)
        text, new = _new(
            old.name,
            test=old.test,
            now=datetime.now(UTC),
            scopes=old.scopes,
            networks=old.networks,
            expires_at=old.expires_at,
            limits=old.limits,
            replaces=old.id,
        )
        await keys.rotate(new, overlap=lasts, by=operator())
        return text, new, old

    text, new, old = _ask(settings_of(context, config), ask)
    _show_once(text, new)
    typer.echo(f"the old one ({old.id}) works for {overlap} more", err=True)


@audit_app.command()
def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")] = 50,
    config: Config = None,
    for_programs: AsJson = False,
) -> None:
    """Who did what to the service: keys made and revoked, nodes drained, connections ended."""
    acts = _ask(settings_of(context, config), lambda keys: keys.acts(limit=limit))
    if for_programs:
        told = [
            {"at": act.at, "who": act.who, "what": act.what, "subject": act.subject, "facts": act.facts} for act in acts
        ]
        typer.echo(as_json(told))
    else:
        typer.echo(render_acts(acts))


# --- for people ---


def render(keys: Sequence[ApiKey], now: datetime) -> str:
    """One key a line."""
    lines = [f"{'id':<9} {'name':<20} {'kind':<5} {'opens':<16} {'state':<9} {'ends':<17} {'last used':<17} from"]
    for key in keys:
        ends = min((at for at in (key.expires_at, key.revoked_at) if at is not None), default=None)
        lines.append(
            f"{key.id:<9} {key.name:<20} {'test' if key.test else 'live':<5} {' '.join(sorted(key.scopes)):<16} "
            f"{key.state(now):<9} {_minute(ends):<17} {_minute(key.last_used_at):<17} "
            f"{' '.join(map(str, key.networks)) or 'everywhere'}"
        )
    return "\n".join(lines)


def render_acts(acts: "Sequence[Act]") -> str:
    """One act a line."""
    lines = []
    for act in acts:
        facts = " ".join(f"{name}={value}" for name, value in act.facts.items() if value not in (None, ""))
        lines.append(f"{act.at:%Y-%m-%d %H:%M:%S} {act.who:<20} {act.what:<18} {act.subject} {facts}".rstrip())
    return "\n".join(lines)


def _minute(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M}"


def _show_once(text: str, key: ApiKey) -> None:
    typer.echo(text)
    typer.echo(f"This is {key.name} ({key.id}). It is shown this once: keep it where secrets are kept.", err=True)


def _facts(key: ApiKey, now: datetime) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "test": key.test,
        "scopes": sorted(key.scopes),
        "networks": [str(network) for network in key.networks],
        "state": key.state(now),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "replaces": key.replaces,
        "limits": dict(key.limits),
    }


# --- what people write ---


def choose(keys: Sequence[ApiKey], wanted: str, now: datetime) -> ApiKey:
    """The valid key that is meant: by id, by name, or by the key itself. Raises `DosvocesError` if that isn't one."""
    if is_key(wanted):
        wanted = id_of(digest_of(wanted))
    fitting = [key for key in keys if wanted in (key.id, key.name) and key.state(now) in ("valid", "ending")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        ids = ", ".join(key.id for key in fitting)
        raise DosvocesError(f"several keys are called {wanted!r}; name one by its id: {ids}")
    raise DosvocesError(f"no valid key has the id or name {wanted!r}; `dosvoces keys list --all` shows all there were")


def duration(text: str) -> timedelta:
    """`90d`, `12h`, `30m`. Raises `DosvocesError`."""
    unit = {"d": "days", "h": "hours", "m": "minutes"}.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or len(text) > 6:
        raise DosvocesError(f"{text!r} is no length of time; write 90d, 12h or 30m")
    return timedelta(**{unit: int(text[:-1])})


def moment(text: str, now: datetime) -> datetime:
    """When something ends: after a length of time, or on a date. Raises `DosvocesError` if it isn't in the future."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = now + duration(text)
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    if at <= now:
        raise DosvocesError(f"{text!r} is not in the future")
    return at


def _network(text: str) -> Network:
    import ipaddress

    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise DosvocesError(f"{text!r} is no network ({error}); write 10.0.0.0/8 or one address") from error


def _limits(texts: Sequence[str]) -> Limits:
    limits: dict[str, int | float | str] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in OWN_LIMITS:
            raise DosvocesError(f"{text!r} is no limit of a key; there are {', '.join(OWN_LIMITS)}")
        if not value.isdecimal():
            raise DosvocesError(f"{text!r} is no limit; write {name}=NUMBER, a whole one")
        limits[name] = int(value)
    return limits


def _must_be_new(name: str, keys: Sequence[ApiKey], now: datetime) -> None:
    if not name or len(name) > 64 or not name.isprintable():
        raise DosvocesError("a key needs a name of up to 64 printable characters")
    if any(key.name == name and key.state(now) == "valid" for key in keys):
        raise DosvocesError(f"there is a key {name!r} already; choose another name, or `dosvoces keys rotate {name}`")


def _new(
    name: str,
    *,
    test: bool,
    now: datetime,
    scopes: frozenset[Scope],
    networks: tuple[Network, ...],
    expires_at: datetime | None,
    limits: Limits,
    replaces: str = "",
) -> tuple[str, ApiKey]:
    text = make(secrets.randbits(SECRET_BITS), test=test)
    digest = digest_of(text)
    key = ApiKey(
        id=id_of(digest),
        digest=digest,
        name=name,
        test=test,
        scopes=scopes,
        networks=networks,
        created_at=now,
        expires_at=expires_at,
        replaces=replaces,
        limits=limits,
    )
    return text, key


def _ask(settings: "Settings", question: "Callable[[Keys], Awaitable[T]]") -> T:
    """Ask the record, beside the services."""
    from dosvoces.store.sql import open_keys

    return ask_record(settings, open_keys, question)


def _ask_or_begin(settings: "Settings", question: "Callable[[Keys], Awaitable[T]]") -> T:
    """As `_ask`; makes the record if there is none: a service that others reach doesn't start without a key."""
    from dosvoces.store.sql import open_store

    async def begin() -> None:
        store = open_store(settings.database.address)
        await store.open()
        await store.close()

    try:
        return _ask(settings, question)
    except NoRecordYet:
        asyncio.run(begin())
        return _ask(settings, question)
