"""Usage over HTTP: what was used and what remains, reports, and single rows as a stream. `/admin/v1/usage` is about all
users, `/me/usage` about oneself alone.

One's own is what has one's id: a name may have been somebody else's before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Any, Literal, cast, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BeforeValidator, Field

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, Shape, Streamed, place_of
from parallama.admin.guards import KNOWN, needs_any
from parallama.admin.values import Name, moment, page_of
from parallama.db.pool import Database
from parallama.errors import Invalid, NotFound
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.ledger.documents import csv_table, json_array
from parallama.ledger.reports import GROUPS, SUMS, Group, Place, ReportLine, Reports, Which, place
from parallama.ledger.seeds import Seeds
from parallama.ledger.usage import FIELDS, Left, UsageNow, UsageReports, UsageRow
from parallama.ledger.windows import window
from parallama.limits import EVERY, Counter, Period

_OTHERS = needs_any("manage_users", "view_metrics")
_JSON, _CSV = "application/json", "text/csv"
_LINE = (*GROUPS, *SUMS)
_TELLING = (Period.HOUR, Period.DAY)
_BY = "|".join(get_args(Group))


def _day_or_moment(given: object) -> date:
    if not isinstance(given, str):
        raise ValueError("must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
    try:
        one = date.fromisoformat(given) if len(given) == len("2027-01-31") else moment(given)
    except ValueError:
        raise ValueError("must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z") from None
    if not 1971 <= one.year <= 9000:
        raise ValueError("must be in a year from 1971 to 9000")
    return one


End = Annotated[date | AwareDatetime, BeforeValidator(_day_or_moment)]
"""A day of the deployment's time zone, or a moment."""


class Used(Shape):
    """Which usage; what is not named is not asked about."""

    since: Annotated[End | None, Field(alias="from")] = None
    """From then on: a day, or a moment."""
    until: Annotated[End | None, Field(alias="to")] = None
    """Until then, and then too: the whole day; in reports the whole hour."""
    gateway: Name | None = None
    """Of this family."""
    model: Name | None = None
    """Of this model."""
    key: UUID | None = None
    """By the key with this id."""
    node: Name | None = None
    """On this node."""
    format: Literal["json", "csv"] = "json"
    """How the answer is written."""


class UsedBy(Used):
    """The same, and whose."""

    user: Name | None = None
    """Of who had this name then."""


def _groups(given: object) -> object:
    if not isinstance(given, str) or not set(given.split(",")) <= set(GROUPS):
        raise ValueError(f"must be one or more of {', '.join(get_args(Group))}, with commas and no blanks")
    return given


Groups = Annotated[str, Field(pattern=f"^({_BY})(,({_BY}))*$", max_length=100), BeforeValidator(_groups)]
"""What the lines of a report are by."""


class Grouped(Paging, Used):
    """A report to be."""

    group_by: Groups = "gateway,model"
    """What its lines are by: one or more of `user`, `key`, `gateway`, `model`, `node`, `day`, `hour`, with commas."""

    @property
    def by(self) -> tuple[Group, ...]:
        """In the order of the columns."""
        given = self.group_by.split(",")
        return tuple(one for one in GROUPS if one in given)


class GroupedBy(Grouped, UsedBy):
    """The same, of one user or all."""


class Whose(Shape):
    """Whose usage."""

    user: Name | None = None
    """A name; none: of all together."""
    gateway: Name | None = None
    """Only this family; told too where nothing of it was used."""


def usage_operations(database: Database, timezone: str, weights: Mapping[str, float]) -> list[Operation]:
    """Tell what was used now, report, and export. `timezone`: an IANA name; `weights`: as `limits.weights`."""
    on = partial(Operation, tag="usage", method="GET")
    usage = _Usage(database, timezone, weights)
    now = partial(on, answer=UsageNow, errors=(NotFound,))
    report = partial(on, answer=Page[ReportLine], streams=(_CSV,), errors=(NotFound,))
    export = partial(on, answer=list[UsageRow], streams=(_CSV,), errors=(NotFound,))
    return [
        now(name="get_usage", path=f"{PREFIX}/usage", summary="Today and this hour of a user, or of all together.",
            guard=_OTHERS, run=usage.now, query=Whose),
        now(name="get_my_usage", path="/me/usage", summary="Today and this hour of oneself, and what remains.",
            guard=KNOWN, run=usage.own),
        report(name="report_usage", path=f"{PREFIX}/usage/report", summary="Totals by what is asked for.",
               guard=_OTHERS, run=usage.report, query=GroupedBy),
        report(name="report_my_usage", path="/me/usage/report", summary="The same of oneself.",
               guard=KNOWN, run=usage.report, query=Grouped),
        export(name="export_usage", path=f"{PREFIX}/usage/export", summary="Single requests, oldest first, every one.",
               guard=_OTHERS, run=usage.export, query=UsedBy),
        export(name="export_my_usage", path="/me/usage/export", summary="The same of oneself.",
               guard=KNOWN, run=usage.export, query=Used),
    ]  # fmt: skip


