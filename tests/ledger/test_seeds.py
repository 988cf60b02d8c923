"""What was used before, summed for each counter: of its subject, gateway, model, meter and window, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from usage_rows import make_row, store

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import Unavailable
from parallama.ledger.memory import MemoryStore
from parallama.ledger.seeds import Seeding, Seeds, Used, weight_of
from parallama.limits import Counter, Limit, Meter, Period, Scope

USER, KEY, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
PERIODS = (Period.MINUTE, Period.HOUR, Period.DAY, Period.MONTH)
HOUR = timedelta(hours=1)
_PEOPLE = Query(
    "people",
    (),
    """
    WITH made AS (INSERT INTO users (id, username) VALUES ($1, 'alice'), ($3, 'bob'))
    INSERT INTO api_keys (id, user_id, digest, hint) VALUES ($2, $1, sha256('a'), '')
    """,
)


@pytest.fixture
async def database(database: Database) -> Database:
    """With those whose rows are in it."""
    await database.execute(_PEOPLE, USER, KEY, OTHER)
    return database


def row(**changes: Any) -> Any:
    return make_row(**{"user_id": USER, "key_id": KEY, "prompt_tokens": 3, "output_tokens": 10, **changes})


def counter(meter: Meter, period: Period = Period.DAY, *, subject: UUID = USER, **scope: Any) -> Counter:
    return Counter(subject, Scope(scope.get("gateway", "*"), scope.get("model"), meter, period))


async def total(database: Database, one: Counter, **weights: float) -> int:
    seeds = Seeds(database, "UTC", weights)
    found = await seeds.of([one])
    return sum(amount for _, amount in found[one])


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(
    ("meter", "expected"),
    [(Meter.REQUESTS, 2), (Meter.PROMPT_TOKENS, 6), (Meter.OUTPUT_TOKENS, 20), (Meter.TOTAL_TOKENS, 26)],
)
async def test_a_meter_counts_what_it_is_of(database: Database, period: Period, meter: Meter, expected: int) -> None:
    await store(database, [row(), row(), row(user_id=OTHER, key_id=None)])
    assert await total(database, counter(meter, period)) == expected


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize(
    "changes",
    [
        {"node": None, "prompt_tokens": None, "output_tokens": None, "outcome": "refused"},
        {"operation": "list", "model": None, "model_asked": None, "prompt_tokens": None, "output_tokens": None},
        {"operation": "show", "prompt_tokens": None, "output_tokens": None},
        {"operation": "manage", "prompt_tokens": None, "output_tokens": None},
    ],
)
async def test_what_asked_no_model_counts_nowhere(database: Database, period: Period, changes: dict[str, Any]) -> None:
    await store(database, [row(**changes)])
    assert await total(database, counter(Meter.REQUESTS, period)) == 0


@pytest.mark.parametrize("period", PERIODS)
async def test_each_counter_has_its_own(database: Database, period: Period) -> None:
    await store(database, [row(), row(key_id=None), row(gateway="openai"), row(model="qwen3:0.6b")])
    expected = {
        counter(Meter.REQUESTS, period): 4,
        counter(Meter.REQUESTS, period, subject=KEY): 3,
        counter(Meter.REQUESTS, period, gateway="openai"): 1,
        counter(Meter.REQUESTS, period, model="qwen3*"): 1,
        counter(Meter.REQUESTS, period, gateway="openai", model="qwen3*"): 0,
        counter(Meter.REQUESTS, period, subject=OTHER): 0,
    }
    found = await Seeds(database, "UTC", {}).of(expected)
    assert {one: sum(amount for _, amount in amounts) for one, amounts in found.items()} == expected


async def test_only_what_is_in_the_window_counts(database: Database) -> None:
    zone = "Asia/Kathmandu"
    now = datetime.now(UTC)
    midnight = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight.replace(day=1)
    moments = [now, midnight - timedelta(seconds=1), first - timedelta(seconds=1)]
    await store(database, [row(moment=moment) for moment in moments], zone)
    counts = [counter(Meter.REQUESTS, period) for period in PERIODS]
    memory = MemoryStore(ZoneInfo(zone))
    memory.seed(await Seeds(database, zone, {}).of(counts))
    limits = [Limit(subject=USER, scope=one.scope, amount=1) for one in counts]
    used = {one.limit.scope.period: one.used for one in await memory.standings(limits)}
    assert used[Period.DAY] == 1
    assert used[Period.MONTH] == (2 if midnight != first else 1)


@pytest.mark.parametrize("period", PERIODS)
async def test_it_counts_where_it_was_charged_whatever_the_clock_of_its_process(
    database: Database, period: Period
) -> None:
    now = datetime.now(UTC)
    rows = [
        row(moment=now - 2 * HOUR, charged_at=now, output_tokens=1),
        row(charged_at=now, output_tokens=2),
        row(moment=now + 2 * HOUR, charged_at=now, output_tokens=4),
        row(charged_at=now - timedelta(days=40), output_tokens=8),
    ]
    await store(database, rows)
    assert await total(database, counter(Meter.OUTPUT_TOKENS, period)) == 1 + 2 + 4


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("askew", [-HOUR, HOUR])
async def test_a_clock_that_is_an_hour_off_leaves_nothing_out(
    database: Database, period: Period, askew: timedelta
) -> None:
    """The counter itself leaves out what is not in its window."""
    now, before = datetime.now(UTC), {Period.MINUTE: timedelta(minutes=2)}.get(period, timedelta(days=40))
    await store(database, [row(charged_at=now), row(charged_at=now - before)])
    seeds = Seeds(database, "UTC", {}, now=lambda: (now + askew).timestamp())
    one = counter(Meter.REQUESTS, period)
    memory = MemoryStore(ZoneInfo("UTC"), now=now.timestamp)
    memory.seed(await seeds.of([one]))
    (standing,) = await memory.standings([Limit(subject=USER, scope=one.scope, amount=1)])
    assert standing.used == 1


async def test_a_model_weighs_what_the_first_pattern_says(database: Database) -> None:
    await store(database, [row(model="qwen3:0.6b"), row()])
    assert await total(database, counter(Meter.OUTPUT_TOKENS), **{"qwen3*": 4, "*": 0.5}) == 45
    assert weight_of({"a*": 2}, "b") == 1


async def test_those_who_wait_together_ask_once_and_fail_together() -> None:
    """The first asks alone, all who come meanwhile ask together behind it."""
    gate, asked = asyncio.Event(), list[set[Counter]]()

    async def used(counters: Collection[Counter]) -> Used:
        asked.append(set(counters))
        await gate.wait()
        if len(asked) > 1:
            raise Unavailable("gone")
        return {one: [] for one in counters}

    memory = MemoryStore(ZoneInfo("UTC"))
    seeding = Seeding(memory, used)
    counters = [counter(Meter.REQUESTS, subject=UUID(int=number)) for number in range(50)]
    waiting = asyncio.gather(*(seeding.fill({one: ""}) for one in counters), return_exceptions=True)
    await asyncio.sleep(0)
    gate.set()
    results = await waiting
    assert results[0] is None
    assert all(isinstance(result, Unavailable) for result in results[1:])
    assert asked == [{counters[0]}, set(counters[1:])]
    assert memory.known == 1


async def test_who_gives_up_waiting_leaves_the_others_to_ask() -> None:
    never, asked = asyncio.Event(), list[int]()

    async def used(counters: Collection[Counter]) -> Used:
        asked.append(len(counters))
        if len(asked) == 1:
            await never.wait()
        return {one: [] for one in counters}

    memory = MemoryStore(ZoneInfo("UTC"))
    seeding, one = Seeding(memory, used), counter(Meter.REQUESTS)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(seeding.fill({one: ""}))
        await asyncio.sleep(0)
        group.create_task(seeding.fill({one: ""}))
        await asyncio.sleep(0)
        first.cancel()
    assert memory.known == 1
    assert asked == [1, 1]
