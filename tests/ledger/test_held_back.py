"""A request is written down with the node that it goes to, unless it has to wait or there is no place for it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from asking import Gate
from e2e.databases import fresh_database
from journals import read, said
from limited_people import GENERATE, Person, gateway, in_one_loop, new_person, nothing_held
from running import RunningGateway, eventually, running_gateway

from parallama.app import SHIPPER, STORE
from parallama.exchange import UsageRecord
from parallama.ledger import entries
from parallama.testing import Answer, FakeOllama, fake_ollama

pytestmark = in_one_loop
__all__ = ["gateway"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: str) -> AsyncIterator[tuple[RunningGateway, FakeOllama]]:
    """One connection, which is kept, and a journal of which nothing is taken away."""
    async with fresh_database(postgres) as url, fake_ollama() as node:
        only = {"name": "node-1", "url": node.url, "max_connections": 1, "probe_s": 3600}
        async with running_gateway(url, node.url, {"nodes": [only], "usage": {"flush_ms": 3_600_000}}) as running:
            yield running, node


def journal(gateway: RunningGateway) -> Path:
    return gateway.app[SHIPPER].journal.home


def rows(gateway: RunningGateway, person: Person) -> list[UsageRecord]:
    """Those of the person by now, of what has not ended too."""
    found = [row for row in read(said(journal(gateway))) if row.username == person.name]
    return [row for row in found if row.operation != "list"]


async def known(gateway: RunningGateway) -> Person:
    """Somebody with a limit whose count is known, so that nothing keeps the next request waiting."""
    person = await new_person(gateway)
    await person.limit("requests", 10)
    assert (await person.ask()).status == 200
    return person


async def test_who_waits_for_a_connection_is_written_down_and_again_when_a_node_is_asked(
    gateway: RunningGateway, served: tuple[RunningGateway, FakeOllama]
) -> None:
    first, second = await known(gateway), await known(gateway)
    gate = Gate()
    served[1].cue(Answer(hold_head=gate), "/api/generate")
    before = len(said(journal(gateway)))
    async with asyncio.TaskGroup() as group:
        group.create_task(first.ask())
        await gate.reached.wait()
        group.create_task(second.ask())
        await eventually(lambda: len(rows(gateway, second)) == 2)
        assert [row.node for row in rows(gateway, first)] == ["node-1", "node-1"]
        assert [row.node for row in rows(gateway, second)] == ["node-1", None]
        gate.set()
    kinds = [entry[:1] for entry in said(journal(gateway))[before:] if entry[:1] != entries.PROGRESS]
    assert sorted(kinds) == sorted([entries.ADMIT] * 2 + [entries.DISPATCH] + [entries.FINAL] * 2)
    assert [row.outcome for row in rows(gateway, second)] == ["ok", "ok"]


async def test_who_finds_no_place_on_the_disk_asks_no_node_and_pays_nothing(
    gateway: RunningGateway, served: tuple[RunningGateway, FakeOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await known(gateway)
    asked = len(served[1].seen("/api/generate"))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        got = await person.ask(GENERATE)
        assert (got.status, "Retry-After: " in got.head) == (503, True)
    assert len(served[1].seen("/api/generate")) == asked
    await eventually(lambda: len(rows(gateway, person)) == 2)
    refused = rows(gateway, person)[-1]
    assert (refused.status, refused.outcome, refused.node, refused.model) == (503, "failed", None, None)
    assert refused.charged_at is not None
    await nothing_held(gateway)
    assert gateway.app[STORE].reserved == 0
    async with asyncio.timeout(10):
        assert (await person.ask()).status == 200, "its connection is free again"
