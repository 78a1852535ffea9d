"""
Whether a hop is worth a call, by what became of the calls and pings before: pure, with `now` in monotonic seconds.
"""

from dosvoces.carriers.end_reasons import callee_cause
from dosvoces.sip.api import CallEnd, EndCause

FAILURES_TO_OPEN = 2  # in a row: one lost answer is no outage
OPEN_S = 15.0  # until a first trial; doubled at each failed one
MAX_OPEN_S = 60.0
TRIAL_S = 40.0  # above 64*T1: a trial that ended without a word to us is forgotten
MAX_REST_S = 60.0  # whatever a Retry-After asks for


class Circuit:
    """
    Whether one hop is worth a call: closed (it is), open (it isn't), half open (one call may try).

    Calls and pings both feed it. It opens after `FAILURES_TO_OPEN` in a row; then, after a while, one call is let
    through as a trial, and any answer to a call or a ping closes it.
    """

    __slots__ = ("_open_s", "_pings_answered", "_retry_at", "_spoke", "_trial_until", "failures", "rests_until", "why")

    def __init__(self) -> None:
        self.failures = 0
        self.why = ""
        """The last failure, in words."""
        self.rests_until = 0.0
        """The hop asked not to be called before (Retry-After)."""
        self._retry_at: float | None = None
        """When a trial is due; `None` while closed."""
        self._trial_until = 0.0
        self._open_s = OPEN_S
        self._spoke = False
        """Whether anything but a ping was ever answered."""
        self._pings_answered = False

    @property
    def closed(self) -> bool:
        return self._retry_at is None

    @property
    def suspect(self) -> bool:
        """Whether another ping soon would tell more."""
        return self.closed and self.failures > 0

    def usable(self, now: float) -> bool:
        """Whether a call may take it now."""
        if now < self.rests_until:
            return False
        return self._retry_at is None or (now >= self._retry_at and now >= self._trial_until)

    def take(self, now: float) -> None:
        """A call takes it; while it is open that is the only one."""
        if not self.closed:
            self._trial_until = now + TRIAL_S

    def answered(self) -> None:
        """It gave a sign to a call, whatever it said."""
        self._spoke = True
        self._close()

    def failed(self, now: float, why: str) -> None:
        """A call met silence, or nobody."""
        self.failures += 1
        self.why = why
        self._trial_until = 0.0
        if not self.closed or self.failures >= FAILURES_TO_OPEN:
            self._retry_at = now + self._open_s
            self._open_s = min(2 * self._open_s, MAX_OPEN_S)

    def refused(self, now: float, retry_after_s: int | None) -> None:
        """It said 503: with a Retry-After it rests that long, without one it is a failure."""
        self._spoke = True
        if retry_after_s is None:
            self.failed(now, "503")
        else:
            self._close()
            self.why = f"503, Retry-After {retry_after_s} s"
            self.rests_until = now + min(retry_after_s, MAX_REST_S)

    def ping_answered(self) -> None:
        self._pings_answered = True
        self._close()

    def ping_refused(self, now: float, retry_after_s: int | None) -> None:
        """A ping was answered with 503."""
        self._pings_answered = True
        self.refused(now, retry_after_s)

    def ping_unanswered(self, now: float) -> None:
        """
        No answer to a ping. Some carriers never answer one and take calls all the same: where calls were answered and
        no ping ever was, silence says nothing; and where neither was, a trial call is not put off by it.
        """
        if self._pings_answered or (self.closed and not self._spoke):
            self.failed(now, "no answer to OPTIONS")

    def _close(self) -> None:
        self.failures = 0
        self._retry_at = None
        self._trial_until = 0.0
        self._open_s = OPEN_S


def reached_nobody(end: CallEnd) -> bool:
    """
    Whether this end of a dial leaves it certain that nobody was rung, so that another way may be tried.

    Never after 18x, and never after a refusal that may be the callee's own or says that it is in vain elsewhere too.
    """
    if end.heard > 100:
        return False
    if end.cause is EndCause.TRANSPORT or (end.cause is EndCause.TIMEOUT and end.status is None):
        return end.heard == 0
    if end.cause is not EndCause.REJECTED or end.status is None:
        return False
    if end.status == 408:
        # After a 100 somebody may have been rung; a trunk that says 408 and nothing else has reached nobody.
        return end.heard == 0
    # A 5xx whose Q.850 cause speaks of the callee (busy, say) comes from a gateway that has asked.
    return 500 <= end.status <= 599 and callee_cause(end.detail) is None


def learn(circuit: Circuit, end: CallEnd, now: float, why: str = "") -> None:
    """What the end of a call tells of the hop that it took; `why` no connection could be made, where that is known."""
    if end.cause is EndCause.REJECTED and end.status == 503 and end.heard <= 100:
        circuit.refused(now, end.retry_after_s)
    elif end.status is not None or end.heard:
        circuit.answered()
    elif end.cause in (EndCause.TRANSPORT, EndCause.TIMEOUT):
        circuit.failed(now, (why or "nobody is there") if end.cause is EndCause.TRANSPORT else "no answer")
