"""A gateway that is killed between any two steps of an exchange's life: afterwards all is counted as it happened.

One gateway after the other goes on where the one before it died, each to die at another step, under load.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import pytest
from fleet import Crowd, Fleet, alive, dead
from processes import CEILING_S, Running
from running import eventually
from scale import CLIENTS, DOOMED
from truth import nothing_is_wrong, rows_of, spent

from parallama.testing import Answer

_JOURNAL, _SHIPPER = "parallama.ledger.journal:Journal", "parallama.ledger.shipper:Shipper"
_ANSWER, _SEGMENTS = "parallama.proxy.answer:Answer", "parallama.ledger.segments:Segments"

_LIFE = (
    f"{_JOURNAL}.admit before",
    f"{_JOURNAL}.admit after",
    "parallama.proxy.admission:Admission.admit before",
    "STORE.reserve before",
    "STORE.reserve after",
    "parallama.proxy.admission:Admission.admit after",
    "parallama.nodes.pool:Lease.__aenter__ after",
    f"{_JOURNAL}.dispatch before",
    f"{_JOURNAL}._begin before",
    f"{_JOURNAL}._begin after",
    f"{_JOURNAL}.dispatch after",
    "parallama.nodes.connection:Connection.ask before /api/generate",
    "parallama.nodes.connection:Connection.ask after /api/generate",
    f"{_ANSWER}.begin before",
    f"{_ANSWER}.write before",
    f"{_ANSWER}.write after",
    f"{_JOURNAL}.final before",
    f"{_JOURNAL}.final after",
    "STORE.settle before",
    "STORE.settle after",
    f"{_ANSWER}.end before",
    f"{_ANSWER}.end after",
    "parallama.proxy.books:Books.end after",
    "parallama.db.pool:Database.copy before",
    "asyncpg.pool:PoolConnectionProxy.copy_to_table after",
    "parallama.db.pool:Database.copy after",
    f"{_JOURNAL}.stored before",
    f"{_JOURNAL}.stored after",
    f"{_SEGMENTS}.begin before",
    f"{_SEGMENTS}.begin after",
    "pathlib:Path.unlink before .log",
    "pathlib:Path.unlink after .log",
)
"""Steps of an exchange, in their order: places of the program, and whether it dies before or after."""

_MEMORY = (f"{_JOURNAL}._end_turn before", f"{_JOURNAL}._end_turn after")
"""With Redis nobody is held back."""

_PROGRESS = ("parallama.ledger.entries:progress before", f"{_JOURNAL}._write after b'P[")

_TAKING_OVER = (
    f"{_SHIPPER}._adopt before",
    "parallama.proxy.admission:settle_left before",
    "parallama.proxy.admission:settle_left after",
    "parallama.ledger.left:remove before",
    "pathlib:Path.unlink after .log",
    "pathlib:Path.unlink after lock",
    "parallama.ledger.left:remove after",
)
"""Steps of who takes over what another one has left, of each the first time that it comes to it."""

_STORES = {"memory": "parallama.ledger.memory:MemoryStore", "redis": "parallama.ledger.redis_store:RedisStore"}
_REDIS = ("parallama.ledger.redis_debts:Debts._pay before", "parallama.ledger.redis_session:Session.answer after")
_REQUESTS = 1200
"""More than are asked before the last gateway."""
_KINDS = {"mixed": (0, 1), "streams": (0, 2), "documents": (1, 2)}
"""Of questions: the first number, and the step to the next."""
_SEGMENT = {"SEGMENT": "4000"}
"""Bytes: some five exchanges."""


@dataclass
class Chain:
    """Gateways, each of which goes on where the one before it has died."""

    fleet: Fleet
    crowd: Crowd

    async def die(self, doom: str) -> None:
        """Start one that dies so, and ask it until then."""
        running = self.fleet.launch(DOOM=doom, **_SEGMENT)
        if await asyncio.to_thread(ready, running):
            await self.all_is_counted(running)
            async with asyncio.timeout(CEILING_S):
                await self.crowd.run(running, CLIENTS, lambda: True)
        await dead(running)

    async def live(self) -> None:
        """Start one that lives until all is used up, and ends in order."""
        running = await self.fleet.start(**_SEGMENT)
        await self.all_is_counted(running)
        await self.crowd.use_up(running)
        rows = await nothing_is_wrong(self.fleet, self.crowd)
        assert spent(rows, self.crowd) == _REQUESTS
        assert await asyncio.to_thread(running.end) == 0
        assert self.fleet.journals() == []

    async def all_is_counted(self, running: Running) -> None:
        """Unless it dies before it can be asked, what it says is left is what the rows of all others have left."""
        await eventually(lambda: not alive(running) or len(self.fleet.journals()) == 1)
        if not alive(running):
            return
        used = spent(await rows_of(self.fleet, self.crowd), self.crowd)
        assert await self.crowd.counted(running) in (used + 1, None)


def ready(running: Running) -> bool:
    """Wait until it takes work; False: it died before."""
    with suppress(AssertionError):
        running.ready()
    return alive(running)


def dooms(store: str, dice: random.Random) -> Iterator[str]:
    """Each as `doomed.py` takes it; between those of an exchange's life those of taking over."""
    life = (*_LIFE, *(_REDIS if store == "redis" else _MEMORY))
    over = [*_TAKING_OVER]
    for number, step in enumerate(life):
        place, moment, *word = step.replace("STORE", _STORES[store]).split(" ")
        yield " ".join([place, moment, str(dice.randint(3, 15)), *word])
        if over and number % (len(life) // len(_TAKING_OVER)) == 0:
            place, moment, *word = over.pop(0).split(" ")
            yield " ".join([place, moment, "1", *word])
    assert not over


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def chained(store: str, request: pytest.FixtureRequest) -> Fleet:
    found: Fleet = request.getfixturevalue("fleet" if store == "memory" else "together")
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", DOOMED)
async def test_whoever_is_killed_between_two_steps_leaves_all_counted_as_it_happened(
    chained: Fleet, store: str, kind: str, dice: random.Random
) -> None:
    chained.numbers = count(*_KINDS[kind])
    chain = Chain(chained, await chained.user("alice", _REQUESTS))
    for doom in dooms(store, dice):
        print(doom)
        await chain.die(doom)
    await chain.live()


async def test_whoever_is_killed_while_it_tells_how_far_it_is_leaves_all_counted_as_it_happened(
    chained: Fleet, store: str
) -> None:
    chain = Chain(chained, await chained.user("alice", _REQUESTS))
    for place, moment, *word in map(str.split, _PROGRESS):
        chained.node.cue(Answer(hold_chunks=0.2), "/api/generate", times=None)
        await chain.die(" ".join([place, moment, "2", *word]))
        chained.node.clear()
    await chain.live()
    assert any(row["estimated"] and row["output_tokens"] for row in (await rows_of(chained)).values())
