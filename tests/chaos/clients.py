"""Who asks for connections: some with an Idempotency-Key, all of them stubborn as far as that is safe."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import httpx

from tests.chaos.logs import Witness
from tests.chaos.plan import FIRST_KINDS, INTERVALS, SECOND_KINDS, Plan

KEYED_SHARE = 0.7
CANCEL_SHARE = 0.1
REPEAT_SHARE = 0.15
"""Of the answered requests with a key: those asked again, to see whether the answer is the same."""
RETRY_S = 0.5
ANSWER_LIMIT_S = 20.0
FINAL = (200, 400, 422, 500)

T = TypeVar("T")


class Clients:
    """They choose any node, and another one after each failure."""

    def __init__(self, plan: Plan, urls: Sequence[str], witness: Witness, rng: random.Random) -> None:
        self._plan = plan
        self._urls = urls
        self._witness = witness
        self._rng = rng
        self._numbers = itertools.count(1)
        self._enough = asyncio.Event()

    def stop(self) -> None:
        """Ask for nothing new; what was asked for is seen through."""
        self._enough.set()

    async def run(self) -> None:
        """Until stopped."""
        limits = httpx.Limits(max_connections=None)
        timeout = httpx.Timeout(ANSWER_LIMIT_S, connect=2.0)
        async with httpx.AsyncClient(timeout=timeout, limits=limits) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.clients):
                    group.create_task(self._one(client))

    async def _one(self, client: httpx.AsyncClient) -> None:
        while not self._enough.is_set():
            await self._request(client, next(self._numbers))
            await asyncio.sleep(self._rng.expovariate(1 / self._plan.pause_s))

    async def _request(self, client: httpx.AsyncClient, request: int) -> None:
        rng = self._rng
        keyed, body = rng.random() < KEYED_SHARE, _body(request, rng)
        patience = time.monotonic() + self._plan.patience_s
        urls = itertools.cycle(rng.sample(self._urls, len(self._urls)))
        while True:
            status, refused, location = await self._post(client, next(urls), request, body, keyed=keyed)
            if status in FINAL:
                break
            # Without a key it is safe to ask again only if nothing was tried: after 503, and where nobody listened.
            if not (keyed or refused or status == 503) or time.monotonic() > patience:
                return
            await asyncio.sleep(RETRY_S)
        if location and rng.random() < CANCEL_SHARE:
            await self._cancel(client, next(urls), request, location)
        if keyed and rng.random() < REPEAT_SHARE:
            await self._post(client, next(urls), request, body, keyed=True)

    async def _post(
        self, client: httpx.AsyncClient, url: str, request: int, body: bytes, *, keyed: bool
    ) -> tuple[int | None, bool, str]:
        """The status, whether nobody listened, and where the connection is."""
        headers = {"content-type": "application/json"}
        if keyed:
            headers["idempotency-key"] = f"request-{request}"
        facts: dict[str, object] = {"request": request, "key": keyed, "at": time.time()}
        try:
            answer = await client.post(f"{url}/call", content=body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._witness.note(**facts, answered_at=time.time(), status=None, refused=True)
            return None, True, ""
        except httpx.TransportError:
            self._witness.note(**facts, answered_at=time.time(), status=None)
            return None, False, ""
        location = answer.headers.get("location", "")
        self._witness.note(
            **facts,
            answered_at=time.time(),
            status=answer.status_code,
            body=answer.text[:200],
            connection=location.rpartition("/")[2],
            replayed="idempotent-replayed" in answer.headers,
        )
        return answer.status_code, False, location

    async def _cancel(self, client: httpx.AsyncClient, url: str, request: int, location: str) -> None:
        await asyncio.sleep(self._rng.random())
        self._witness.note(request=request)
        try:
            await client.post(f"{url}{location}/cancellation")
        except httpx.TransportError:
            return  # It may have come there.


def _body(request: int, rng: random.Random) -> bytes:
    return json.dumps(
        {
            "firstnumber": f"+3461{_weighed(FIRST_KINDS, rng)}{request:06d}",
            "secondnumber": f"+3496{_weighed(SECOND_KINDS, rng)}{request:06d}",
            "email": f"r{request}@example.com",
            "call_interval": _weighed(INTERVALS, rng),
        }
    ).encode()


def _weighed(weights: Mapping[T, int], rng: random.Random) -> T:
    (chosen,) = rng.choices(list(weights), list(weights.values()))
    return chosen
