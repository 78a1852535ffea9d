"""How a run goes: how often what is done to the services, and on which terms they serve."""

from dataclasses import asdict, dataclass

from dosvoces.crashpoints import POINTS


@dataclass(frozen=True)
class Plan:
    """A run's measures, in seconds where nothing else is said."""

    length_s: float
    seed: int
    at_most_s: float = 0.0
    """How much longer it may take until every point was reached, and `kills` are done; 0: not a second."""
    kills: int = 0
    clients: int = 8
    """Of one site; each asks for one connection after the other."""
    pause_s: float = 0.3
    """Between two requests of a client, on average."""
    calm_s: float = 4.0
    """From one fault of a node to its next, on average."""
    armed_s: float = 5.0
    """How long a node may take to die at its crash point, until it is killed anyway."""
    random_share: float = 0.4
    """Of a node's lives: those that end at no named point."""
    points: tuple[str, ...] = tuple(POINTS)
    late_share: float = 0.5
    """Of the crash points: those passed several times before the node dies."""
    media_share: float = 0.35
    """Of the faults of a node: those that kill its media worker."""
    freeze_share: float = 0.2
    """Of the faults of a node among others: those that freeze it."""
    database_calm_s: float = 8.0
    mail_fault_rate: float = 0.02
    """Per step of the SMTP dialogue."""
    patience_s: float = 15.0
    """How long a client repeats a request that got no final answer."""
    settle_s: float = 40.0
    """After the last fault, until everything must have ended."""
    up_limit_s: float = 5.0

    ring_timeout_s: float = 3.0
    talk_limit_s: float = 4.0
    beat_s: float = 0.5
    fence_s: float = 3.0
    dead_s: float = 6.0

    def phone_texts(self) -> dict[str, str | int]:
        """For the phones' scenario."""
        return {
            "try_ms": 30,
            "ring_ms": 100,
            "late_ms": 1200,
            "crossing_ms": round(self.ring_timeout_s * 1000) - 35,
            "early_ms": 150,
            "talk_ms": 1000,
        }

    def shown(self) -> dict[str, object]:
        """For the report."""
        return {name: value for name, value in asdict(self).items() if name != "points"}


FIRST_KINDS = {"0": 30, "1": 6, "2": 5, "3": 8, "4": 10, "5": 30, "6": 5, "7": 6}
SECOND_KINDS = {"0": 25, "1": 7, "2": 7, "3": 10, "4": 12, "5": 30, "6": 5, "7": 4}
"""How often each behaviour of `whatever_is_dialled.xml` is called, as first and as second party."""
INTERVALS = {0: 70, 1: 20, 2: 10}
"""How often each `call_interval`."""
