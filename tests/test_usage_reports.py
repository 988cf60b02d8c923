"""Usage reports on a real PostgreSQL, with the moment passed in."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from usage_rows import make_row, store

from parallama.db import query
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import NotFound
from parallama.ledger.usage import FIELDS, TOTALS, UsageReports, bounds

BERLIN = "Europe/Berlin"
NOON = datetime(2026, 7, 15, 12, 30, tzinfo=UTC)

MANY = """INSERT INTO usage (id, created_at, user_id, username, gateway, operation, estimated, duration_ms, status,
        outcome, streamed, request_bytes, response_bytes)
    SELECT (left(usage_floor($1)::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, $1, gen_random_uuid(), 'alice',
        'ollama', 'chat', false, 1.5, 200, 'ok', true, 10, 20
    FROM generate_series(1, $2::int) AS n"""


@pytest.fixture
def reports(database: Database) -> UsageReports:
    return UsageReports(database, BERLIN)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


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
    assert await reports.show("alice", now=NOON) == {"gateways": expected}
    assert await reports.show("ALICE", "openai", now=NOON) == {"gateways": {"openai": expected["openai"]}}
    nothing = {"today": window(0, 0), "current_hour": window(0, 0)}
    assert await reports.show("alice", "other", now=NOON) == {"gateways": {"other": nothing}}
    assert await reports.show("alice", now=NOON + timedelta(days=1)) == {"gateways": {}}


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
    listed = await reports.list("alice", days=1, now=at(now))
    assert [row["id"] for row in listed] == [str(first.id), str(last.id)]
    shown = await reports.show("alice", now=at(now))
    assert shown["gateways"]["ollama"]["today"]["total_requests"] == 2


async def test_the_hour_that_comes_twice_is_two_hours(reports: UsageReports, database: Database) -> None:
    for moment in ("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"):
        await store(database, [make_row(at(moment))])
        shown = await reports.show("alice", now=at(moment) + timedelta(minutes=15))
        assert shown["gateways"]["ollama"]["current_hour"]["total_requests"] == 1


def test_seven_days_are_today_and_the_six_before_it() -> None:
    since, until = bounds(ZoneInfo(BERLIN), 7, at("2026-03-31T10:00:00Z"))
    assert (since, until) == (at("2026-03-24T23:00:00Z"), at("2026-03-31T22:00:00Z"))


async def test_a_listed_row_has_the_promised_fields_as_json_takes_them(
    reports: UsageReports, database: Database
) -> None:
    row = make_row(at("2026-07-15T10:11:12.345Z"), key_id=uuid4(), ttft_ms=1 / 3, duration_ms=2.0, context_full=True)
    await store(database, [row, make_row(NOON, ttft_ms=None, prompt_tokens=None)])
    first, second = await reports.list("alice", now=NOON)
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

    async def listed(**filters: Any) -> list[str]:
        return [row["id"] for row in await reports.list("Alice", now=NOON, **filters)]

    assert await listed() == [oldest, newer, openai]
    assert await listed(gateway="openai") == [openai]
    for name in ("llama3.2", "llama3.2:latest"):
        assert await listed(model=name) == [oldest, newer]
    for name in ("gpt-4", "qwen3:8b"):
        assert await listed(model=name) == [openai]
    assert await listed(model="qwen3") == []
    assert len(await listed(days=8)) == 4


async def test_the_summary_totals_by_gateway_and_model(reports: UsageReports, database: Database) -> None:
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
    llama, nope, openai = await reports.summary("alice", now=NOON)
    assert tuple(llama) == TOTALS
    assert tuple(llama.values()) == ("ollama", "llama3.2", 3, 1, 1, 1, 0, 9, 6, 15, 20.0, 1.5)
    assert tuple(nope.values()) == ("ollama", "nope", 1, 0, 0, 0, 1, 0, 0, 0, 1.0, None)
    assert (openai["gateway"], openai["model"], openai["requests"]) == ("openai", None, 1)
    assert await reports.summary("alice", "openai", now=NOON) == [openai]
    assert (await reports.summary("alice", days=31, now=NOON))[0]["requests"] == 4


async def test_an_unknown_user_is_an_error_and_a_deleted_one_is_not(reports: UsageReports, database: Database) -> None:
    await database.execute(Query("new", (), "INSERT INTO users (username) VALUES ('idle')"))
    await store(database, [make_row(NOON, username="Gone")])
    assert len(await reports.list("gone", now=NOON)) == 1
    assert await reports.list("idle") == []
    assert await reports.summary("IDLE") == []
    for ask in (reports.show, reports.list, reports.summary, reports.export):
        with pytest.raises(NotFound, match="'nobody'"):
            await ask("nobody")


def relations(plan: Any) -> set[str]:
    """The tables that a plan reads."""
    if isinstance(plan, list):
        return set().union(*map(relations, plan))
    if not isinstance(plan, dict):
        return set()
    here = {plan["Relation Name"]} if "Relation Name" in plan else set()
    return here.union(*map(relations, plan.values()))


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_report_reads_sums_or_only_the_days_it_is_about(database: Database, mode: str) -> None:
    days = [datetime(2026, 7, day, 12, tzinfo=UTC) for day in range(1, 21)]
    await store(database, [make_row(day) for day in days])
    queries = query.load("usage")
    since, until = bounds(UTC, 3, NOON)
    three_days = {"usage_20260713", "usage_20260714", "usage_20260715"}
    asked: dict[Query, tuple[tuple[object, ...], set[str]]] = {
        queries.totals: (("alice", None, since, NOON, until), {"usage_hours"}),
        queries.list: (("alice", None, None, since, until), three_days),
        queries.summary: (("alice", None, since, until), {"usage_hours"}),
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
    await database.execute(Query("many", (), MANY), NOON, 100_000)
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
    assert (seen, tuple(row)) == (100_000, FIELDS)
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
