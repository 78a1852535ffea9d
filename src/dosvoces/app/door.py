"""Who may come in at the HTTP door, by the settings and the keys there are."""

from contextlib import AsyncExitStack

from starlette.types import ASGIApp

from dosvoces.errors import SettingsError
from dosvoces.settings import Settings
from dosvoces.store.keys import Keys
from dosvoces.web.auth import Guard, Networks
from dosvoces.web.keyring import Keyring
from dosvoces.web.origin import Origins
from dosvoces.web.widget import PATHS

OPEN_DOOR = (
    "[http] host = {host!r} lets other machines in, and none of them needs a key: whoever reaches it can make calls at "
    "your expense"
)
SHUT_IT = (
    'make a key with `dosvoces keys create NAME`, or [http] allow = ["10.0.0.0/8"] with the networks that may call, '
    'or keep [http] host = "127.0.0.1"'
)


async def check_door(settings: Settings, keys: Keys) -> None:
    """Raise `SettingsError` if strangers could make calls and nobody has said that they may."""
    http = settings.http
    if http.guarded or http.i_accept_toll_fraud or (await keys.ring()).keys:
        return
    raise SettingsError(
        f"{OPEN_DOOR.format(host=http.host)}; {SHUT_IT}. To run it like that: i_accept_toll_fraud = true"
    )


def guarded(settings: Settings, app: ASGIApp, keys: Keys, stack: AsyncExitStack) -> Guard:
    """`app` behind its guard, whose end `stack` sees to."""
    http = settings.http
    keyring = Keyring(keys, required=http.keys == "required")
    stack.push_async_callback(keyring.close)
    networks = Networks(http.allow, http.trusted_proxies)
    public = PATHS if settings.widget.secrets else frozenset[str]()
    return Guard(app, keyring=keyring, networks=networks, origins=Origins(http.origins), public=public)
