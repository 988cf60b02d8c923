"""The findings as Markdown: ratios first, then who was busy, then the raw medians with their spread."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench import accounting
from bench.dialects import DIALECTS
from bench.rounds import GATHERED, Found, Plan, Round, Translated
from bench.systems import ROOT, Cpus

_LIBRARIES = ("parallama", "aiohttp", "uvloop", "httptools", "orjson", "asyncpg")
_BUSY_PERCENT = 90.0
"""Whoever is busier than this may be what limits the others."""
_WAITED_PERCENT = 5.0
_WHO = ("direct", "bare", "parallama")
_LOADS = {
    "unary": "unary, 16 clients",
    "gathered": f"unary, gathered from {GATHERED} chunks",
    "few": "fast streams of 10 chunks",
    "many": "fast streams of 110 chunks",
    "first": "one client, first byte",
    "paced": "paced streams",
}


@dataclass(frozen=True)
class Results:
    """Everything that was measured."""

    plan: Plan
    rounds: Sequence[Round]
    memory_kib: Sequence[float]
    """Of bare, parallama."""
    ledger: accounting.Found
    cpus: Cpus
    seconds: float
    """What all of it took."""
    load_average: float
    """Of the minute before: whether the machine had something else to do."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what it is called, and its number in the findings of one round."""

    title: str
    of: Callable[[Found], float | None]
    added: bool = False
    """Whether what counts is the difference to direct in the same round."""
    ratio: bool = True
    """Whether the ratio says something: not of small differences that the machine's other work makes."""


@dataclass(frozen=True)
class Translation:
    """A line of the table of dialects: its numbers in one round, of Parallama without translation and with it."""

    title: str
    passed: Callable[[Found], float | None]
    translated: Callable[[Translated], float | None]


_TRANSLATIONS = (
    Translation("chunk, fast streams", lambda f: f.fast_us, lambda t: t.chunk_us),
    Translation("stream beside its chunks", lambda f: f.stream_us, lambda t: t.stream_us),
    Translation(f"unary request, of {GATHERED} chunks", lambda f: f.unary_us, lambda t: t.gathered_us),
)


def _rows(plan: Plan) -> list[Row]:
    streams = f"{plan.streams} streams x 20/s"
    return [
        Row("CPU per unary request, µs", lambda f: f.unary_us),
        Row(f"CPU per chunk, {streams}, µs", lambda f: f.paced_us),
        Row("CPU per chunk, fast streams, µs", lambda f: f.fast_us),
        Row("fixed CPU per stream, µs", lambda f: f.stream_us),
        Row("added to the first byte, p50, ms", lambda f: f.first_ms, added=True),
        Row(f"added to a chunk, {streams}, p50, ms", lambda f: f.age_ms, added=True, ratio=False),
        Row(f"added to a chunk, {streams}, p99, ms", lambda f: f.age_99_ms, added=True, ratio=False),
        Row(f"CPU of the proxy, {streams}, %", lambda f: f.paced_cpu),
        Row("unary requests per second", lambda f: f.unary_rate),
        Row("time of a unary request, 16 clients, p99, ms", lambda f: f.unary_99_ms, ratio=False),
        Row("CPU of PostgreSQL per unary request, µs", lambda f: f.postgres_us),
    ]


def markdown(results: Results) -> str:
    """The whole page."""
    parts = [
        "# Results of `make bench`",
        "What is measured, and how: [docs/performance.md](../docs/performance.md). Only the ratios hold elsewhere.",
        _facts(results),
        _table(results),
        "## What a translation costs",
        "CPU of Parallama in µs, passed through in the native dialect and translated; the medians of the rounds.",
        _translations(results),
        "## What the ledger costs",
        "CPU of gateways that differ in what they count; the least of all rounds, and the median.",
        _ledger(results),
        "## Was it the proxy that was measured?",
        verdict(results),
        _busy(results),
        "## Raw figures",
        "Median of the rounds, least to most in brackets; latencies as they are, direct's not taken off.",
        _raw(results),
    ]
    return "\n\n".join(parts) + "\n"


def summary(results: Results) -> str:
    """What the terminal gets."""
    return "\n\n".join([_table(results), _translations(results), _ledger(results), verdict(results)])


def verdict(results: Results) -> str:
    """Whether load, node and PostgreSQL left the proxies room; one line."""
    tight = [
        f"{_LOADS[load]} through {who} ({others:.0f} %)"
        for (load, who), (_, others) in _shares(results).items()
        if who != _WHO[0] and others >= _BUSY_PERCENT
    ]
    rates = [median(found.systems[place].unary_rate for found in results.rounds) for place in range(3)]
    faster = f"Asked directly, load and node do {rates[0] / max(rates[1:]):.1f} times the requests of the faster proxy"
    if not results.cpus.proxy:
        return f"**There is one CPU for all: latencies and rates say nothing here, CPU times do.** {faster}."
    if tight:
        return f"**Load generator and node WERE the bottleneck in: {', '.join(tight)}.** {faster}."
    least = f"below {_BUSY_PERCENT:.0f} % busy in every load through a proxy"
    return f"**Load generator and node were not the bottleneck:** {least}. {faster}.{_disturbed(results)}"


