"""What must be true when all is quiet again: what clients were told, what the node was asked, what the ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from fleet import Crowd, Fleet
from ledger.gateways import number_of, rows_by_number, wrong
from processes import Running
from running import eventually

Row = Mapping[str, Any]
PROMISES = frozenset({"overspent", "lost", "double", "leaked", "drift"})


async def rows_of(fleet: Fleet, *crowds: Crowd) -> Mapping[int, Row]:
    """By number of their questions, once all that were answered have one; fails when a question has two."""
    answered = {number: what for crowd in crowds for number, what in (*crowd.told.items(), *crowd.refused.items())}
    rows: Mapping[int, Row] = {}

    async def arrived() -> bool:
        nonlocal rows
        rows = await rows_by_number(fleet.database)
        return answered.keys() <= rows.keys()

    with suppress(TimeoutError):
        await eventually(arrived)
    assert {number: what for number, what in answered.items() if number not in rows} == {}, "rows are lost"
    return rows


async def nothing_is_wrong(
    fleet: Fleet, *crowds: Crowd, gateways: int = 1, promised: Collection[str] = PROMISES
) -> Mapping[int, Row]:
    """Nothing lost, nothing doubled, no row that says other things than its client was told; all that is `promised`
    is kept by each of so many gateways, which run. The rows."""
    rows = await rows_of(fleet, *crowds)
    for crowd in crowds:
        assert wrong(crowd, dict(rows)) == {}
    asked = {number_of(request.body) for request in fleet.node.seen("/api/generate") if request.complete}
    assert asked <= set(rows)
    aborted = {number for number, row in rows.items() if row["error"] == "aborted"}
    assert aborted.isdisjoint(number for crowd in crowds for number in crowd.told)
    for found in await asyncio.gather(*map(fleet.verified, range(gateways))):
        assert {name: found[name]["number"] for name in promised} == dict.fromkeys(promised, 0), found
    return rows


async def counts_agree(fleet: Fleet, crowd: Crowd, running: Running, *, twice: int = 0) -> None:
    """Until the gateway counts what the rows say, and at no time less; `twice`: so many may count twice."""

    async def agree() -> bool:
        used = spent(await rows_of(fleet, crowd), crowd) + 1
        counted = await crowd.counted(running)
        assert counted is not None, running.err
        assert counted >= used
        return counted <= used + twice

    await eventually(agree)


def spent(rows: Mapping[int, Row], crowd: Crowd) -> int:
    """Requests, as limits count them."""
    return sum(row["username"] == crowd.name and row["node"] is not None for row in rows.values())
