"""How long reports take where much was used: `python -m bench.usage_rows [--rows N]`, 10 million of 30 days by default.

A PostgreSQL of its own, as quickstart starts it, is filled; then every report is asked for as commands and the API ask,
but without HTTP. Prints the median and the worst of seven, and ends with 1 where one takes longer than is promised.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

from bench import usage_fill
from parallama.admin.api import Call, Page, Streamed, cursor_of, serialized, validated
from parallama.admin.usage import usage_operations
from parallama.config import DatabaseSettings
from parallama.db import query
from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.pool import Database
from parallama.exchange import Caller
from parallama.identity.actor import operator
from parallama.ledger.reports import GROUPS
from parallama.ledger.seeds import Seeds
from parallama.limits import EVERY, Counter, Meter, Period, Scope

_DAYS = 30
_TIMES = 7
_PROMISED_S = 0.3
_PATIENT = DatabaseSettings(command_s=60)
_SQL = query.load("usage")
_FINEST = "hour,user,key,gateway,model,node"
_SOMEBODY = 7
_PEOPLE = "INSERT INTO users (id, username) SELECT * FROM unnest($1::uuid[], $2::text[])"
_LIMITS = """INSERT INTO limits (user_id, gateway, meter, period, amount)
    SELECT $1, '*', meter, period, 1000000000
    FROM unnest(ARRAY['requests', 'total_tokens']) meter, unnest(ARRAY['hour', 'day', 'month']) period"""

Work = Callable[[], Awaitable[Any]]


class Took(NamedTuple):
    """A line of the table."""

    what: str
    lines: int | None
    """Of the report; None: it has none."""
    median_ms: float
    worst_ms: float


class Asked:
    """All that is asked for."""

    def __init__(self, database: Database, zone: str = "UTC") -> None:
        self._operations = {one.name: one for one in usage_operations(database, zone, {})}
        self._seeds, self._database = Seeds(database, zone, {}), database
        self._since = (datetime.now(UTC) - timedelta(days=29)).date().isoformat()
        self._name = usage_fill.username(_SOMEBODY)

    def works(self, until: datetime) -> Mapping[str, Work]:
        """By what it is called in the table."""
        report = partial(self._run, "report_usage", limit=1000)
        return {
            "usage show": partial(self._run, "get_usage", user=self._name),
            "/me/usage, with limits": partial(self._run, "get_my_usage"),
            "/admin/v1/usage, of all": partial(self._run, "get_usage"),
            "usage summary": partial(report, user=self._name, group_by="gateway,model", **{"from": self._since}),
            **{f"usage report by {one}": partial(report, group_by=one) for one in GROUPS},
            "usage report by all, first page": partial(report, group_by=_FINEST),
            "usage report by all, a page in the middle": partial(self._behind, until - timedelta(days=_DAYS / 2)),
            "usage report by all, last page": partial(self._behind, until - timedelta(hours=1)),
            "usage report by day, user, key": partial(report, group_by="day,user,key"),
            "usage report by user, key, gateway, model, node": partial(report, group_by=_FINEST.partition(",")[2]),
            "/me/usage/report by gateway, model": partial(self._run, "report_my_usage"),
            "sums for limits of a month": self._sums,
            "a part of an export": self._part,
        }

    async def _behind(self, at: datetime) -> Any:
        """The page that begins with an hour."""
        cursor = cursor_of(at.isoformat(), "", str(UUID(int=0)), "", "", "")
        return await self._run("report_usage", group_by=_FINEST, limit=1000, cursor=cursor)

    async def _run(self, name: str, **query: Any) -> Any:
        operation = self._operations[name]
        given = None if operation.query is None else validated(operation.query, query)
        caller = Caller(user_id=usage_fill.user_id(_SOMEBODY), username=self._name, key_id=None, admin=False)
        call = Call(actor=operator(), caller=caller, path={}, query=given, body=None, version=None)
        answer = await operation.run(call)
        serialized(answer)
        return answer

    async def _sums(self) -> None:
        subjects = usage_fill.user_id(_SOMEBODY), usage_fill.key_id(2 * _SOMEBODY)
        scopes = [Scope(EVERY, None, meter, period) for meter in (Meter.REQUESTS, Meter.TOTAL_TOKENS)
                  for period in (Period.MINUTE, Period.HOUR, Period.DAY, Period.MONTH)]  # fmt: skip
        await self._seeds.of([Counter(subject, scope) for subject in subjects for scope in scopes])

    async def _part(self) -> list[Any]:
        return await self._database.fetch(_SQL.rows, None, self._name, *[None] * 7, 500)

    async def whole(self) -> tuple[int, float]:
        """Bytes of the finest report as CSV, and seconds."""
        operation = self._operations["report_usage"]
        began, size = time.perf_counter(), 0
        given = validated(operation.query, {"group_by": _FINEST, "format": "csv"}) if operation.query else None
        call = Call(actor=operator(), caller=None, path={}, query=given, body=None, version=None)
        answer: Streamed = await operation.run(call)
        async for part in answer.parts:
            size += len(part)
        return size, time.perf_counter() - began


async def _timed(what: str, work: Work) -> Took:
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        answer = await work()
        seconds.append(time.perf_counter() - began)
    lines = answer.items if isinstance(answer, Page) else answer
    return Took(what, len(lines) if isinstance(lines, list) else None, 1000 * median(seconds), 1000 * max(seconds))


async def _forgotten(database: Database, until: datetime) -> Took:
    """A day dropped by retention, seven times another one."""
    days = iter(until - timedelta(days=_DAYS - number) for number in range(1, 1 + _TIMES))

    async def work() -> None:
        row = await database.fetchrow(_SQL.forget, next(days))
        assert row is not None
        assert row["dropped"] == 1, "there is no such day"

    return await _timed("a day dropped", work)


@asynccontextmanager
async def _filled(rows: int, until: datetime) -> AsyncIterator[Database]:
    with _directory() as directory:
        async with embedded(directory / "data") as url:
            await migrate(url)
            async with Database(url, _PATIENT).running() as database:
                await usage_fill.fill(database, rows, _DAYS, until)
                await add_people(database)
                yield database


@contextmanager
def _directory() -> Iterator[Path]:
    # PostgreSQL may run as another user, who must reach it whatever TMPDIR says
    with TemporaryDirectory(prefix="pl-rows-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


async def add_people(database: Database) -> None:
    """The users whose rows there are, and the limits of one; then tidy up, as PostgreSQL does by itself in time."""
    numbers = range(usage_fill.USERS)
    async with database.connection(limit_s=600) as one:
        await one.execute(_PEOPLE, [*map(usage_fill.user_id, numbers)], [*map(usage_fill.username, numbers)])
        await one.execute(_LIMITS, usage_fill.user_id(_SOMEBODY))
        await one.execute("VACUUM ANALYZE", timeout=600)


async def _bench(rows: int) -> Sequence[Took]:
    now = datetime.now(UTC)
    until = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    began = time.perf_counter()
    async with _filled(rows, until) as database:
        sums = await database.fetch(query.Query("sums", (), "SELECT count(*) FROM usage_hours"))
        _say(f"{rows:,} rows, {sums[0][0]:,} sums by the hour, made in {time.perf_counter() - began:.0f} s")
        return await _measured(database, until)


async def _measured(database: Database, until: datetime) -> list[Took]:
    asked = Asked(database)
    found = []
    for what, work in asked.works(until).items():
        found.append(await _timed(what, work))
        _say(_line(found[-1]))
    size, seconds = await asked.whole()
    _say(f"The whole report by all as CSV: {size / 1e6:.0f} MB in {seconds:.1f} s")
    found.append(await _forgotten(database, until))
    _say(_line(found[-1]))
    return found


def _line(took: Took) -> str:
    lines = "" if took.lines is None else str(took.lines)
    return f"| {took.what} | {lines} | {took.median_ms:.1f} | {took.worst_ms:.1f} |"


def _say(what: str) -> None:
    print(what, flush=True)


def main() -> None:
    """Fill, measure, print; exit code 1 where a report took longer than is promised."""
    parser = argparse.ArgumentParser(prog="python -m bench.usage_rows", description="Reports of many rows.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of usage (default: 10 million)")
    found = asyncio.run(_bench(parser.parse_args().rows))
    slow = [one.what for one in found if one.median_ms > 1000 * _PROMISED_S]
    if slow:
        sys.exit(f"slower than {1000 * _PROMISED_S:.0f} ms: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
