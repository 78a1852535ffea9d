"""
Our address as the other side of a NAT sees it, asked of a STUN server from the SIP socket again and again.

The questions keep the NAT's mapping open too. The server's answers are believed only from the address that was asked
and with the transaction that was sent, which is 96 random bits.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from . import stun
from .api import Address

log = logging.getLogger(__name__)

INTERVAL_S = 25.0  # below the half minute for which hasty NATs keep a UDP mapping (RFC 4787 §4.3 asks for two)


class PublicAddress:
    """Asks until it is closed; what changes is told."""

    def __init__(
        self,
        *,
        server: Callable[[], Awaitable[Address]],
        send: Callable[[bytes, Address], None],
        changed: Callable[[Address], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """
        `server` finds the STUN server and may raise `OSError`; then the one found last is asked, if there is any.
        `send` sends a datagram from the SIP socket.

        `changed` is told of the first address and of each other one.
        """
        self.known: Address | None = None
        """As learned last; kept while the server is silent."""
        self.problem = "no answer yet"
        """Why the last question has no answer; empty if it has one."""
        self._server = server
        self._send = send
        self._changed = changed
        self._interval_s = interval_s
        self._asked: Address | None = None
        self._transaction = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._first = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="public address")

    def takes(self, data: bytes, source: Address) -> bool:
        """Whether `data` from `source` is the answer that is waited for; then it has been taken."""
        if self._answer is None or source != self._asked or stun.transaction_of(data) != self._transaction:
            return False
        if not self._answer.done():
            self._answer.set_result(data)
        return True

    async def first(self, limit_s: float) -> Address | None:
        """The address, once it is known; `None` if the first question found no answer in time."""
        try:
            async with asyncio.timeout(limit_s):
                await self._first.wait()
        except TimeoutError:
            pass
        return self.known

    async def close(self) -> None:
        """Idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._ask()
            self._first.set()
            await asyncio.sleep(self._interval_s)

    async def _ask(self) -> None:
        try:
            found = stun.mapped_address(await self._question())
        except (OSError, stun.StunError) as error:
            self._failed("no answer" if isinstance(error, TimeoutError) else str(error))
            return
        if self.problem and self.known is not None:
            log.info("the STUN server answers again")
        self.problem = ""
        if found != self.known:
            log.warning("our public address is %s:%d%s", *found, f", it was {self.known[0]}" if self.known else "")
            self.known = found
            self._changed(found)

    def _failed(self, why: str) -> None:
        if why != self.problem:
            log.warning("the public address can't be asked: %s", why)
        self.problem = why

    async def _question(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            self._asked = await self._server()
        except OSError:
            if self._asked is None:
                raise
            # The mapping must be kept open all the same: the server is where it was last.
        self._transaction = secrets.token_bytes(stun.TRANSACTION_BYTES)
        self._answer = loop.create_future()
        try:
            for wait_s in stun.RETRIES_S:
                self._send(stun.binding_request(self._transaction), self._asked)
                # `wait`, not `wait_for`: the future outlives each try.
                if (await asyncio.wait([self._answer], timeout=wait_s))[0]:
                    return self._answer.result()
            raise TimeoutError
        finally:
            self._answer = None
