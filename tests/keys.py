"""API keys for tests."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime

from dosvoces.keys import SECRET_BITS, ApiKey, Scope, digest_of, id_of, make
from dosvoces.store.keys import Keys


def a_key(name: str, *scopes: Scope, **fields: object) -> tuple[str, ApiKey]:
    """A new key, and what is kept of it; `fields` are others of `ApiKey`."""
    text = make(secrets.randbits(SECRET_BITS), test=bool(fields.get("test", False)))
    digest = digest_of(text)
    key = ApiKey(
        id=id_of(digest),
        digest=digest,
        name=name,
        test=False,
        scopes=frozenset(scopes or (Scope.CALL, Scope.READ)),
        networks=(),
        created_at=datetime.now(UTC),
    )
    return text, replace(key, **fields)  # type: ignore[arg-type]


async def make_key(keys: Keys, name: str, *scopes: Scope, **fields: object) -> str:
    """Put a new key in the record."""
    text, key = a_key(name, *scopes, **fields)
    await keys.create(key, by="test")
    return text
