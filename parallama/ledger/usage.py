"""Usage reports: what a user used, from sums by the hour (`usage_hours`) and single rows (`usage`).

Days and hours are those of the deployment's time zone. Values come out as JSON takes them: times as RFC 3339
in UTC, UUIDs as text, milliseconds to three decimals, None where unknown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database, Row
from parallama.errors import NotFound

FIELDS = (
    *("id", "created_at", "username", "key_id", "gateway", "operation", "model_asked", "model", "node"),
    *("prompt_tokens", "output_tokens", "estimated", "ttft_ms", "duration_ms", "status", "outcome", "error"),
    *("streamed", "request_bytes", "response_bytes", "context_full"),
)
"""The keys of a row, in order."""
TOTALS = (
    *("gateway", "model", "requests", "ok", "failed", "cancelled", "refused"),
    *("prompt_tokens", "output_tokens", "total_tokens", "mean_duration_ms", "mean_ttft_ms"),
)
"""The keys of a line of the summary, in order."""

Line = dict[str, Any]
Lines = list[Line]

_queries = query.load("usage")


class UsageReports:
    """Reports about one user. All raise NotFound for a name that neither a user nor any row has."""

    def __init__(self, database: Database, timezone: str) -> None:
        """`timezone` is an IANA name."""
        self._database = database
        self._timezone = ZoneInfo(timezone)

    async def show(self, username: str, gateway: str | None = None, *, now: datetime | None = None) -> Line:
        """Today and the current hour of every gateway used today, or of `gateway`.

        `{"gateways": {name: {"today": {...}, "current_hour": {...}}}}`; what remains is None: unlimited.
        """
        await self._require(username)
        day, hour, until = _now(self._timezone, now)
        rows = await self._database.fetch(_queries.totals, username, gateway, day, hour, until)
        gateways = {gateway: _spent(0, 0, 0, 0)} if gateway else {}
        for name, *counts in rows:
            gateways[name] = _spent(*counts)
        return {"gateways": gateways}

    async def list(
        self,
        username: str,
        gateway: str | None = None,
        model: str | None = None,
        days: int = 7,
        *,
        now: datetime | None = None,
    ) -> Lines:
        """The rows (keys: FIELDS) of the last `days` calendar days, today included, oldest first.

        `model` is a name as it was asked for or as it was served.
        """
        await self._require(username)
        since, until = bounds(self._timezone, days, now)
        spellings = _spellings(model) if model else None
        rows = self._database.stream(_queries.list, username, gateway, spellings, since, until)
        async with aclosing(rows):
            return [_line(row) async for row in rows]

    async def summary(
        self, username: str, gateway: str | None = None, days: int = 30, *, now: datetime | None = None
    ) -> Lines:
        """Totals (keys: TOTALS) by gateway and model over the last `days` calendar days, today included.

        A model is the one served, else the one asked for; None where none was named.
        """
        await self._require(username)
        since, until = bounds(self._timezone, days, now)
        rows = await self._database.fetch(_queries.summary, username, gateway, since, until)
        return [_line(row) for row in rows]

    async def export(self, username: str | None = None) -> AsyncGenerator[Line, None]:
        """An iterator over every row (keys: FIELDS) of a user or, for None, of all; oldest first.

        No more than a few hundred rows are in memory. The caller closes it.
        """
        if username is not None:
            await self._require(username)
        return self._export(username)

    async def _export(self, username: str | None) -> AsyncGenerator[Line, None]:
        rows = self._database.stream(_queries.export, username)
        async with aclosing(rows):
            async for row in rows:
                yield _line(row)

    async def _require(self, username: str) -> None:
        row = await self._database.fetchrow(_queries.known, username)
        if row is None or not row["known"]:
            raise NotFound(f"there is no user {username!r}")


def bounds(timezone: tzinfo, days: int, now: datetime | None = None) -> tuple[datetime, datetime]:
    """The start of the first and the end of the last of `days` calendar days up to today, in UTC."""
    today = (now or datetime.now(UTC)).astimezone(timezone).date()
    first, after = today - timedelta(days=days - 1), today + timedelta(days=1)
    midnights = (datetime.combine(day, time(), timezone).astimezone(UTC) for day in (first, after))
    return next(midnights), next(midnights)


def _now(timezone: tzinfo, now: datetime | None) -> tuple[datetime, datetime, datetime]:
    """The start of today, the start of this hour, and the end of today."""
    now = now or datetime.now(UTC)
    day, until = bounds(timezone, 1, now)
    local = now.astimezone(timezone)
    # counted back from now: the local hour that comes twice in autumn is two hours
    hour = now - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    return day, hour, until


def _spent(day_requests: int, day_tokens: int, hour_requests: int, hour_tokens: int) -> Line:
    return {"today": _window(day_tokens, day_requests), "current_hour": _window(hour_tokens, hour_requests)}


def _window(tokens: int, requests: int) -> Line:
    return {
        "total_tokens": tokens,
        "total_requests": requests,
        "remaining_tokens": None,
        "remaining_requests": None,
    }


def _spellings(model: str) -> list[str]:
    """A model with and without the tag that Ollama takes when none is given."""
    bare = model.removesuffix(":latest")
    return [model] if ":" in bare.rpartition("/")[2] else [bare, f"{bare}:latest"]


def _line(row: Row) -> Line:
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value) if isinstance(value, UUID) else value
