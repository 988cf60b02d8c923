"""Who was reset while nobody listened is summed anew when somebody listens again; the counts of others go on."""

from __future__ import annotations

from uuid import UUID
from zoneinfo import ZoneInfo

from running import eventually

from parallama.db.pool import Database
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.ledger.forgetting import Forgetting
from parallama.ledger.memory import MemoryStore
from parallama.limits import Counter, Meter, Period, Scope

DAILY = Scope("*", None, Meter.REQUESTS, Period.DAY)


async def test_a_reset_that_was_missed_is_made_up_for(database: Database) -> None:
    bob, eve = [(await Users(database).create(name)).id for name in ("bob", "eve")]
    store = MemoryStore(ZoneInfo("UTC"))
    store.seed({Counter(one, DAILY): [] for one in (bob, eve)})
    await Limits(database).reset_counts(Subject(user="bob"))
    async with Forgetting(store, database).running() as forgetting:
        assert await _known(store) == {bob, eve}
        forgetting.on_reset()

        async def bob_alone() -> bool:
            return await _known(store) == {eve}

        await eventually(bob_alone)


async def _known(store: MemoryStore) -> set[UUID]:
    return {counter.subject for counter in await store.counts()}
