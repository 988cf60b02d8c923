"""Reports of what was used, grouped by what is asked for, from sums by the hour (`usage_hours`): whole hours, of the
deployment's time zone. Single rows are not read: those are kept for some days only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import partial
from math import ceil
from typing import Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database, Row
from parallama.errors import Unavailable

Group = Literal["user", "key", "gateway", "model", "node", "day", "hour"]
Place = tuple[str, str, str, str, str, str]
"""Where a line stands: hour or start of the day, user, key, gateway, model, node."""

GROUPS: tuple[Group, ...] = ("day", "hour", "user", "key", "gateway", "model", "node")
"""What a report can be by, in the order of its columns."""

_SQL = query.load("usage")
_PART = 10_000
"""Lines that are read at a time."""
_PATIENCE_S = 30.0
_AGAIN_S = 0.2
_NOBODY = UUID(int=0)
_FIRST: tuple[None, ...] = (None,) * 6
_TIMES: frozenset[Group] = frozenset(("day", "hour"))
_WIDER = 16
"""How many times as long the next part of the time is, at most."""
_EVER = datetime.max.replace(tzinfo=UTC)


class Span(NamedTuple):
    """From a moment on, and before another; None: without that end."""

    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Whose usage, and which of it; None: any."""

    user_id: UUID | None = None
    user: str | None = None
    """A name, in whatever case: that of the user when it was used."""
    gateway: str | None = None
    model: str | None = None
    """With or without the tag `latest`."""
    key: UUID | None = None
    node: str | None = None

    @property
    def models(self) -> list[str] | None:
        """All spellings of the model."""
        return None if self.model is None else spellings(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLine:
    """Totals. What the report is not by is null."""

    day: str | None
    """Such as 2026-12-31, in the time zone of the deployment."""
    hour: str | None
    """When it began: RFC 3339, UTC."""
    user: str | None
    key: UUID | None
    """The id of a key; null also for access tokens."""
    gateway: str | None
    model: str | None
    """The one served, else the one asked for; null also where none was named."""
    node: str | None
    """Null also where none was asked."""
    requests: int
    ok: int
    failed: int
    cancelled: int
    refused: int
    prompt_tokens: int
    output_tokens: int
    total_tokens: int
    mean_duration_ms: float | None
    """Null: what there was has been taken out again."""
    mean_ttft_ms: float | None
    """To the first byte; null: no request had one."""


SUMS = tuple(field.name for field in fields(ReportLine) if field.name not in GROUPS)
"""The keys of a line that every report has."""


class Reports:
    """Lines by what is asked for, in the order of time, user, key, gateway, model and node."""

    def __init__(self, database: Database, timezone: str) -> None:
        """`timezone` is an IANA name."""
        self._database = database
        self._zone = ZoneInfo(timezone)

    async def rows(
        self, by: Sequence[Group], which: Which, span: Span, *, after: Place | None = None, limit: int
    ) -> list[Row]:
        """At most `limit` rows, behind the one at `after`: for `line` and `place`."""
        if not _TIMES.intersection(by):
            return await self._read(by, which, span, after, limit)
        at, end = await self._reach(span, after)
        if at >= end:
            return []
        if _TIMES.issuperset(by):
            return await self._read(by, which, Span(at, end), after, limit)
        return await self._by_parts(by, which, at, end, after, limit)

    async def _by_parts(
        self, by: Sequence[Group], which: Which, at: datetime, end: datetime, after: Place | None, limit: int
    ) -> list[Row]:
        """One part of the time after the other, as long as it seems to take: else everything that there is would be
        added up for every page."""
        found: list[Row] = []
        steps = 1
        while at < end and len(found) < limit:
            until = min(at + timedelta(hours=steps) if "hour" in by else self._day(at, steps), end)
            missing = limit - len(found)
            some = await self._read(by, which, Span(at, until), after, missing)
            found += some
            at, steps = until, steps * min(ceil(missing / len(some)) if some else 2, _WIDER)
        return found

    def _day(self, at: datetime, days: int) -> datetime:
        """The start of the day, or of another one so many days later."""
        return midnight(at.astimezone(self._zone).date() + timedelta(days=days), self._zone)

    async def _reach(self, span: Span, after: Place | None) -> tuple[datetime, datetime]:
        """The first hour of the span that may have lines behind `after`, and the end of the last."""
        row = await self._database.fetchrow(_SQL.reach)
        if row is None or row["first"] is None:
            return _EVER, _EVER
        first = row["first"] if after is None else max(row["first"], datetime.fromisoformat(after[0]))
        last = row["last"] + timedelta(hours=1)
        return max(first, span.since or first), min(last, span.until or last)

    async def _read(self, by: Sequence[Group], which: Which, span: Span, after: Place | None, limit: int) -> list[Row]:
        where = _FIRST if after is None else (datetime.fromisoformat(after[0]), after[1], UUID(after[2]), *after[3:])
        async with self._database.connection() as one, one.transaction(readonly=True):
            # a plan for all that can be asked for sorts everything before it gives a line
            await one.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            return await one.fetch(_SQL.report.sql, *self._asked(by, which, span), *where, limit)

    async def lines(self, by: Sequence[Group], which: Which, span: Span) -> AsyncGenerator[ReportLine, None]:
        """All lines, a few thousand in memory. No connection is held while whoever reads them takes their time."""
        rows = await self.rows(by, which, span, limit=_PART)
        while True:
            for row in rows:
                yield self.line(by, row)
            if len(rows) < _PART:
                break
            rows = await patiently(partial(self.rows, by, which, span, after=place(rows[-1]), limit=_PART))

    def line(self, by: Sequence[Group], row: Row) -> ReportLine:
        """What a row says."""
        at = row["at"].astimezone(self._zone)
        known: Mapping[Group, Any] = {
            "day": at.date().isoformat(),
            "hour": moment(at),
            "user": row["username"],
            "key": None if row["key_id"] == _NOBODY else UUID(int=row["key_id"].int),
            **{one: row[one] or None for one in ("gateway", "model", "node")},
        }
        groups: Mapping[str, Any] = {one: known[one] if one in by else None for one in GROUPS}
        return ReportLine(**groups, **{name: _rounded(row[name]) for name in SUMS})

    def span(self, first: date | None, last: date | None) -> Span:
        """The hours from `first` to `last`, both included: days, or moments, which are in an hour."""
        return Span(None if first is None else self._start(first), None if last is None else self._end(last))

    def _start(self, one: date) -> datetime:
        return hour_of(one, self._zone) if isinstance(one, datetime) else midnight(one, self._zone)

    def _end(self, one: date) -> datetime:
        if isinstance(one, datetime):
            return one + timedelta(microseconds=1)  # sums stand at the start of their hour
        return midnight(one + timedelta(days=1), self._zone)

    def _asked(self, by: Sequence[Group], which: Which, span: Span) -> tuple[Any, ...]:
        whose = (which.user_id, which.user, which.gateway, which.models, which.key, which.node)
        return (list(by), self._days(span) if "day" in by else (), *whose, *span)

    def _days(self, span: Span) -> Sequence[datetime]:
        """When each day of the span began, which has both ends."""
        assert span.since is not None
        assert span.until is not None
        days = [self._day(span.since, 0)]
        while days[-1] < span.until:
            days.append(self._day(days[-1], 1))
        return days


async def patiently(read: Callable[[], Awaitable[list[Row]]]) -> list[Row]:
    """What `read` gives, tried again for half a minute while it is Unavailable: who has half of a document would have
    to begin again. Raises Unavailable."""
    now = asyncio.get_running_loop().time
    give_up = now() + _PATIENCE_S
    while True:
        try:
            return await read()
        except Unavailable:
            if now() > give_up:
                raise
        await asyncio.sleep(_AGAIN_S)


def place(row: Row) -> Place:
    """Where a row stands in the report."""
    return (
        row["at"].isoformat(),
        row["username"],
        str(row["key_id"]),
        row["gateway"],
        row["model"],
        row["node"],
    )


def midnight(day: date, zone: tzinfo) -> datetime:
    """The start of a day."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def bounds(timezone: tzinfo, days: int, now: datetime | None = None) -> Span:
    """The start of the first and the end of the last of `days` calendar days up to today, in UTC."""
    today = (now or datetime.now(UTC)).astimezone(timezone).date()
    return Span(midnight(today - timedelta(days=days - 1), timezone), midnight(today + timedelta(days=1), timezone))


def hour_of(now: datetime, zone: tzinfo) -> datetime:
    """The start of the hour. Counted back from `now`: the local hour that comes twice in autumn is two hours."""
    local = now.astimezone(zone)
    return now - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


def moment(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def spellings(model: str) -> list[str]:
    """A model with and without the tag that Ollama takes when none is given."""
    bare = model.removesuffix(":latest")
    return [model] if ":" in bare.rpartition("/")[2] else [bare, f"{bare}:latest"]


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
