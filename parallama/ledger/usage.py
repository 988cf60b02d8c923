"""What a user used: today and this hour with what remains, and single rows (`usage`).

Days and hours are those of the deployment's time zone. Values come out as JSON takes them: times as RFC 3339
in UTC, UUIDs as text, milliseconds to three decimals, None where unknown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database
from parallama.errors import NotFound
from parallama.ledger.reports import Span, Which, bounds, hour_of, midnight, moment, patiently
from parallama.limits import EVERY, Meter, Period, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One request."""

    id: UUID
    """The `x-request-id` of its answer."""
    created_at: datetime
    username: str
    """At that time."""
    key_id: UUID | None
    """Null: an access token."""
    gateway: str
    operation: str
    model_asked: str | None
    model: str | None
    """The one served."""
    node: str | None
    """Null: none was asked."""
    prompt_tokens: int | None
    output_tokens: int | None
    estimated: bool
    """Whether the node did not say how many tokens there were."""
    ttft_ms: float | None
    """To the first byte."""
    duration_ms: float
    status: int
    """Of the answer."""
    outcome: str
    """`ok`, `failed`, `cancelled` or `refused`."""
    error: str | None
    streamed: bool
    request_bytes: int
    response_bytes: int
    context_full: bool | None
    """Whether the node cut the prompt or the answer; null: it is not known."""


FIELDS = tuple(field.name for field in fields(UsageRow))
"""The keys of a row, in order."""

Line = dict[str, Any]
Left = Mapping[Scope, int]
"""What limits leave, by what they count."""

_queries = query.load("usage")
_PART = 500
"""Rows of an export that are read at a time."""
_PART_S = 60.0
"""Longest time for that: they may lie far between others."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used in a time, and what remains of it."""

    total_tokens: int
    total_requests: int
    remaining_tokens: int | None
    """What the limits for all models leave, the gateway's own and those of all gateways; null: there are none."""
    remaining_requests: int | None
    """The same."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times that are told of."""

    today: Spent
    current_hour: Spent


@dataclass(frozen=True, slots=True)
class UsageNow:
    """What was used now."""

    gateways: Mapping[str, Times]
    """By name: those used today, those that have limits of their own, and all that the user may use if limits are of
    all together."""


class UsageReports:
    """What was used. Methods that take a name raise NotFound for one that neither a user nor any row has."""

    def __init__(self, database: Database, timezone: str) -> None:
        """`timezone` is an IANA name."""
        self._database = database
        self._timezone = ZoneInfo(timezone)

    async def show(
        self,
        whose: Which,
        left: Left | None = None,
        gateway: str | None = None,
        *,
        every: Collection[str] = (),
        now: datetime | None = None,
    ) -> UsageNow:
        """Today and the current hour of every gateway used today or in `left`, where `*` stands for `every`, or of
        `gateway`."""
        left = left or {}
        day, hour, until = _now(self._timezone, now)
        rows = await self._database.fetch(_queries.totals, whose.user_id, whose.user, gateway, day, hour, until)
        named = {scope.gateway for scope in left} if gateway is None else {gateway}
        named = named - {EVERY} | set(every) if EVERY in named else named
        found = dict.fromkeys(sorted(named), (0, 0, 0, 0)) | {name: tuple(counts) for name, *counts in rows}
        return UsageNow({name: _times(*counts, left=_left(left, name)) for name, counts in found.items()})

    async def export(self, username: str | None = None) -> AsyncGenerator[Line, None]:
        """An iterator over every row (keys: FIELDS) of a user or, for None, of all; oldest first.

        No more than a few hundred rows are in memory.
        """
        if username is not None:
            await self.user_id(username)
        return self.rows(Which(user=username), Span())

    async def rows(self, which: Which, span: Span) -> AsyncGenerator[Line, None]:
        """The same of what is asked for. No connection is held while whoever reads them takes their time."""
        whose = (which.user_id, which.user, which.gateway, which.models, which.key, which.node)
        part = partial(self._database.fetch, _queries.rows, *whose, *span, limit_s=_PART_S)
        rows = await part(None, _PART)
        while True:
            for row in rows:
                yield document(row.items())
            if len(rows) < _PART:
                break
            rows = await patiently(partial(part, rows[-1]["id"], _PART))

    def span(self, first: date | None, last: date | None) -> Span:
        """From `first` to `last`, both included: days or moments, the last for its whole millisecond."""
        return Span(*(None if one is None else self._bound(one, end) for one, end in ((first, False), (last, True))))

    def _bound(self, one: date, end: bool) -> datetime:
        if isinstance(one, datetime):
            return one + timedelta(milliseconds=end)
        return midnight(one + timedelta(days=end), self._timezone)

    async def user_id(self, username: str) -> UUID | None:
        """Of the user with that name now; None: of a deleted one only rows are left."""
        row = await self._database.fetchrow(_queries.known, username)
        if row is None or not row["known"]:
            raise NotFound(f"there is no user {username!r}")
        return None if row["id"] is None else UUID(int=row["id"].int)


def _now(timezone: tzinfo, now: datetime | None) -> tuple[datetime | None, datetime, datetime | None]:
    """The start of today, the start of this hour, and the end of today."""
    now = now or datetime.now(UTC)
    day, until = bounds(timezone, 1, now)
    return day, hour_of(now, timezone), until


def _left(left: Left, gateway: str) -> Mapping[tuple[Period, Meter], int]:
    """The least that any limit of the gateway, or of all, leaves."""
    found: dict[tuple[Period, Meter], int] = {}
    for (limited, model, meter, period), amount in left.items():
        if model is None and limited in (gateway, EVERY):
            found[period, meter] = min(amount, found.get((period, meter), amount))
    return found


def _times(
    day_requests: int,
    day_tokens: int,
    hour_requests: int,
    hour_tokens: int,
    *,
    left: Mapping[tuple[Period, Meter], int],
) -> Times:
    def spent(period: Period, tokens: int, requests: int) -> Spent:
        return Spent(tokens, requests, left.get((period, Meter.TOTAL_TOKENS)), left.get((period, Meter.REQUESTS)))

    return Times(spent(Period.DAY, day_tokens, day_requests), spent(Period.HOUR, hour_tokens, hour_requests))


def document(row: Iterable[tuple[str, Any]]) -> Line:
    """The fields of a row as JSON takes them."""
    return {key: _plain(value) for key, value in row}


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, datetime):
        return moment(value)
    return str(value) if isinstance(value, UUID) else value
