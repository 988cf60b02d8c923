"""What is measured, round by round: every load on every system, one right after the other.

Absolute figures drift on a busy machine; loads that follow each other at once drift together, so that ratios hold.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import proc
from bench.dialects import DIALECTS, NATIVE
from bench.load import Load
from bench.systems import ROOT, Failed, System, Systems

FEW, MANY = 10, 110
"""Chunks of a fast stream; the difference of their CPU is that of 100 chunks."""
GATHERED = 25
"""Chunks of an answer that Parallama gathers into one document."""
FAST_US, PACED_US, IDLE_US = 250, 50_000, 120_000_000
_UNARY_CLIENTS, _FAST_CLIENTS = 16, 8
"""More fast streams would be more than a proxy that translates can take: their chunks would pile up, and so be cheaper
than those of streams that pass through."""
_CEILING_S = 120.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each load in each round."""
    paced_s: float
    streams: int
    """At the same time: those that are paced, and those that are idle."""
    ledger_rounds: int
    """In which it is found out what the ledger costs."""


FULL = Plan(rounds=5, seconds=0.9, paced_s=2.5, streams=500, ledger_rounds=100)
QUICK = Plan(rounds=3, seconds=0.5, paced_s=1.0, streams=500, ledger_rounds=30)
SMOKE = Plan(rounds=1, seconds=0.1, paced_s=0.1, streams=20, ledger_rounds=1)
LOADS = ("unary", "few", "many", "first", "paced")
"""What each system is asked in each round; `few` and `many` are fast streams, `first` is one client."""
_STREAMED = tuple(name for name in DIALECTS if name != NATIVE)
TRANSLATED: Mapping[str, Sequence[str]] = {"gathered": ("openai",), "few": _STREAMED, "many": _STREAMED}
"""What Parallama is asked besides, in which dialects; `gathered` are documents of a node's stream."""


@dataclass(frozen=True)
class Found:
    """What one round says of one system. None: nothing of that kind, since no proxy or no PostgreSQL is there."""

    unary_us: float | None
    """CPU of the proxy for one answer in one document, microseconds."""
    unary_rate: float
    """Such answers a second."""
    unary_99_ms: float
    """From such a request to its answer, 99th percentile: what holds the event loop up shows here."""
    paced_us: float | None
    """CPU for one chunk while many streams send 20 a second."""
    fast_us: float | None
    """CPU for one chunk of streams that send 4,000 a second."""
    stream_us: float | None
    """CPU for a stream beside its chunks."""
    first_ms: float
    """From the request to the first byte, median, one client."""
    age_ms: float
    """From the node's write of a chunk to the client's reading it, median, while many streams are paced."""
    age_99_ms: float
    paced_cpu: float | None
    """CPU of the proxy meanwhile, percent of one."""
    postgres_us: float | None
    """CPU of PostgreSQL for one answer in one document."""
    waited: float
    """Percent of the time that the proxy waited for its CPU while it answered documents: others ran there."""
    busy: Mapping[str, tuple[float, float]]
    """By load: CPU of the proxy, percent of one, and of load, node and PostgreSQL, percent of what they have."""


@dataclass(frozen=True)
class Translated:
    """What one round says of a dialect that Parallama translates."""

    chunk_us: float
    """CPU of the proxy for one chunk of fast streams, microseconds."""
    stream_us: float
    """CPU for a stream beside its chunks."""
    gathered_us: float | None
    """CPU for one document that is gathered from a node's stream; None: it was not asked for."""
    busy: Mapping[str, tuple[float, float]]
    """As in Found."""


@dataclass(frozen=True)
class Round:
    """What one round says."""

    systems: Sequence[Found]
    """Of direct, bare, parallama, each asked in the native dialect."""
    translated: Mapping[str, Translated]
    """Of Parallama, by dialect."""


Runs = Mapping[str, Mapping[str, Any]]
"""What the load generator found, by load."""


