"""The soak: thousands of requests with cuts, resets and stalls on both sides, and then nothing is left over."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from asking import at_rest, metric
from fire import Conduct, Shot, plan
from fire_sides import FiringNode, Seen, Shooter
from fire_truth import legal
from running import RunningGateway, eventually, running_gateway

from parallama.app import POOL, SHIPPER
from parallama.exchange import Exchange

COUNT = int(os.environ.get("SOAK_COUNT", "10000"))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
"""Another one each time; a failure names it."""
AT_ONCE = 200
FEW = 10
"""Objects of requests that local variables of waiting coroutines may keep."""
MB = 1 << 20
LIMITS = {"first_byte_s": 4, "idle_s": 4}
"""Long enough for a node that is only slow to be heard on a busy machine."""


class Bugs(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.logged: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.logged.append(self.format(record))


@contextmanager
def watching() -> Iterator[Bugs]:
    bugs = Bugs()
    logging.getLogger().addHandler(bugs)
    try:
        yield bugs
    finally:
        logging.getLogger().removeHandler(bugs)


@asynccontextmanager
async def under_fire(database_url: str, shots: Sequence[Shot]) -> AsyncIterator[tuple[RunningGateway, FiringNode]]:
    async with FiringNode(shots) as node:
        settings = {"nodes": [{"name": "node-1", "url": node.url, **LIMITS}], "relay": {"stall_s": 3}}
        async with running_gateway(database_url, node.url, settings) as gateway:
            for auth in (gateway.auth, gateway.admin_auth):  # from here on both keys are known
                async with gateway.http.get(f"{gateway.url}/api/version", headers=auth) as answer:
                    assert answer.status == 200
            yield gateway, node


async def fire(gateway: RunningGateway, shots: Sequence[Shot]) -> dict[int, Seen]:
    """Send all of them, many at once; what the clients saw, by number."""
    left, seen = iter(shots), dict[int, Seen]()

    async def shoot() -> None:
        shooter = Shooter(gateway.port, gateway.key, gateway.admin_key, seen)
        for shot in left:
            await shooter.fire(shot)
        await shooter.close()

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(shoot(), name=f"shooter {number}")
    return seen


def wrong(shot: Shot, seen: Seen, rows: Sequence[dict[str, Any]]) -> str | None:
    """What is not as it must be with `shot`."""
    if seen.problem:
        return seen.problem
    if not rows and shot.conduct is Conduct.ANYTIME:
        return None  # it had left before it was heard
    if len(rows) != 1:
        return f"{len(rows)} rows"
    (row,) = rows
    if seen.request_id not in (None, str(row["id"])):
        return "another request's id"
    if not any(verdict.fits(row, seen.sight) for verdict in legal(shot)):
        names = ("status", "outcome", "error", "prompt_tokens", "output_tokens", "estimated")
        return f"the client saw {seen.sight}, the row says {[row[name] for name in names]}"
    return None


def sockets(port: int) -> int:
    """Ends of TCP connections with `port` that this process still has."""
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    port_hex = f":{port:04X}"
    return sum(1 for line in lines if port_hex in (line[1][-5:], line[2][-5:]) and line[3] != "0A" and line[9] != "0")


def tasks() -> Counter[str]:
    """The tasks there are, by what they run; the node's idle connections have one each."""
    found = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    del found["Connection._serve"]
    return found


def requests_in_memory() -> int:
    gc.collect()
    return sum(type(found) in (Exchange, web.Request) for found in gc.get_objects())


def resident() -> int:
    """Bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.timeout(300)
def test_nothing_is_lost_and_nothing_is_left_of_ten_thousand_requests_under_fire(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallama.db.notify._PING_S", 20)  # whoever counts objects holds its loop up for more than one
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the program runs
        runner.run(_soak(database_url))


async def _soak(database_url: str) -> None:
    shots = plan(SEED, COUNT)
    with watching() as bugs:
        async with under_fire(database_url, shots) as (gateway, node):
            await at_rest(gateway)
            before, connected, requests = tasks(), sockets(gateway.port), requests_in_memory()
            seen = await fire(gateway, shots[: COUNT // 2])
            grown = resident()
            seen |= await fire(gateway, shots[COUNT // 2 :])
            await at_rest(gateway)
            await _judge(gateway, shots, seen)
            assert node.garbled == []
            await eventually(lambda: tasks() <= before)
            await eventually(lambda: sockets(gateway.port) <= connected)
            await eventually(lambda: node.answering == 0)
            assert sockets(node.port) <= 2 * (AT_ONCE + 1), "more connections than there were requests at once"
            await eventually(lambda: requests_in_memory() <= requests + FEW)
            assert resident() - grown < 80 * MB
            shipper = gateway.app[SHIPPER]
            assert (shipper.pending, shipper.lost, gateway.app[POOL].nodes[0].in_flight) == (0, 0, 0)
    assert bugs.logged == []


async def _judge(gateway: RunningGateway, shots: Sequence[Shot], seen: dict[int, Seen]) -> None:
    """One row for every request that was heard, and each of them true."""
    heard = int(await metric(gateway, "parallama_requests_total"))
    rows = await gateway.rows(heard)
    by_number: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        by_number.setdefault(row["client_request_id"], []).append(row)
    problems = {
        f"{shot}": problem
        for shot in shots
        if (problem := wrong(shot, seen[shot.number], by_number.get(str(shot.number), [])))
    }
    told = "\n".join(f"{problem}: {shot}" for shot, problem in list(problems.items())[:20])
    assert not problems, f"SOAK_SEED={SEED}: {len(problems)} of {len(shots)}\n{told}"
    assert len(rows) == heard
    assert len({row["id"] for row in rows}) == len(rows)
