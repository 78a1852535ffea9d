"""The figures for people: ours, the aim, and what Asterisk 22 with ARI took on two such cores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]

AT_RATE = 100
"""Connections a second at which the CPU per connection is shown; it falls with the rate."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    part: str
    what: str
    unit: str
    read: Callable[[Figures], float]
    """From the part's figures."""
    aim: float | None = None
    """At most so much; `None`: none was set."""
    asterisk: str = ""
    """For the record; Asterisk 22 + ARI and its driver on two shared cores, phones as here, not measured now."""


def _at_rate(figures: Figures) -> Figures:
    step: Figures = min(figures["steps"], key=lambda step: abs(float(step["rate"]) - AT_RATE))
    return step


def _cpu(process: str) -> Callable[[Figures], float]:
    return lambda figures: float(_at_rate(figures)["cpu_ms_per_connection"][process])


def _all_cpu(figures: Figures) -> float:
    return float(sum(_at_rate(figures)["cpu_ms_per_connection"].values()))


def _at(*path: str | int) -> Callable[[Figures], float]:
    def read(figures: Figures) -> float:
        value: Any = figures
        for step in path:
            value = value[step]
        return float(value)

    return read


def _of_the_floor(figures: Figures) -> float:
    bare = figures["floor"]["relay"]["cpu_us_per_packet"]
    return float(figures["talk"][0]["cpu_us_per_packet"] / bare)


def _lost_share(figures: Figures) -> float:
    return max(0.0, 1.0 - float(figures["goodput_share"]))


ROWS = (
    Row("engine", "engine alone, sustained", "connections/s", _at("sustained_per_s"), None, "165"),
    Row("engine", f"  CPU, server, at {AT_RATE}/s", "ms/connection", _cpu("engine")),
    Row("engine", f"  CPU, media worker, at {AT_RATE}/s", "ms/connection", _cpu("media_worker")),
    Row("engine", f"  CPU, both, at {AT_RATE}/s", "ms/connection", _all_cpu, 1.5, "10-14"),
    Row("call", "POST /call, sustained", "connections/s", _at("sustained_per_s")),
    Row("call", f"  CPU, service, at {AT_RATE}/s", "ms/connection", _cpu("service")),
    Row("call", f"  CPU, media worker, at {AT_RATE}/s", "ms/connection", _cpu("media_worker")),
    Row("call", f"  CPU, both, at {AT_RATE}/s", "ms/connection", _all_cpu, 6.0),
    Row("overload", "capacity, calls joined", "connections/s", _at("capacity", "joined_per_s")),
    Row("overload", "  at ten times as many requests", "connections/s", _at("overloaded", "joined_per_s")),
    Row("overload", "  lost of the capacity (aim 0.05)", "share", _lost_share, 0.05),
    Row("overload", "  a refusal, p50", "ms", _at("overloaded", "refusal_ms", "p50"), 50.0),
    Row("overload", "  a refusal, p95", "ms", _at("overloaded", "refusal_ms", "p95"), 50.0),
    Row("overload", "  a refusal, p99", "ms", _at("overloaded", "refusal_ms", "p99"), 50.0),
    Row("memory", "server, 500 joined", "KiB/connection", _at("kib_per_open_connection", "engine")),
    Row("memory", "media worker, 500 joined", "KiB/connection", _at("kib_per_open_connection", "media_worker")),
    Row(
        *("memory", "both, 500 joined", "KiB/connection"),
        lambda figures: float(sum(figures["kib_per_open_connection"].values())),
        *(45.0, "352"),
    ),
    Row("latency", "request to INVITE at A, p50", "ms", _at("engine", "request_to_invite_ms", "p50"), None, "1.8"),
    Row("latency", "  p95", "ms", _at("engine", "request_to_invite_ms", "p95"), None, "2.7"),
    Row("latency", "  p99", "ms", _at("engine", "request_to_invite_ms", "p99")),
    Row("latency", "B's 200 to the join, p50", "ms", _at("engine", "answer_to_joined_ms", "p50"), 0.5, "2.2"),
    Row("latency", "  p95", "ms", _at("engine", "answer_to_joined_ms", "p95"), None, "3.4"),
    Row("latency", "  p99", "ms", _at("engine", "answer_to_joined_ms", "p99")),
    Row(
        *("latency", "B's 200 to A's voice, 20 ms packets, p50", "ms"),
        *(_at("engine", "answer_to_first_voice_at_b_ms", "p50"), None, "16.0"),
    ),
    Row(
        *("latency", "  the other way, p50", "ms"),
        _at("engine", "answer_to_first_voice_at_a_ms", "p50"),
    ),
    Row(
        *("latency", "B's 200 to A's voice, 1 ms packets, p50", "ms"),
        _at("engine_1_ms_packets", "answer_to_first_voice_at_b_ms", "p50"),
    ),
    Row(
        *("latency", "POST /call to INVITE at A, p50", "ms"),
        _at("post_call", "request_to_invite_ms", "p50"),
    ),
    Row("latency", "  p95", "ms", _at("post_call", "request_to_invite_ms", "p95")),
    Row("media", "relay", "CPU-µs/packet", _at("talk", 0, "cpu_us_per_packet")),
    Row(
        *("media", "relay, both ways", "CPU-ms/s of talk"),
        *(_at("talk", 0, "cpu_ms_per_s_of_two_way_talk"), 1.0, "2.5-3.0"),
    ),
    Row("media", "relay, delay added, p95", "ms", _at("talk", 0, "delay_ms_p95")),
    Row("media", "floor: bare relay loop", "CPU-µs/packet", _at("floor", "relay", "cpu_us_per_packet")),
    Row("media", "  ours in bare loops", "×", _of_the_floor),
    Row("media", "floor: SIPp to SIPp, caller's end", "CPU-ms/leg", _at("floor", "sip", "caller_cpu_ms_per_leg")),
    Row("media", "floor: SIPp to SIPp, phone's end", "CPU-ms/leg", _at("floor", "sip", "phone_cpu_ms_per_leg")),
)


def show(results: dict[str, Figures], console: Console) -> None:
    """Print what was measured, each figure beside its aim."""
    table = Table(box=None, pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for name in ("ours", "aim", "Asterisk*"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in ROWS:
        try:
            value = row.read(results[row.part])
        except (KeyError, IndexError):
            continue  # That part, or that much of it, was not measured this time.
        ours = f"{value:.3g}" if value < 100 else f"{value:.0f}"
        if row.part in ("engine", "call") and "sustained" in row.what and not results[row.part]["limit_reached"]:
            ours = f"≥ {ours}"
        missed = row.aim is not None and value > row.aim
        table.add_row(
            *(row.what, f"[red]{ours}[/red]" if missed else ours),
            *("" if row.aim is None else f"≤ {row.aim:g}", row.asterisk, row.unit),
        )
    console.print(table)
    console.print(
        "* Asterisk 22 + ARI with its driver, for the record: on two such cores with the same phones, not in this run"
    )