class Measure:
    """Measures the systems as the plan says, and tells `say` what it is doing."""

    def __init__(self, systems: Systems, plan: Plan, say: Callable[[str], None]) -> None:
        self._systems = systems
        self._plan = plan
        self._say = say

    def memory_kib(self, system: System) -> float:
        """What one idle stream takes in the proxy. To be asked first: freed memory would be used again."""
        assert system.pid is not None
        self._say(f"memory of {system.name}")
        base = self._plan.streams // 5
        extra = {"base": base, "connections": base + self._plan.streams}
        return (
            float(self._run(system, "held", dialect=NATIVE, seconds=0, chunks=2, interval_us=IDLE_US, **extra)["rss"])
            / 1024
            / self._plan.streams
        )

    def round(self, number: int) -> Round:
        """One round. Raises Failed when an answer was wrong."""
        self._say(f"round {number + 1} of {self._plan.rounds}")
        runs: dict[str, dict[str, Any]] = {}
        for load, options in self._loads().items():
            ways = self._ways(load)
            turn = number % len(ways)
            for name, system, dialect in ways[turn:] + ways[:turn]:
                runs.setdefault(name, {})[load] = self._run(system, dialect=dialect, **options)
        cpus = len(self._systems.cpus.others) or 1
        systems = [_found(runs[system.name], cpus) for system in self._systems.all]
        return Round(systems, {name: _translated(runs[name], cpus) for name in _STREAMED})

    def _ways(self, load: str) -> list[tuple[str, System, str]]:
        """Who is asked, in which dialect, and under which name that is kept."""
        native = [(system.name, system, NATIVE) for system in self._systems.all if load in LOADS]
        return native + [(name, self._systems.parallama, name) for name in TRANSLATED.get(load, ())]

    def profile(self, load: str, dialect: str) -> None:
        """One load on Parallama, which begins its profile now."""
        system = self._systems.parallama
        assert system.pid is not None
        os.kill(system.pid, signal.SIGUSR1)
        self._run(system, dialect=dialect, **self._loads()[load])

    def _loads(self) -> dict[str, dict[str, Any]]:
        plan = self._plan
        once = {"kind": "once", "seconds": plan.seconds}
        fast = {"kind": "streams", "seconds": plan.seconds, "interval_us": FAST_US}
        # the ramp and what the last streams have left after the window, at 20 chunks a second
        chunks = round((plan.streams / 500 + plan.paced_s + 1) * 1e6 / PACED_US)
        return {
            "unary": {**once, "connections": _UNARY_CLIENTS},
            "gathered": {**once, "connections": _FAST_CLIENTS, "chunks": GATHERED, "interval_us": FAST_US},
            "few": {**fast, "connections": _FAST_CLIENTS, "chunks": FEW},
            "many": {**fast, "connections": _FAST_CLIENTS, "chunks": MANY},
            "first": {**fast, "connections": 1, "chunks": 1},
            "paced": {
                "kind": "paced",
                "connections": plan.streams,
                "seconds": plan.paced_s,
                "chunks": chunks,
                "interval_us": PACED_US,
            },
        }

    def _run(self, system: System, kind: str, **options: Any) -> dict[str, Any]:
        """One load on one system. Raises Failed when an answer was wrong."""
        watch = {"node": [self._systems.node_pid]}
        if system.pid is not None:
            watch["proxy"] = [system.pid]
        if system.postgres is not None:
            watch["postgres"] = proc.tree(system.postgres)
        load = Load(kind=kind, port=system.port, key=system.key, watch=watch, **options)
        command = [sys.executable, "-m", "bench.load", json.dumps(asdict(load))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_CEILING_S, check=False)
        if done.returncode:
            raise Failed(f"{system.name}, {options['dialect']}: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def _found(runs: Runs, cpus: int) -> Found:
    fast, stream = _per_chunk(runs)
    return Found(
        unary_us=_each(runs["unary"], "proxy"),
        unary_rate=runs["unary"]["answers"] / runs["unary"]["seconds"],
        unary_99_ms=runs["unary"]["first_ms"][1],
        paced_us=_each(runs["paced"], "proxy", "chunks"),
        fast_us=fast,
        stream_us=stream,
        first_ms=runs["first"]["first_ms"][0],
        age_ms=runs["paced"]["age_ms"][0],
        age_99_ms=runs["paced"]["age_ms"][1],
        paced_cpu=_share(runs["paced"], "proxy") if "proxy" in runs["paced"]["cpu_ns"] else None,
        postgres_us=_each(runs["unary"], "postgres"),
        waited=runs["unary"]["waited_ns"] / runs["unary"]["seconds"] / 1e7,
        busy=_busy(runs, cpus),
    )


def _translated(runs: Runs, cpus: int) -> Translated:
    chunk, stream = _per_chunk(runs)
    assert chunk is not None
    assert stream is not None
    gathered = _each(runs["gathered"], "proxy") if "gathered" in runs else None
    return Translated(chunk, stream, gathered, _busy(runs, cpus))


def _per_chunk(runs: Runs) -> tuple[float | None, float | None]:
    """Microseconds of CPU for a chunk of fast streams, and for such a stream beside its chunks."""
    few, many = _each(runs["few"], "proxy"), _each(runs["many"], "proxy")
    if few is None or many is None:
        return None, None
    chunk = (many - few) / (MANY - FEW)
    return chunk, few - FEW * chunk


def _busy(runs: Runs, cpus: int) -> Mapping[str, tuple[float, float]]:
    return {load: (_share(run, "proxy"), _others(run, cpus)) for load, run in runs.items()}


def _each(run: Mapping[str, Any], name: str, of: str = "answers") -> float | None:
    """Microseconds of CPU for each answer or chunk; None without such a process."""
    if name not in run["cpu_ns"]:
        return None
    return float(run["cpu_ns"][name] / run[of] / 1000)


def _share(run: Mapping[str, Any], *names: str) -> float:
    """Percent of one CPU."""
    return float(sum(run["cpu_ns"].get(name, 0) for name in names) / run["seconds"] / 1e7)


def _others(run: Mapping[str, Any], cpus: int) -> float:
    """Percent: of the CPUs that they share, or of one CPU for the busiest, since each is one thread."""
    together = _share(run, "load", "node", "postgres") / cpus
    return max(together, _share(run, "load"), _share(run, "node"))
