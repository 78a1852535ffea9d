"""
A registration (RFC 3261 §10) as a machine: what to ask for, when to ask again, and whether the registrar knows us.

Times are monotonic seconds from the caller. Path and Service-Route (RFC 3327, RFC 3608) are not used: calls go to the
proxy that the operator named, and a registrar that could send them elsewhere could send them to anyone.
"""

from collections.abc import Callable

from .message import Response, address_uri, clean, seconds, split_values
from .transaction import Failure

REFRESH_AT = (0.7, 0.85)  # of the granted time, by chance, so that many don't come at once
MIN_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
REFUSED_BACKOFF_S = 30.0  # after a refusal of who we are: asking often would lock the account
MAX_EXPIRES_S = 86_400  # what a registrar may ask us to ask for (423)
MAX_TRIES_423 = 2  # in a row


class Registration:
    """One binding: send a REGISTER with `headers` when it is `due`, and give `answered` what came of it."""

    def __init__(self, *, expires_s: int, uniform: Callable[[float, float], float], now: float) -> None:
        self.due = now
        """When the next REGISTER should leave."""
        self.good_until: float | None = None
        """Until when the registrar knows us, as far as it said."""
        self.trouble = "no answer yet"
        """Why the last try failed; empty if it didn't."""
        self._asked_s = expires_s
        self._bound = ""
        """The Contact that the registrar has, as far as it said."""
        self._uniform = uniform
        self._failures = 0
        self._too_brief = 0

    def registered(self, now: float) -> bool:
        """Whether the registrar knows us now."""
        return self.good_until is not None and now < self.good_until

    def headers(self, contact: str) -> tuple[tuple[str, str], ...]:
        """Of the next REGISTER; `contact` is our URI in angle brackets. One that it replaces is taken back with it."""
        bindings = [("Contact", contact)]
        if self._bound not in ("", contact):
            # Some registrars keep one Contact an account, and would refuse the second.
            bindings.append(("Contact", f"{self._bound};expires=0"))
        return (*bindings, ("Expires", str(self._asked_s)))

    def leave(self) -> tuple[tuple[str, str], ...]:
        """Of the last one: we are gone (RFC 3261 §10.2.2)."""
        return (("Contact", self._bound), ("Expires", "0"))

    def answered(self, answer: Response | Failure, contact: str, now: float) -> None:
        """Take the final answer to a REGISTER with this contact."""
        if isinstance(answer, Response) and 200 <= answer.code < 300:
            self._bound = contact
            self._granted(granted_s(answer, contact, self._asked_s), now)
        elif isinstance(answer, Response) and answer.code == 423 and self._asks_longer(answer):
            self._too_brief += 1
            self.due = now
        else:
            self._failed(answer, now)

    def _granted(self, good_s: int, now: float) -> None:
        self._failures = self._too_brief = 0
        if good_s <= 0:
            self.trouble = "the registrar granted no time"
            self._back_off(now, MIN_BACKOFF_S)
            return
        self.trouble = ""
        self.good_until = now + good_s
        self.due = now + good_s * self._uniform(*REFRESH_AT)

    def _asks_longer(self, answer: Response) -> bool:
        """RFC 3261 §10.2.8: 423 names the least time that it takes."""
        least = seconds(answer.header("min-expires"))
        if least is None or not self._asked_s < least <= MAX_EXPIRES_S or self._too_brief >= MAX_TRIES_423:
            return False
        self._asked_s = least
        return True

    def _failed(self, answer: Response | Failure, now: float) -> None:
        if isinstance(answer, Failure):
            self.trouble = "no answer" if answer is Failure.TIMEOUT else "the registrar can't be reached"
            self._back_off(now, MIN_BACKOFF_S)
            return
        self.trouble = f"{answer.code} {clean(answer.phrase)}".strip()
        if answer.code in (401, 403, 404, 407):
            # It doesn't know us (any more), whatever it granted before.
            self.good_until = None
        wanted = seconds(answer.header("retry-after"))
        least = REFUSED_BACKOFF_S if 400 <= answer.code < 500 and answer.code != 408 else MIN_BACKOFF_S
        self._back_off(now, max(least, min(wanted or 0.0, MAX_BACKOFF_S)))

    def _back_off(self, now: float, least_s: float) -> None:
        pause = min(max(least_s, MIN_BACKOFF_S * 2**self._failures), MAX_BACKOFF_S)
        self._failures = min(self._failures + 1, 10)
        self.due = now + pause * self._uniform(0.75, 1.0)


def granted_s(answer: Response, contact: str, asked_s: int) -> int:
    """
    How long the binding is good: our Contact's `expires`, else the Expires header, else what was asked for.

    A registrar that mends Contacts behind a NAT shows ours with another host and port, and with our user: which of such
    is ours can't be told, and the shortest time is the safe one.
    """
    bound = {address_uri(value): value for value in split_values(answer.values("contact"))}
    ours = address_uri(contact)
    if ours in bound:
        found = _expires(bound[ours])
    else:
        mended = [_expires(value) for uri, value in bound.items() if _user(uri) == _user(ours)]
        found = min((each for each in mended if each), default=None)
    if found is None:
        found = seconds(answer.header("expires"))
    return asked_s if found is None else found


def _user(uri: str) -> str:
    return uri.partition(":")[2].rpartition("@")[0]


def _expires(contact: str) -> int | None:
    for parameter in contact.rpartition(">")[2].split(";"):
        name, _, text = parameter.partition("=")
        if name.strip().lower() == "expires" and (found := seconds(text.strip().strip('"'))) is not None:
            return found
    return None
