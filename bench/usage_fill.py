"""Rows of usage in any number, such as people leave behind: more by day than by night and at weekends, some people far
more than others, each with few models. By COPY, an hour at a time, through the shipper's own query.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import accumulate
from uuid import UUID

import orjson

from parallama.db import query
from parallama.db.pool import Database

USERS = 200
KEYS = 2 * USERS
GATEWAYS = ("ollama", "openai", "anthropic")
MODELS = tuple(f"{name}:{size}" for name in ("llama3.2", "qwen3", "gemma3", "phi4") for size in (1, 4, 8, 14, "latest"))
NODES = ("node-1", "node-2", "node-3", "node-4")

_SQL = query.load("usage")
_HOUR = timedelta(hours=1)
_HOUR_MS = 3_600_000
_SEVERAL = 3
"""Hours that are stored at the same time."""
_ENDS = 20_000
"""Different requests that there are, apart from when."""


def user_id(number: int) -> UUID:
    """Of one of the users, from 0 on."""
    return UUID(int=0xA << 120 | number)


def key_id(number: int) -> UUID:
    """Of one of the keys: a user has two, one after the other."""
    return UUID(int=0xB << 120 | number)


def username(number: int) -> str:
    """Of the same user."""
    return f"user-{number:03}"


async def fill(database: Database, rows: int, days: int, until: datetime) -> None:
    """As many rows and their sums, over the days before `until`, which is the start of an hour in UTC."""
    dice = random.Random(1)  # noqa: S311 (the same rows every time)
    ends = _ends(dice)
    hours = [until - _HOUR * number for number in range(24 * days, 0, -1)]
    await database.fetch(_SQL.partitions, hours)
    shares = list(accumulate(map(_busy, hours)))
    ends_at = [round(rows * share / shares[-1]) for share in shares]
    several = asyncio.Semaphore(_SEVERAL)

    async def one(hour: datetime, number: int) -> None:
        async with several:
            await database.copy(list(_lines(hour, number, ends, dice)), _SQL.ship, "UTC")

    async with asyncio.TaskGroup() as group:
        for hour, begin, end in zip(hours, (0, *ends_at), ends_at, strict=False):
            group.create_task(one(hour, end - begin))


def _busy(hour: datetime) -> float:
    """How much is asked for in an hour, at most 1."""
    if not 7 <= hour.hour < 19:
        return 0.05
    return 1 if hour.weekday() < 5 else 0.15


def _lines(hour: datetime, rows: int, ends: list[str], dice: random.Random) -> Iterator[bytes]:
    """As the journal has them."""
    start = int(hour.timestamp()) * 1000
    for number, end in enumerate(dice.choices(ends, k=rows)):
        at_ms = start + number * _HOUR_MS // rows
        at = at_ms / 1000
        yield f'["{at_ms:012x}70008{number:015x}",{at},{end},{at}]'.encode()


def _ends(dice: random.Random) -> list[str]:
    """What stands between the time of a request and the time when it was charged."""
    habits = [_habits(dice) for _ in range(KEYS)]
    often = [1 / (number + 2) for number in range(KEYS)]
    dice.shuffle(often)
    return [_end(key, *dice.choice(habits[key]), dice) for key in dice.choices(range(KEYS), often, k=_ENDS)]


def _habits(dice: random.Random) -> list[tuple[str, str, str]]:
    """The gateway of a key, with each of its models on the two nodes that have it."""
    gateway = dice.choices(GATEWAYS, (6, 3, 1))[0]
    models = dice.sample(range(len(MODELS)), dice.choice((1, 2, 2, 3, 4)))
    return [(gateway, MODELS[one], NODES[(one + way) % len(NODES)]) for one in models for way in (0, 1)]


def _end(key: int, gateway: str, model: str, node: str, dice: random.Random) -> str:
    outcome, status = dice.choices((("ok", 200), ("cancelled", 499), ("failed", 502), ("refused", 429)), (94, 3, 1, 2))[
        0
    ]
    asked = outcome != "refused"
    prompt, output = int(dice.lognormvariate(6, 1)), int(dice.lognormvariate(5, 1))
    used = (prompt, output) if asked else (None, None)
    first_ms = round(dice.uniform(50, 2000), 3) if asked else None
    values = (
        *(str(user_id(key // 2)), username(key // 2), str(key_id(key)), gateway, "chat", model),
        *((model, node) if asked else (None, None)),
        *(*used, outcome == "cancelled", first_ms, round(12.5 * output + 2000, 3), status, outcome),
        *(None if asked else "over_limit", dice.random() < 0.7, 4 * prompt, 6 * output, False, None, None),
    )  # fmt: skip
    return orjson.dumps(values).decode()[1:-1]
