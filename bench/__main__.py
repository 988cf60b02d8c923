"""`python -m bench`: runs it all, prints the table, and writes bench/results.md."""

from __future__ import annotations

import argparse
import os
import pstats
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench import accounting, rounds, systems
from bench.dialects import DIALECTS, NATIVE
from bench.report import Results, markdown, summary

_PROFILED = replace(rounds.FULL, seconds=5.0, paced_s=5.0)
_LOADS = tuple(dict.fromkeys((*rounds.LOADS, *rounds.TRANSLATED)))
_TOP = 40


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Parallama against a bare aiohttp proxy.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="plan", action="store_const", const=rounds.QUICK, help="fewer, shorter rounds")
    size.add_argument("--smoke", dest="plan", action="store_const", const=rounds.SMOKE, help="only to see that it runs")
    size.add_argument("--profile", choices=_LOADS, nargs="?", const="unary", help="profile Parallama instead")
    parser.add_argument("--dialect", choices=DIALECTS, default=NATIVE, help="in which it is asked for the profile")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"), help="the file to write")
    parser.set_defaults(plan=rounds.FULL)
    return parser.parse_args()


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _bench(plan: rounds.Plan, out: Path) -> None:
    started, load_average = time.monotonic(), os.getloadavg()[0]
    with systems.running() as running:
        measure = rounds.Measure(running, plan, _say)
        memory = [measure.memory_kib(system) for system in (running.bare, running.parallama)]
        found = [measure.round(number) for number in range(plan.rounds)]
    _say("what the ledger costs")
    ledger = accounting.measure(plan.ledger_rounds)
    results = Results(plan, found, memory, ledger, running.cpus, time.monotonic() - started, load_average)
    out.write_text(markdown(results), "utf-8")
    print(f"{summary(results)}\n\nWritten to {out}.")


def _profile(load: str, dialect: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "profile"
        with systems.running(profile=file) as running:
            rounds.Measure(running, _PROFILED, _say).profile(load, dialect)
        pstats.Stats(str(file)).strip_dirs().sort_stats("tottime").print_stats(_TOP)


def main() -> None:
    """Carry out what the command line says; one line and exit code 1 when an answer was wrong."""
    options = _options()
    if not Path("/proc/self/stat").exists():
        sys.exit("bench: CPU time is read from /proc, which this system does not have")
    systems.raise_limits()
    try:
        if options.profile:
            _profile(options.profile, options.dialect)
        else:
            _bench(options.plan, options.out)
    except systems.Failed as error:
        sys.exit(f"bench: {error}")


if __name__ == "__main__":
    main()
