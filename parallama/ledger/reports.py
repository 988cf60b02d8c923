"""Reports of what was used, grouped by what is asked for, from sums by the hour (`usage_hours`): whole hours, of the
deployment's time zone. Single rows are not read: those are kept for some days only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database, Row

Group = Literal["user", "key", "gateway", "model", "node", "day", "hour"]
Place = tuple[str, str, str, str, str, str]
"""Where a line stands: hour or start of the day, user, key, gateway, model, node."""

GROUPS: tuple[Group, ...] = ("day", "hour", "user", "key", "gateway", "model", "node")
"""What a report can be by, in the order of its columns."""

_SQL = query.load("usage")
_PART = 10_000
"""Lines that are read at a time: each time all sums are added up."""
_NOBODY = UUID(int=0)
_FIRST: tuple[None, ...] = (None,) * 6


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
    mean_duration_ms: float
    mean_ttft_ms: float | None
    """To the first byte; null: no request had one."""


SUMS = tuple(field.name for field in fields(ReportLine) if field.name not in GROUPS)
"""The keys of a line that every report has."""


class Reports:
    """Lines by what is asked for, in the order of time, user, key, gateway, model and node."""

    def __init__(self, database: Database, timezone: str) -> None:
        """`timezone` is an IANA name."""
        self._database = database
        self._name, self._zone = timezone, ZoneInfo(timezone)

    async def rows(
        self, by: Sequence[Group], which: Which, span: Span, *, after: Place | None = None, limit: int
    ) -> list[Row]:
        """At most `limit` rows, behind the one at `after`: for `line` and `place`."""
        where = _FIRST if after is None else (datetime.fromisoformat(after[0]), after[1], UUID(after[2]), *after[3:])
        return await self._database.fetch(_SQL.report, *self._asked(by, which, span), *where, limit)

    async def lines(self, by: Sequence[Group], which: Which, span: Span) -> AsyncGenerator[ReportLine, None]:
        """All lines, a few thousand in memory. No connection is held while whoever reads them takes their time."""
        after, more = None, True
        while more:
            rows = await self.rows(by, which, span, after=after, limit=_PART)
            for row in rows:
                yield self.line(by, row)
            if more := len(rows) == _PART:
                after = place(rows[-1])

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
        return (list(by), self._name, *whose, *span)


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
