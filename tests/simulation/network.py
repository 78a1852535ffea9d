"""The network between the service and its trunks: every datagram may be lost, doubled, late or overtaken."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.clock import Clock
from tests.simulation.trace import Trace


@dataclass(frozen=True, slots=True)
class Weather:
    name: str
    loss: float
    """Of a datagram, each way."""
    twice: float
    delay_s: float
    """At least."""
    jitter_s: float
    """On top, evenly: what is sent within it overtakes."""


CLEAR = Weather("clear", 0.0, 0.0, 0.005, 0.03)
DOUBLED = Weather("doubled", 0.0, 0.2, 0.005, 0.3)
ROUGH = Weather("rough", 0.05, 0.03, 0.01, 0.15)
STORM = Weather("storm", 0.2, 0.05, 0.02, 0.5)
WEATHERS = (CLEAR, CLEAR, DOUBLED, ROUGH, ROUGH, STORM)


class Network:
    def __init__(self, clock: Clock, dice: random.Random, weather: Weather, trace: Trace) -> None:
        self.weather = weather
        self._clock = clock
        self._dice = dice
        self._trace = trace

    def carry(self, data: bytes, way: str, deliver: Callable[[bytes, str], None], host: str) -> None:
        """Bring `data` to `deliver(data, host)`, perhaps; `way` is what the trace says of its direction."""
        weather, draw = self.weather, self._dice.random
        copies = 2 if weather.twice and draw() < weather.twice else 1
        for _ in range(copies):
            if weather.loss and draw() < weather.loss:
                if self._trace.on:
                    self._trace.message(way + " LOST", data)
                continue
            if self._trace.on:
                self._trace.message(way, data)
            self._clock.after(weather.delay_s + draw() * weather.jitter_s, deliver, data, host)