class _Usage:
    def __init__(self, database: Database, timezone: str, weights: Mapping[str, float]) -> None:
        self._database, self._zone = database, ZoneInfo(timezone)
        self._usage, self._reports = UsageReports(database, timezone), Reports(database, timezone)
        self._seeds = Seeds(database, timezone, weights)

    async def now(self, call: Call) -> UsageNow:
        asked: Whose = call.query
        if asked.user is None:
            return await self._usage.show(Which(), gateway=asked.gateway)
        user_id = await self._usage.user_id(asked.user)
        if user_id is None:
            return await self._usage.show(Which(user=asked.user), gateway=asked.gateway)
        return await self._of(user_id, asked.gateway)

    async def own(self, call: Call) -> UsageNow:
        return await self._of(_own(call))

    async def _of(self, user_id: UUID, gateway: str | None = None) -> UsageNow:
        left = await self._left(user_id)
        together = gateway is None and any(scope.gateway == EVERY for scope in left)
        every = await Limits(self._database).gateways(user_id) if together else ()
        return await self._usage.show(Which(user_id=user_id), left, gateway, every=every)

    async def _left(self, user_id: UUID) -> Left:
        """What the user's limits leave; none is below 0."""
        records = await Limits(self._database).effective(Subject(user=str(user_id)))
        amounts = {Counter(user_id, one.scope): one.amount for one in records if one.scope.period in _TELLING}
        now = datetime.now(UTC).timestamp()
        starts = {period: window(period, now, self._zone).start for period in _TELLING}
        used = await self._seeds.of(amounts) if amounts else {}
        return {
            one.scope: max(0, amount - sum(some for at, some in used[one] if at >= starts[one.scope.period]))
            for one, amount in amounts.items()
        }

    async def report(self, call: Call) -> Page[ReportLine] | Streamed:
        query: Grouped = call.query
        which, by = await self._which(call), query.by
        span = self._reports.span(query.since, query.until)
        if query.format == "csv":
            lines = self._reports.lines(by, which, span)
            return Streamed(_CSV, csv_table((*by, *SUMS), _documents(lines)), "usage.csv")
        rows = await self._reports.rows(by, which, span, after=_after(query.cursor), limit=query.limit + 1)
        page = page_of(rows, query, place)
        return Page([self._reports.line(by, row) for row in page.items], page.next_cursor)

    async def export(self, call: Call) -> Streamed:
        query: Used = call.query
        rows = self._usage.rows(await self._which(call), self._usage.span(query.since, query.until))
        if query.format == "csv":
            return Streamed(_CSV, csv_table(FIELDS, rows), "usage.csv")
        return Streamed(_JSON, json_array(rows), "usage.json")

    async def _which(self, call: Call) -> Which:
        query: Used = call.query
        filters = query.model_dump(include={"gateway", "model", "key", "node"})
        if not isinstance(query, UsedBy):
            return Which(user_id=_own(call), **filters)
        if query.user is not None:
            await self._usage.user_id(query.user)
        return Which(user=query.user, **filters)


async def _documents(lines: AsyncGenerator[ReportLine, None]) -> AsyncGenerator[dict[str, Any], None]:
    async for line in lines:
        yield {name: getattr(line, name) for name in _LINE}


def _own(call: Call) -> UUID:
    assert call.caller is not None  # none of these operations is public
    return call.caller.user_id


def _after(cursor: str | None) -> Place | None:
    """Raises Invalid for what is the place of no line."""
    found = place_of(cursor, *[str] * 6)
    if found is None:
        return None
    try:
        moment(found[0]), UUID(found[2])
        if "\0" in "".join(found):
            raise ValueError
    except ValueError:
        raise Invalid("cursor is none of this list: leave it out to begin again", param="cursor") from None
    return cast("Place", found)
