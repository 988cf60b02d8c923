"""What corrects a sum is added to it, for whoever reads the sums: limits, and reports."""

from __future__ import annotations

from uuid import UUID

from usage_rows import make_row, store

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.ledger.reports import Reports, Span, Which
from parallama.ledger.seeds import Seeds
from parallama.ledger.usage import UsageReports
from parallama.limits import Limit, Meter, Period, Scope

USER = UUID(int=1)
TAKEN = Query(
    "taken",
    (),
    """
    INSERT INTO usage_hours (hour, user_id, username, key_id, gateway, model, node, correction, requests, ok, failed,
        cancelled, refused, estimated, prompt_tokens, output_tokens, duration_ms, ttft_ms, ttft_count, asked)
    SELECT hour, user_id, username, key_id, gateway, model, node, 1, -$1::bigint, -$1::bigint, 0, 0, 0, 0, -3, -10,
        -100, -10, -$1::bigint, -$1::bigint
    FROM usage_hours WHERE model = $2
    """,
)


async def taken(database: Database, requests: int, model: str) -> None:
    """So many requests were none, and what one of them used, among the sums of a model."""
    await database.execute(TAKEN, requests, model)


async def test_limits_count_what_is_left(database: Database) -> None:
    await store(database, [make_row(user_id=USER, prompt_tokens=3, output_tokens=10) for _ in range(2)])
    await taken(database, 1, "llama3.2")
    scopes = [Scope("*", None, meter, Period.DAY) for meter in (Meter.REQUESTS, Meter.TOTAL_TOKENS)]
    limits = [Limit(subject=USER, scope=scope, amount=100) for scope in scopes]
    seeded = await Seeds(database, "UTC", {}).of([limit.counter for limit in limits])
    assert [sum(amount for _, amount in seeded[limit.counter]) for limit in limits] == [1, 13]


async def test_reports_say_what_is_left(database: Database) -> None:
    facts = {"user_id": USER, "prompt_tokens": 3, "output_tokens": 10, "duration_ms": 100.0, "ttft_ms": 10.0}
    await store(database, [*(make_row(**facts) for _ in range(2)), make_row(**facts, model="gone")])
    await taken(database, 1, "llama3.2")
    await taken(database, 1, "gone")
    lines = [line async for line in Reports(database, "UTC").lines(["model"], Which(user="alice"), Span())]
    told = {line.model: (line.requests, line.total_tokens, line.mean_duration_ms, line.mean_ttft_ms) for line in lines}
    assert told == {"llama3.2": (1, 13, 100.0, 10.0), "gone": (0, 0, None, None)}
    shown = await UsageReports(database, "UTC").show(Which(user="alice"))
    assert (shown.gateways["ollama"].today.total_requests, shown.gateways["ollama"].today.total_tokens) == (1, 13)
