"""Usage reports on a real PostgreSQL, with the moment passed in."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from plans import relations
from usage_rows import make_row, store

from parallama.db import query
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import NotFound
from parallama.ledger.reports import SUMS, Group, Place, ReportLine, Reports, Span, Which, bounds, place
from parallama.ledger.usage import FIELDS, UsageReports

BERLIN = "Europe/Berlin"
ALICE = Which(user="alice")
ANY, ALWAYS = Which(), Span()
NOON = datetime(2026, 7, 15, 12, 30, tzinfo=UTC)

MANY = """INSERT INTO usage (id, created_at, user_id, username, gateway, operation, estimated, duration_ms, status,
        outcome, streamed, request_bytes, response_bytes)
    SELECT (left(usage_floor($1)::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, $1, gen_random_uuid(), 'alice',
        'ollama', 'chat', false, 1.5, 200, 'ok', true, 10, 20
    FROM generate_series(1, $2::int) AS n"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture
def reports(database: Database) -> UsageReports:
    return UsageReports(database, BERLIN)


async def listed(reports: UsageReports, days: int = 7, now: datetime = NOON, **which: Any) -> list[dict[str, Any]]:
    """The rows of alice's last days."""
    span = bounds(ZoneInfo(BERLIN), days, now)
    return [row async for row in reports.rows(Which(user="Alice", **which), span)]


def window(requests: int, tokens: int) -> dict[str, int | None]:
    return {
        "total_tokens": tokens,
        "total_requests": requests,
        "remaining_tokens": None,
        "remaining_requests": None,
    }


async def test_show_counts_today_and_the_current_hour_by_gateway(reports: UsageReports, database: Database) -> None:
    moments = ("2026-07-14T21:59:59Z", "2026-07-14T22:00:00Z", "2026-07-15T11:59:59Z", "2026-07-15T12:00:00Z")
    await store(database, [make_row(at(moment), prompt_tokens=1, output_tokens=10) for moment in moments])
    unknown = make_row(NOON, gateway="openai", prompt_tokens=None, output_tokens=None)
    await store(database, [unknown, make_row(NOON, username="bob")])
    expected = {
        "ollama": {"today": window(3, 33), "current_hour": window(1, 11)},
        "openai": {"today": window(1, 0), "current_hour": window(1, 0)},
    }
    assert asdict(await reports.show(ALICE, now=NOON)) == {"gateways": expected}
    assert asdict(await reports.show(Which(user="ALICE"), gateway="openai", now=NOON)) == {
        "gateways": {"openai": expected["openai"]}
    }
    nothing = {"today": window(0, 0), "current_hour": window(0, 0)}
    assert asdict(await reports.show(ALICE, gateway="other", now=NOON)) == {"gateways": {"other": nothing}}
    assert asdict(await reports.show(ALICE, now=NOON + timedelta(days=1))) == {"gateways": {}}


@pytest.mark.parametrize(
    ("now", "since", "until"),
    [
        ("2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ("2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ("2026-10-25T23:00:00Z", "2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z"),
    ],
)
async def test_a_day_has_23_or_25_hours_when_the_clock_changes(
    reports: UsageReports, database: Database, now: str, since: str, until: str
) -> None:
    first, last = make_row(at(since)), make_row(at(until) - timedelta(milliseconds=1))
    before, after = make_row(at(since) - timedelta(milliseconds=1)), make_row(at(until))
    await store(database, [before, first, last, after])
    found = await listed(reports, 1, at(now))
    assert [row["id"] for row in found] == [str(first.id), str(last.id)]
    shown = await reports.show(ALICE, now=at(now))
    assert shown.gateways["ollama"].today.total_requests == 2


async def test_the_hour_that_comes_twice_is_two_hours(reports: UsageReports, database: Database) -> None:
    for moment in ("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"):
        await store(database, [make_row(at(moment))])
        shown = await reports.show(ALICE, now=at(moment) + timedelta(minutes=15))
        assert shown.gateways["ollama"].current_hour.total_requests == 1


def test_seven_days_are_today_and_the_six_before_it() -> None:
    since, until = bounds(ZoneInfo(BERLIN), 7, at("2026-03-31T10:00:00Z"))
    assert (since, until) == (at("2026-03-24T23:00:00Z"), at("2026-03-31T22:00:00Z"))


async def test_a_listed_row_has_the_promised_fields_as_json_takes_them(
    reports: UsageReports, database: Database
) -> None:
    row = make_row(at("2026-07-15T10:11:12.345Z"), key_id=uuid4(), ttft_ms=1 / 3, duration_ms=2.0, context_full=True)
    await store(database, [row, make_row(NOON, ttft_ms=None, prompt_tokens=None)])
    first, second = await listed(reports)
    assert tuple(first) == FIELDS
    assert json.loads(json.dumps(first)) == first
    assert (first["id"], first["key_id"]) == (str(row.id), str(row.key_id))
    assert (first["created_at"], first["ttft_ms"]) == ("2026-07-15T10:11:12.345Z", 0.333)
    assert (first["context_full"], first["estimated"]) == (True, False)
    assert (second["ttft_ms"], second["prompt_tokens"], second["key_id"]) == (None, None, None)


async def test_rows_are_listed_by_gateway_and_model_oldest_first(reports: UsageReports, database: Database) -> None:
    rows = [
        make_row(at("2026-07-15T12:00:00Z"), gateway="openai", model_asked="gpt-4", model="qwen3:8b"),
        make_row(at("2026-07-09T00:00:00Z"), model_asked="llama3.2:latest", model="llama3.2:latest"),
        make_row(at("2026-07-14T12:00:00Z"), model_asked="llama3.2", model=None),
        make_row(at("2026-07-08T12:00:00Z")),
    ]
    await store(database, rows)
    openai, oldest, newer, _ = (str(row.id) for row in rows)

    async def found(**which: Any) -> list[str]:
        return [row["id"] for row in await listed(reports, **which)]

    assert await found() == [oldest, newer, openai]
    assert await found(gateway="openai") == [openai]
    for name in ("llama3.2", "llama3.2:latest"):
        assert await found(model=name) == [oldest, newer]
    for name in ("gpt-4", "qwen3:8b"):
        assert await found(model=name) == [openai]
    assert await found(model="qwen3") == []
    assert len(await found(days=8)) == 4


async def test_a_report_totals_by_gateway_and_model(by: Reports, database: Database) -> None:
    refused = {"prompt_tokens": None, "output_tokens": None, "ttft_ms": None, "model": None}
    await store(
        database,
        [
            make_row(NOON, prompt_tokens=1, output_tokens=2, duration_ms=10.0, ttft_ms=1.0),
            make_row(NOON, prompt_tokens=3, output_tokens=4, duration_ms=20.0, ttft_ms=None, outcome="failed"),
            make_row(NOON, outcome="cancelled", duration_ms=30.0, ttft_ms=2.0, output_tokens=None, prompt_tokens=5),
            make_row(NOON, outcome="refused", model_asked="nope", duration_ms=1.0, **refused),
            make_row(NOON, gateway="openai", operation="list", model_asked=None, **refused),
            make_row(at("2026-06-15T12:00:00Z")),
        ],
    )
    whole = bounds(ZoneInfo(BERLIN), 30, NOON)
    openai, llama, nope = sorted(
        await lines(by, "gateway", "model", which=ALICE, span=whole), key=lambda line: line.model or ""
    )
    assert (llama.gateway, llama.model) == ("ollama", "llama3.2")
    assert tuple(getattr(llama, name) for name in SUMS) == (3, 1, 1, 1, 0, 9, 6, 15, 20.0, 1.5)
    assert nope.model == "nope"
    assert tuple(getattr(nope, name) for name in SUMS) == (1, 0, 0, 0, 1, 0, 0, 0, 1.0, None)
    assert (openai.gateway, openai.model, openai.requests) == ("openai", None, 1)


async def test_an_unknown_user_is_an_error_and_a_deleted_one_is_not(reports: UsageReports, database: Database) -> None:
    await database.execute(Query("new", (), "INSERT INTO users (username) VALUES ('idle')"))
    await store(database, [make_row(NOON, username="Gone")])
    assert [row["username"] async for row in await reports.export("gone")] == ["Gone"]
    assert await reports.user_id("gone") is None
    assert await reports.user_id("IDLE") is not None
    for ask in (reports.user_id, reports.export):
        with pytest.raises(NotFound, match="'nobody'"):
            await ask("nobody")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_report_reads_sums_or_only_the_days_it_is_about(database: Database, mode: str) -> None:
    days = [datetime(2026, 7, day, 12, tzinfo=UTC) for day in range(1, 21)]
    await store(database, [make_row(day) for day in days])
    queries = query.load("usage")
    since, until = bounds(UTC, 3, NOON)
    three_days = {"usage_20260713", "usage_20260714", "usage_20260715"}
    asked: dict[Query, tuple[tuple[object, ...], set[str]]] = {
        queries.totals: ((None, "alice", None, since, NOON, until), {"usage_hours"}),
        queries.report: (
            (["user", "day"], [since, until], None, "alice", None, None, None, None, since, until, *[None] * 6, 10),
            {"usage_hours"},
        ),
        queries.rows: ((None, "alice", None, None, None, None, since, until, None, 10), three_days),
    }
    async with database.connection() as one:
        await one.execute(f"SET plan_cache_mode = {mode}")
        for statement, (args, read) in asked.items():
            plan = json.loads(await one.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *args))
            assert relations(plan) == read, statement.name


async def test_an_export_has_every_row_and_holds_few_of_them_in_memory(
    reports: UsageReports, database: Database
) -> None:
    await store(database, [make_row(NOON, username="bob")])
    await database.execute(Query("new", (), "INSERT INTO users (username) VALUES ('alice')"))
    await database.execute(Query("many", (), MANY), NOON, 20_000)
    seen, before = 0, ""
    tracemalloc.start()
    try:
        async with aclosing(await reports.export("alice")) as rows:
            async for row in rows:
                seen += 1
                assert before < row["id"]
                before = row["id"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (seen, tuple(row)) == (20_000, FIELDS)
    assert peak < 8_000_000
    async with aclosing(await reports.export()) as rows:
        names = {row["username"] async for row in rows}
    assert names == {"alice", "bob"}


async def test_an_export_that_is_left_early_frees_its_connection(reports: UsageReports, database: Database) -> None:
    await store(database, [make_row(NOON) for _ in range(1000)])
    async with aclosing(await reports.export()) as rows:
        await anext(rows)
    opened, idle = database.size()
    assert opened == idle


# reports


@pytest.fixture
def by(database: Database) -> Reports:
    return Reports(database, BERLIN)


async def lines(by: Reports, *groups: Any, which: Which = ANY, span: Span = ALWAYS) -> list[ReportLine]:
    async with aclosing(by.lines(groups, which, span)) as found:
        return [line async for line in found]


async def test_a_report_is_by_what_is_asked_for_and_nothing_else(by: Reports, database: Database) -> None:
    key = uuid4()
    await store(
        database,
        [
            make_row(NOON, prompt_tokens=1, output_tokens=2, duration_ms=10.0, ttft_ms=1.0, key_id=key),
            make_row(NOON, prompt_tokens=3, output_tokens=4, duration_ms=20.0, ttft_ms=None, outcome="failed"),
            make_row(NOON, gateway="openai", model="m", node=None, ttft_ms=None),
            make_row(NOON, username="bob"),
        ],
    )
    nothing = dict.fromkeys(("day", "hour", "user", "key", "gateway", "model", "node"))
    alice, openai, bob = await lines(by, "user", "gateway")
    assert alice == ReportLine(
        **{**nothing, "user": "alice", "gateway": "ollama"},
        **{"requests": 2, "ok": 1, "failed": 1, "cancelled": 0, "refused": 0, "prompt_tokens": 4, "output_tokens": 6},
        **{"total_tokens": 10, "mean_duration_ms": 15.0, "mean_ttft_ms": 1.0},
    )
    assert (openai.user, openai.gateway, openai.model, openai.mean_ttft_ms) == ("alice", "openai", None, None)
    assert (bob.user, bob.gateway, bob.requests) == ("bob", "ollama", 1)
    assert [(line.key, line.requests) for line in await lines(by, "key")] == [(None, 3), (key, 1)]
    assert [(line.node, line.requests) for line in await lines(by, "node")] == [(None, 1), ("node-1", 3)]
    assert [(line.model, line.requests) for line in await lines(by, "model")] == [("llama3.2", 3), ("m", 1)]


async def test_days_and_hours_are_those_of_the_time_zone(by: Reports, database: Database) -> None:
    moments = ("2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z")
    await store(database, [make_row(at(one)) for one in (*moments, "2026-10-25T22:59:59Z")], BERLIN)
    assert [(line.day, line.hour, line.requests) for line in await lines(by, "day")] == [
        ("2026-10-24", None, 1),
        ("2026-10-25", None, 4),
    ]
    hours = [line.hour for line in await lines(by, "hour")]
    assert hours[2:4] == ["2026-10-25T00:00:00.000Z", "2026-10-25T01:00:00.000Z"]
    both = await lines(by, "hour", "day")
    assert {line.day for line in both[1:]} == {"2026-10-25"}


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (None, None, [1, 2, 3, 4]),
        (date(2026, 7, 15), None, [2, 3, 4]),
        (None, date(2026, 7, 15), [1, 2, 3]),
        (date(2026, 7, 15), date(2026, 7, 15), [2, 3]),
        (at("2026-07-15T21:30:00+00:00"), None, [3, 4]),
        (None, at("2026-07-14T22:00:00+00:00"), [1, 2]),
        (date(2026, 7, 17), None, []),
    ],
)
async def test_both_ends_of_a_report_are_included(
    by: Reports, database: Database, first: date | None, last: date | None, found: list[int]
) -> None:
    moments = ("2026-07-14T21:59:59Z", "2026-07-14T22:00:00Z", "2026-07-15T21:59:59Z", "2026-07-15T22:00:00Z")
    await store(database, [make_row(at(one), prompt_tokens=n) for n, one in enumerate(moments, 1)], BERLIN)
    spans = by.span(first, last)
    assert [line.prompt_tokens for line in await lines(by, "hour", span=spans)] == found


async def test_both_ends_of_an_export_are_included_to_the_millisecond(
    reports: UsageReports, database: Database
) -> None:
    moments = [at(f"2026-07-15T12:00:00.{ms}Z") for ms in ("000", "001", "002", "003")]
    await store(database, [make_row(one) for one in moments])
    async with aclosing(reports.rows(ANY, reports.span(moments[1], moments[2]))) as rows:
        assert [row["created_at"][-4:] async for row in rows] == ["001Z", "002Z"]
    day = reports.span(date(2026, 7, 15), date(2026, 7, 15))
    assert day == (at("2026-07-14T22:00:00Z"), at("2026-07-15T22:00:00Z"))


async def test_a_report_is_of_what_is_asked_for(by: Reports, database: Database) -> None:
    key, me = uuid4(), uuid4()
    await store(
        database,
        [
            make_row(NOON, key_id=key, prompt_tokens=1),
            make_row(NOON, user_id=me, username="Bob", model="llama3.2:latest", prompt_tokens=2),
            make_row(NOON, gateway="openai", node="other", prompt_tokens=4),
        ],
    )

    async def tokens(**which: Any) -> int:
        return sum(line.prompt_tokens for line in await lines(by, "model", which=Which(**which)))

    assert [await tokens(key=key), await tokens(user="bob"), await tokens(user_id=me)] == [1, 2, 2]
    assert [await tokens(gateway="openai"), await tokens(node="other"), await tokens(model="llama3.2")] == [4, 4, 7]
    assert await tokens(user="bob", gateway="openai") == 0


async def test_the_parts_of_a_report_are_the_whole(by: Reports, database: Database) -> None:
    names = ("bob", "alice", "Åsa", "anna-1", "anna 2")
    await store(
        database, [make_row(NOON, username=name, gateway=one) for name in names for one in ("ollama", "openai")]
    )
    groups: tuple[Group, ...] = ("user", "gateway", "hour")
    found: list[ReportLine] = []
    after: Place | None = None
    for _ in range(4):
        rows = await by.rows(groups, ANY, ALWAYS, after=after, limit=3)
        found += [by.line(groups, row) for row in rows]
        after = place(rows[-1])
    assert len(found) == 10
    assert found == await lines(by, *groups)
    assert await by.rows(groups, ANY, ALWAYS, after=after, limit=3) == []
