"""What can go wrong, as types. What the world may do to a call is data (`EndReason`), not an error."""


class DosvocesError(Exception):
    """The root of ours. Its text names the thing, the value (masked) and the remedy."""


class NotAllowed(DosvocesError):
    """The caller asked for what can't be had: bad input, or a call in the wrong state."""


class NumberRefused(NotAllowed):
    """One of the two numbers is never called."""

    def __init__(self, message: str, *, code: str, second: bool) -> None:
        super().__init__(message)
        self.code = code
        """`do_not_call no_rate`: stable, for programs."""
        self.second = second
        """Whether it is the second party's."""


class NotNow(DosvocesError):
    """Not tried, and safe to repeat later: draining, full, no trunk, record not writable."""

    def __init__(self, message: str, *, retry_after_s: int = 5, leaving: bool = False, full: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.full = full
        """Whether nothing is wrong but that this node has no room for one more."""
        self.leaving = leaving
        """Whether this process is about to end: the next try had better not come by the same connection."""


class TooMany(NotNow):
    """Not tried: a ceiling is reached, which is counted anew after `retry_after_s`."""


class SettingsError(DosvocesError):
    """The configuration can't be used."""


class _DependencyError(DosvocesError):
    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        """Whether trying again can't help."""


class CarrierError(_DependencyError):
    """A call could not be placed, and nothing left the machine. `way` failed, where another one is left."""

    def __init__(self, message: str, *, permanent: bool = False, way: str = "") -> None:
        super().__init__(message, permanent=permanent)
        self.way = way


class MediaError(_DependencyError):
    """The media relay could not do it: no port left, worker gone."""


class MailError(_DependencyError):
    """The mail was not accepted. `unknown` when it may have been (the answer to the final dot never came)."""

    def __init__(self, message: str, *, permanent: bool = False, unknown: bool = False) -> None:
        super().__init__(message, permanent=permanent)
        self.unknown = unknown


class StoreError(_DependencyError):
    """The record could not be written or read. `unknown` when a write may have been committed all the same."""

    def __init__(self, message: str, *, permanent: bool = False, unknown: bool = False) -> None:
        super().__init__(message, permanent=permanent)
        self.unknown = unknown


class NotOurs(StoreError):
    """The connection is another node's by now: whatever we still have of it is hung up, and the rest is that node's."""


class LimitReached(StoreError):
    """Nothing was written: a limit that all nodes share is reached. `trunk` names the one whose limit it is, if any."""

    def __init__(self, message: str, *, trunk: str = "") -> None:
        super().__init__(message)
        self.trunk = trunk


class CeilingReached(LimitReached):
    """Nothing was written: as much as a ceiling allows in its time was asked for; more is after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OnTheList(LimitReached):
    """Nothing was written: a number is on the do-not-call list; `second` if it is the second party's."""

    def __init__(self, message: str, *, second: bool) -> None:
        super().__init__(message)
        self.second = second


class NoRate(LimitReached):
    """Nothing was written: there is a budget, and no rate for a number; `second` if it is the second party's."""

    def __init__(self, message: str, *, second: bool) -> None:
        super().__init__(message)
        self.second = second


class NoRecordYet(StoreError):
    """The database is there and empty: the first start makes the record."""


class AlreadyRecorded(StoreError):
    """The unique key is taken: this connection, this dial attempt or this idempotency key is in the record already."""


class DeferredError(_DependencyError):
    """Deferred work could not be written down, or not be asked about."""
