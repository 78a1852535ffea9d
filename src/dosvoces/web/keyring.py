"""
The API keys as this node knows them: at most `FRESH_S` old, so that a revoked one stops on every node within a second.

They are read when somebody asks, not by the clock: an idle service reads nothing. Where they can't be read, no key
opens anything.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from dosvoces.errors import StoreError
from dosvoces.keys import Address, ApiKey, Principal, Refused, verify
from dosvoces.store.keys import KeyRing, Keys

FRESH_S = 0.9
"""How old what is known may be when it is used: with the reading itself less than the second that is promised."""
RENEW_S = 0.4
"""From this age on it is read anew, beside the request that found it so: under load no request waits for that."""
PATIENCE_S = 1.0
"""How long a request waits for the reading."""
SPARED_S = 5.0
"""After a failure, requests that come within this time aren't kept waiting for the next try."""
NOTE_USE_EVERY = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class KeysUnknown(StoreError):
    """The keys can't be read now, and what was known of them is too old."""


class Keyring:
    """What is known of the keys. Used from one event loop; `close` in the end."""

    def __init__(self, keys: Keys, *, required: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`required`: whether a key is needed even while there is none."""
        self._keys = keys
        self._required = required
        self._monotonic = monotonic
        self._known: Mapping[str, ApiKey] = {}
        self._database_now: datetime | None = None
        self._read_at = float("-inf")
        """Before the reading began, on the monotonic clock."""
        self._failed_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._used: dict[str, datetime] = {}
        """When each key's use was last written down, or is about to be."""
        self._noting: set[asyncio.Task[None]] = set()

    async def needed(self) -> bool:
        """Whether a key is needed: where there is one, or ever was. Raises `KeysUnknown`."""
        if self._required:
            return True
        try:
            await self._refresh()
        except KeysUnknown:
            # Without the record nothing can be asked for or looked at either: where no key was needed so far, whoever
            # is behind the door says so in its own words.
            if self._database_now is None:
                raise
        return bool(self._known)

    async def verify(self, shown: str, peer: Address | None) -> Principal | Refused:
        """Whom the key `shown` stands for, used from `peer`, or why nobody. Raises `KeysUnknown`."""
        await self._refresh()
        now = self._now()
        found = verify(shown, self._known, peer=peer, now=now)
        if isinstance(found, Principal):
            self._note_use(found.key_id, now)
        return found

    async def close(self) -> None:
        """Write down what is still to be; idempotent. The keys themselves stay open: they are the caller's."""
        if self._noting:
            await asyncio.wait(self._noting, timeout=PATIENCE_S)
        for task in (*self._noting, *([self._reading] if self._reading is not None else [])):
            task.cancel()

    def _now(self) -> datetime:
        assert self._database_now is not None
        return self._database_now + timedelta(seconds=self._monotonic() - self._read_at)

    async def _refresh(self) -> None:
        age_s = self._monotonic() - self._read_at
        if age_s < RENEW_S:
            return
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.create_task(self._read(), name="keys")
        if age_s < FRESH_S:
            return
        if self._monotonic() - self._failed_at >= SPARED_S:
            await asyncio.wait({reading}, timeout=PATIENCE_S)
        if self._monotonic() - self._read_at >= FRESH_S:
            self._failed_at = self._monotonic()
            raise KeysUnknown("the API keys can't be read now")

    async def _read(self) -> None:
        began = self._monotonic()
        try:
            ring: KeyRing = await self._keys.ring()
        except StoreError as error:
            self._failed_at = self._monotonic()
            log.warning("keys_not_read", error=str(error))
            return
        finally:
            self._reading = None
        self._known = {key.id: key for key in ring.keys}
        self._database_now, self._read_at, self._failed_at = ring.now, began, float("-inf")

    def _note_use(self, key_id: str, now: datetime) -> None:
        last = max(filter(None, (self._used.get(key_id), self._known[key_id].last_used_at)), default=None)
        if last is not None and now - last < NOTE_USE_EVERY:
            return
        self._used[key_id] = now
        task = asyncio.create_task(self._write_use(key_id, now), name="key-use")
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _write_use(self, key_id: str, now: datetime) -> None:
        try:
            await self._keys.used({key_id: now})
        except StoreError as error:  # It is for people to look at; the next minute brings another.
            log.warning("key_use_not_noted", key=key_id, error=str(error))
