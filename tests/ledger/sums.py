"""The sums by the hour, made again from the rows by other means than PostgreSQL's."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from parallama.db.pool import Database
from parallama.db.query import Query

_NOBODY = UUID(int=0)
_OUTCOMES = ("ok", "failed", "cancelled", "refused")


async def sums_agree(database: Database, zone: str = "UTC") -> None:
    """Fails when the sums, corrections apart, are not those of the rows."""
    rows = await database.fetch(Query("rows", (), "SELECT * FROM usage"))
    found = await database.fetch(Query("sums", (), "SELECT * FROM usage_hours WHERE correction = 0"))
    expected: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0.0] * 12)
    for row in rows:
        sums = expected[_key(row, zone)]
        for at, value in enumerate(_values(row)):
            sums[at] += value
    assert {tuple(row)[:7]: list(tuple(row)[7:-1]) for row in found} == {
        key: pytest.approx(values) for key, values in expected.items()
    }


def hour_of(moment: datetime, zone: str) -> datetime:
    """When the hour of the clock in `zone` began that it was at that moment."""
    local = moment.astimezone(ZoneInfo(zone))
    into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    return moment.astimezone(UTC) - into


def _key(row: Any, zone: str) -> tuple[Any, ...]:
    model, node = row["model"] or row["model_asked"] or "", row["node"] or ""
    hour = hour_of(row["charged_at"] or row["created_at"], zone)
    return (hour, row["user_id"], row["username"], row["key_id"] or _NOBODY, row["gateway"], model, node)


def _values(row: Any) -> list[float]:
    outcomes = [row["outcome"] == outcome for outcome in _OUTCOMES]
    tokens = [row["prompt_tokens"] or 0, row["output_tokens"] or 0]
    return [
        1,
        *outcomes,
        row["estimated"],
        *tokens,
        row["duration_ms"],
        row["ttft_ms"] or 0,
        row["ttft_ms"] is not None,
        row["node"] is not None and row["operation"] in ("chat", "generate", "embed"),
    ]
