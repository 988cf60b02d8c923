"""Hundreds of readers that stop, on the program as its users start it: what they cost, and that all of them are cut."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from asking import CHAT, bearer
from processes import Place, Running, ask, wait_for
from raw_http import request_bytes
from slow_reader import slow_reader

from parallama.testing import Answer, FakeOllama

READERS = 500
KB = 1 << 10
MB = 1 << 20
LINE = (
    b'{"model":"llama3.2:1b","created_at":"2026-01-01T00:00:00.000000000Z",'
    b'"message":{"role":"assistant","content":"%b"},"done":false}\n' % (b" token" * 20)
)
"""Longer than a token's: as many bytes in fewer steps; still so short that each costs more than its bytes."""
WAITING = 410 * KB
LINES = WAITING // (len(LINE) + 6)
"""Each with the framing of its chunk: with what the kernel holds of it, a bit less than may wait for all readers."""


def started(here: Place, database_url: str, node: FakeOllama) -> tuple[Running, str]:
    """`parallama serve` before `node`, and an admin's key."""
    env: dict[str, Any] = {
        "PARALLAMA_DB_URL": database_url,
        "PARALLAMA__NODES__0__NAME": "node-1",
        "PARALLAMA__NODES__0__URL": node.url,
        "PARALLAMA__RELAY__STALL_S": "600",
    }
    assert here.run("user", "create", "alice", "--admin", **env).returncode == 0
    key = here.run("key", "generate", "alice", **env).stdout.strip()
    return here.start("serve", "--port", "0", **env).ready(), key


def resident(running: Running) -> int:
    """Bytes."""
    status = Path(f"/proc/{running.popen.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * KB


def in_flight(running: Running, key: str) -> float:
    """Leases on the node, as the metrics tell."""
    text = ask(f"{running.url}/metrics", key=key).body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("parallama_node_requests_in_flight{")]
    return float(line.split()[-1])


def on_the_way(port: int) -> int:
    """Bytes between a node at `port` and the gateway that are with the kernel."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [line[4].split(":") for line in lines if f":{port:04X}" in (line[1][-5:], line[2][-5:])]
    return sum(int(waiting, 16) for both in queues for waiting in both)


async def until(what: Any, ceiling_s: float = 90.0) -> None:
    """Poll, without holding this loop up; generous, because every token goes through the node of this process."""
    await asyncio.to_thread(wait_for, what, ceiling_s)


@pytest.mark.timeout(300)
async def test_500_stopped_readers_stay_under_300_mb_and_are_all_cut(
    here: Place, database_url: str, node: FakeOllama
) -> None:
    gates = [asyncio.Semaphore(LINES) for _ in range(READERS)]
    for gate in gates:
        node.cue(Answer(lines=itertools.repeat(LINE), hold_chunks=gate))
    running, key = await asyncio.to_thread(started, here, database_url, node)
    request = request_bytes("POST", "/api/chat", CHAT, bearer(key))
    async with AsyncExitStack() as stack:
        for _ in gates:
            await stack.enter_async_context(slow_reader(urlsplit(running.url).port or 0, request))
        await until(lambda: all(gate.locked() for gate in gates))
        await until(lambda: on_the_way(node.port) == 0)
        assert in_flight(running, key) == READERS, "too early to be cut"
        assert resident(running) < 300 * MB
        for _, gate in itertools.product(range(2 * LINES), gates):
            gate.release()
        await until(lambda: all(seen.client_left.is_set() for seen in node.seen("/api/chat")))
        await until(lambda: in_flight(running, key) == 0)
    assert await asyncio.to_thread(running.end) == 0
    assert await outcomes(database_url) == [("cancelled", 499, "client_stalled", True, READERS)]


async def outcomes(database_url: str) -> list[tuple[object, ...]]:
    """How the exchanges ended, whether their tokens are known, and how many of each kind."""
    connection = await asyncpg.connect(database_url)
    try:
        columns = "outcome, status, error, output_tokens > 0 AND estimated"
        found = await connection.fetch(f"SELECT {columns}, count(*) FROM usage GROUP BY {columns}")
    finally:
        await connection.close()
    return [tuple(row) for row in found]