def _disturbed(results: Results) -> str:
    waited = max(median(found.systems[place].waited for found in results.rounds) for place in (1, 2))
    if waited < _WAITED_PERCENT:
        return ""
    return f" **Other programs ran meanwhile:** the proxy waited {waited:.0f} % of the time for its CPU."


def _table(results: Results) -> str:
    lines = [["", "bare aiohttp", "parallama", "parallama / bare"]]
    for row in _rows(results.plan):
        bare, ours = _values(results, row, 1), _values(results, row, 2)
        ratio = _ratio(bare, ours) if row.ratio else None
        lines.append([row.title, _number(bare), _number(ours), "" if ratio is None else f"{ratio:.2f}"])
        if row.title.startswith("added to the first"):
            kib = results.memory_kib
            lines.append(["memory per idle stream, KiB", *(f"{one:.1f}" for one in kib), f"{kib[1] / kib[0]:.2f}"])
    return _markdown_table(lines)


def _values(results: Results, row: Row, place: int) -> list[float]:
    """The row's number in every round; none where the system has no such thing."""
    values = []
    for found in results.rounds:
        value, direct = row.of(found.systems[place]), row.of(found.systems[0])
        if value is not None:
            values.append(value - direct if row.added and direct is not None else value)
    return values


def _ratio(bare: Sequence[float], ours: Sequence[float]) -> float | None:
    """The median of the rounds' ratios."""
    pairs = [(a, b) for a, b in zip(bare, ours, strict=False) if a > 0]
    return median(b / a for a, b in pairs) if pairs else None


def _translations(results: Results) -> str:
    lines = [["CPU, µs", "dialect", "passed through", "translated", "added"]]
    for row in _TRANSLATIONS:
        for name in results.rounds[0].translated:
            pairs = [(row.passed(one.systems[2]), row.translated(one.translated[name])) for one in results.rounds]
            known = [(passed, ours) for passed, ours in pairs if passed is not None and ours is not None]
            if known:
                passed, ours = ([pair[place] for pair in known] for place in (0, 1))
                added = [ours - passed for passed, ours in known]
                lines.append([row.title, DIALECTS[name].title, _number(passed), _number(ours), _number(added)])
    return _markdown_table(lines)


def _ledger(results: Results) -> str:
    return _markdown_table(accounting.lines(results.ledger))


def _busy(results: Results) -> str:
    shares = _shares(results)
    asked = list(dict.fromkeys(who for _, who in shares))
    lines = [["load: % of proxy / of load, node, PostgreSQL", *asked]]
    for load, title in _LOADS.items():
        lines.append([title, *(_share(who, shares.get((load, who))) for who in asked)])
    return _markdown_table(lines)


def _share(who: str, found: tuple[float, float] | None) -> str:
    if found is None:
        return ""
    proxy, others = found
    return f"{'-' if who == _WHO[0] else f'{proxy:.0f} %'} / {others:.0f} %"


def _shares(results: Results) -> dict[tuple[str, str], tuple[float, float]]:
    """How busy proxy and others were, as in Found, by load and by who was asked; medians of the rounds."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in results.rounds:
        asked = dict(zip(_WHO, one.systems, strict=True)) | {
            DIALECTS[name].title: t for name, t in one.translated.items()
        }
        for who, of in asked.items():
            for load, share in of.busy.items():
                found.setdefault((load, who), []).append(share)
    return {key: (median(one for one, _ in all), median(other for _, other in all)) for key, all in found.items()}


def _raw(results: Results) -> str:
    lines = [["", "direct", "bare aiohttp", "parallama"]]
    for row in _rows(results.plan):
        raw = Row(row.title.replace("added to", "time to"), row.of)
        lines.append([raw.title, *(_spread(_values(results, raw, place)) for place in range(3))])
    return _markdown_table(lines)


def _facts(results: Results) -> str:
    proxy, others = results.cpus.proxy, results.cpus.others
    where = f"proxy on CPU {proxy[0]}, all else on CPU {', '.join(map(str, others))}" if proxy else "one CPU for all"
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return "\n".join(
        [
            f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}",
            f"- {results.plan.rounds} round(s) in {results.seconds:.0f} s",
            f"- {_cpu_model()}, {os.cpu_count()} CPUs ({where}), {platform.system()} {platform.release()}",
            f"- load average before {results.load_average:.2f}",
            f"- {platform.python_implementation()} {platform.python_version()}, {libraries}",
        ]
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _number(values: Sequence[float]) -> str:
    return _digits(median(values)) if values else "-"


def _spread(values: Sequence[float]) -> str:
    return f"{_number(values)} ({_digits(min(values))} to {_digits(max(values))})" if values else "-"


def _digits(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *rest = (_line(map(str.ljust, line, widths)) for line in lines)
    return "\n".join([head, _line("-" * width for width in widths), *rest])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
