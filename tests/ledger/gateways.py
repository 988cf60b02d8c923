"""Gateways in processes of their own, and clients that know what they were told."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from asking import MODEL, bearer
from processes import Place, Running
from raw_http import Got, RawClient, raw_client

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.testing import FakeOllama

NUMBER = "X-Request-ID"
ROWS = Query("rows", (), "SELECT * FROM usage ORDER BY id")


async def serve(here: Place, node: FakeOllama, database_url: str, **env: str) -> Running:
    """A gateway that takes work."""
    nodes = {"PARALLAMA__NODES__0__NAME": "node-1", "PARALLAMA__NODES__0__URL": node.url}
    running = here.start("serve", "--port", "0", **{"PARALLAMA_DB_URL": database_url, **nodes, **env})
    return await asyncio.to_thread(running.ready)


def port_of(running: Running) -> int:
    return int(running.url.rpartition(":")[2])


@asynccontextmanager
async def connected(running: Running) -> AsyncIterator[RawClient]:
    async with raw_client(port_of(running)) as client:
        yield client


def question(number: int) -> dict[str, Any]:
    """Every other one asks for a stream."""
    return {"model": MODEL, "prompt": f"{number} " + "word " * (number % 7), "stream": number % 2 == 0}


def number_of(asked: bytes) -> int:
    """The number of a question that the node has seen."""
    return int(json.loads(asked)["prompt"].split()[0])


async def ask(client: RawClient, key: str, number: int) -> Got:
    return await client.ask("POST", "/api/generate", question(number), bearer(key), f"{NUMBER}: {number}")


@dataclass
class Load:
    """Clients that ask one question after another, and what those were told who got a whole answer."""

    key: str
    told: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each whole answer: tokens of the prompt and of the output."""
    refused: dict[int, int] = field(default_factory=dict)
    """Statuses that were no 200."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def run(self, running: Running, clients: int, go_on: Callable[[], bool]) -> None:
        """Until `go_on`, which is asked behind each answer, says no, or the gateway is gone."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._ask(running, go_on))

    async def _ask(self, running: Running, go_on: Callable[[], bool]) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            async with connected(running) as client:
                more = True
                while more:
                    number = next(self.numbers)
                    self._heard(number, await ask(client, self.key, number))
                    more = go_on()

    def _heard(self, number: int, got: Got) -> None:
        if got.status != 200:
            self.refused[number] = got.status
            return
        last = got.lines()[-1]
        assert last["done"] is True
        self.told[number] = last["prompt_eval_count"], last["eval_count"]


async def rows_by_number(database: Database) -> dict[int, dict[str, Any]]:
    """Fails when a question has more than one row."""
    rows = [dict(row) for row in await database.fetch(ROWS)]
    by_number = {int(row["client_request_id"]): row for row in rows if row["client_request_id"] is not None}
    assert len(by_number) == len([row for row in rows if row["client_request_id"] is not None])
    return by_number


def wrong(load: Load, rows: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Whole answers whose rows do not say what their clients were told."""
    problems = {}
    for number, counts in load.told.items():
        row = rows.get(number)
        if row is None:
            problems[number] = "no row"
        elif (row["status"], row["outcome"], row["prompt_tokens"], row["output_tokens"]) != (200, "ok", *counts):
            problems[number] = f"{row} for {counts}"
    return problems
