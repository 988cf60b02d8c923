"""Usage over HTTP: what was used and what remains, reports and exports, of all and of oneself."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from admin_api import Api, api, in_one_loop
from commands import Commands, at_server
from running import early_in_an_hour
from usage_rows import eventually, made_at, make_row, store

from parallama import AsyncParallamaClient
from parallama.exchange import UsageRecord
from parallama.ledger.reports import ReportLine
from parallama.ledger.usage import FIELDS

__all__ = ["api"]
pytestmark = in_one_loop

NONE = {"total_tokens": 0, "total_requests": 0, "remaining_tokens": None, "remaining_requests": None}
MANY = """INSERT INTO usage (id, created_at, user_id, username, gateway, operation, estimated, duration_ms, status,
        outcome, streamed, request_bytes, response_bytes, error)
    SELECT (left(usage_floor(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, now(), gen_random_uuid(), $1,
        'ollama', 'chat', false, 1.5, 200, 'ok', true, 10, 20, repeat('x', 5000)
    FROM generate_series(1, $2::int) AS n"""
"""50 MB: more than sockets hold."""
SUMS = """INSERT INTO usage_hours (hour, user_id, username, key_id, gateway, model, node, requests, ok, failed,
        cancelled, refused, estimated, prompt_tokens, output_tokens, duration_ms, ttft_ms, ttft_count)
    SELECT usage_hour(now(), 'UTC'), gen_random_uuid(), $1, gen_random_uuid(), 'ollama', n || repeat('x', 1000), 'n',
        1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1
    FROM generate_series(1, $2::int) AS n"""
"""25 MB of a report of 25,000 lines."""
STREAMING = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"""


async def id_of(api: Api, name: str) -> UUID:
    return UUID((await api.done("GET", f"users/{name}"))["id"])


async def used(api: Api, name: str, *rows: dict[str, Any], at: datetime | None = None) -> list[UsageRecord]:
    """Rows of a user that there is."""
    whose = {"user_id": await id_of(api, name), "username": name}
    made = [make_row(at, **{**whose, **row}) for row in rows]
    await store(api.gateway.database, made)
    return made


async def limited(api: Api, name: str, meter: str, period: str, amount: int, **more: Any) -> None:
    await api.done("POST", "limits", {"user": name, "meter": meter, "period": period, "amount": amount, **more})


async def text(api: Api, path: str, key: str | None = None) -> tuple[str, str]:
    """The type and the text of a good answer."""
    headers = {"Authorization": f"Bearer {api.root if key is None else key}"}
    async with api.gateway.http.get(api.gateway.url + path, headers=headers) as answer:
        assert answer.status == 200
        return answer.headers["Content-Type"], await answer.text()


def table(document: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(document, newline="")))


# what was used now


async def test_a_user_learns_what_they_used_and_what_remains(api: Api) -> None:
    await early_in_an_hour()
    key = await api.user("ann")
    await used(api, "ann", {"prompt_tokens": 10, "output_tokens": 5}, {"gateway": "openai"})
    await limited(api, "ann", "total_tokens", "day", 1000)
    await limited(api, "ann", "total_tokens", "day", 100, gateway="ollama")
    await limited(api, "ann", "requests", "hour", 1)
    await limited(api, "ann", "requests", "day", 0, gateway="openai", model="qwen3:*")
    shown = await api.done("GET", "/me/usage", key=key)
    ollama = {"total_tokens": 15, "total_requests": 1}
    openai = {"total_tokens": 324, "total_requests": 1}
    assert shown == {
        "gateways": {
            "ollama": {
                "today": {**ollama, "remaining_tokens": 85, "remaining_requests": None},
                "current_hour": {**ollama, "remaining_tokens": None, "remaining_requests": 0},
            },
            "openai": {
                "today": {**openai, "remaining_tokens": 661, "remaining_requests": None},
                "current_hour": {**openai, "remaining_tokens": None, "remaining_requests": 0},
            },
        }
    }
    assert await api.done("GET", "usage?user=ANN") == shown
    only = await api.done("GET", "usage?user=ann&gateway=openai")
    assert only == {"gateways": {"openai": shown["gateways"]["openai"]}}


async def test_a_gateway_with_a_limit_is_told_of_before_it_is_used(api: Api) -> None:
    key = await api.user("new")
    assert await api.done("GET", "/me/usage", key=key) == {"gateways": {}}
    await limited(api, "new", "requests", "day", 7, gateway="ollama")
    await limited(api, "new", "output_tokens", "day", 3, gateway="ollama")
    shown = await api.done("GET", "/me/usage", key=key)
    assert shown == {"gateways": {"ollama": {"today": {**NONE, "remaining_requests": 7}, "current_hour": NONE}}}


async def test_a_limit_of_all_gateways_is_told_of_each_that_the_user_may_use(api: Api) -> None:
    key = await api.user("eve")
    await limited(api, "eve", "requests", "day", 7)
    left = {"today": {**NONE, "remaining_requests": 7}, "current_hour": NONE}
    assert await api.done("GET", "/me/usage", key=key) == {"gateways": {"ollama": left}}
    await api.done("POST", "users/eve/roles", {"role": "premium"})
    shown = await api.done("GET", "usage?user=eve")
    assert shown["gateways"]["ollama"] == shown["gateways"]["openai"] == left
    assert await api.done("GET", "usage?user=eve&gateway=ollama") == {"gateways": {"ollama": left}}


async def test_what_was_used_and_what_remains_are_the_limit(api: Api) -> None:
    key = await api.user("ref")
    nothing = {"prompt_tokens": None, "output_tokens": None}
    refused = {"node": None, "outcome": "refused", "status": 429, **nothing}
    await used(api, "ref", {}, {"outcome": "failed", **nothing}, refused, refused, {"operation": "list", **nothing})
    await limited(api, "ref", "requests", "day", 5)
    today = (await api.done("GET", "/me/usage", key=key))["gateways"]["ollama"]["today"]
    assert (today["total_requests"], today["remaining_requests"]) == (2, 3)
    (line,) = (await api.done("GET", "/me/usage/report?group_by=gateway", key=key))["items"]
    assert (line["requests"], line["refused"]) == (5, 2)


async def test_limits_of_roles_leave_something_too(api: Api) -> None:
    await api.done("POST", "roles", {"name": "few", "parent": "basic"})
    key = await api.user("ron", role="few")
    await api.done("POST", "limits", {"role": "few", "meter": "requests", "period": "day", "amount": 5})
    await used(api, "ron", {}, {})
    today = (await api.done("GET", "/me/usage", key=key))["gateways"]["ollama"]["today"]
    assert today["remaining_requests"] == 3


async def test_a_deleted_user_is_told_of_by_name_and_another_of_that_name_is_not_them(api: Api) -> None:
    await api.user("ghost")
    await used(api, "ghost", {"prompt_tokens": 1, "output_tokens": 1})
    await api.done("DELETE", "users/ghost")
    gone = await api.done("GET", "usage?user=ghost")
    assert gone["gateways"]["ollama"]["today"]["total_tokens"] == 2
    key = await api.user("ghost")
    assert await api.done("GET", "/me/usage", key=key) == {"gateways": {}}
    assert (await api.done("GET", "/me/usage/report?group_by=gateway", key=key))["items"] == []
    assert await api.done("GET", "/me/usage/export", key=key) == []
    assert (await api("GET", "usage?user=never")).status == 404


# who may see what


@pytest.mark.parametrize("path", ["usage", "usage/report?group_by=user", "usage/export"])
async def test_usage_of_all_is_for_those_who_look_after_users_or_figures(api: Api, path: str) -> None:
    name = f"see-{path[5:10].strip('/') or 'now'}"
    await api.done("POST", "roles", {"name": name, "parent": "basic", "permissions": ["view_metrics"]})
    assert (await api("GET", path, key=await api.user(f"{name}-1"))).status == 403
    assert (await api("GET", path, key=await api.user(f"{name}-2", role=name))).status == 200


async def test_users_see_only_what_is_their_own(api: Api) -> None:
    mine, _ = await api.user("mine"), await api.user("theirs")
    (row,) = await used(api, "mine", {"model": "m"})
    await used(api, "theirs", {"key_id": uuid4()})
    (line,) = (await api.done("GET", "/me/usage/report?group_by=user,model", key=mine))["items"]
    assert (line["user"], line["model"], line["requests"]) == ("mine", "m", 1)
    assert [one["id"] for one in await api.done("GET", "/me/usage/export", key=mine)] == [str(row.id)]
    assert [one["id"] for one in table((await text(api, "/me/usage/export?format=csv", mine))[1])] == [str(row.id)]
    for path in ("usage/report?group_by=user&user=theirs", "usage/export?user=theirs", "usage?user=theirs"):
        assert (await api("GET", f"/me/{path}", key=mine)).status == 422


async def test_a_limited_key_sees_the_usage_of_its_user(api: Api) -> None:
    await api.user("lim")
    made = await api.done("POST", "users/lim/keys", {"models": ["qwen3*"], "expires_in_days": 1})
    for path in ("usage", "usage/report?group_by=day", "usage/export"):
        assert (await api("GET", f"/me/{path}", key=made["key"])).status == 200


# reports and exports


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rows(api: Api) -> list[UsageRecord]:
    """Of rep, on three days of 2026."""
    await api.user("rep")
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    made: list[UsageRecord] = []
    for day in range(3):
        made += await used(api, "rep", {"model": f"m{day}", "error": 'x,"y"'}, at=noon + timedelta(days=day))
    return made


async def test_a_report_comes_in_parts_or_whole_as_csv(api: Api, rows: list[UsageRecord]) -> None:
    path = "usage/report?group_by=model,day&user=rep"
    items = await api.everything(path, 2)
    assert [(line["day"], line["model"], line["requests"]) for line in items] == [
        ("2026-03-01", "m0", 1),
        ("2026-03-02", "m1", 1),
        ("2026-03-03", "m2", 1),
    ]
    assert all(line[name] is None for line in items for name in ("hour", "user", "key", "gateway", "node"))
    media, document = await text(api, f"/admin/v1/{path}&format=csv&limit=1")
    assert media == "text/csv; charset=utf-8"
    assert document.startswith("day,model,requests,ok,failed,cancelled,refused,prompt_tokens,")
    assert [(line["day"], line["total_tokens"]) for line in table(document)] == [
        (f"2026-03-0{day}", "324") for day in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("from=2026-03-02", ["m1", "m2"]),
        ("to=2026-03-02", ["m0", "m1"]),
        ("from=2026-03-02T12:30:00Z&to=2026-03-03T12:00:00%2B00:00", ["m1", "m2"]),
        ("model=m2", ["m2"]),
        ("gateway=openai", []),
        ("node=node-1&to=2026-03-01", ["m0"]),
        (f"key={UUID(int=5)}", []),
    ],
)
async def test_a_report_is_of_the_days_and_things_asked_for(
    api: Api, rows: list[UsageRecord], query: str, found: list[str]
) -> None:
    report = await api.done("GET", f"usage/report?group_by=model&user=rep&{query}")
    assert [line["model"] for line in report["items"]] == found


@pytest.mark.parametrize(
    "query",
    ["group_by=", "group_by=user,", "group_by=x", "group_by=day&from=yesterday", "group_by=day&to=0001-01-01",
     "group_by=day&from=2026-03-02T12:30:00", "group_by=day&key=x", "group_by=day&cursor=x", "group_by=day&format=xml",
     "group_by=day&since=2026-03-02", "group_by=day&limit=0"],
)  # fmt: skip
async def test_a_report_that_there_cannot_be_is_refused(api: Api, query: str) -> None:
    assert (await api("GET", f"usage/report?{query}")).status == 422


async def test_an_export_has_every_row_as_json_and_as_csv(api: Api, rows: list[UsageRecord]) -> None:
    exported = await api.done("GET", "usage/export?user=rep")
    assert [row["id"] for row in exported] == [str(row.id) for row in rows]
    assert tuple(exported[0]) == FIELDS
    document = (await text(api, "/admin/v1/usage/export?user=rep&format=csv"))[1]
    assert document.startswith(",".join(FIELDS) + "\r\n")
    assert [(line["id"], line["error"]) for line in table(document)] == [(str(row.id), 'x,"y"') for row in rows]
    two = await api.done("GET", "usage/export?user=rep&from=2026-03-02&to=2026-03-03")
    assert [row["model"] for row in two] == ["m1", "m2"]


async def test_who_asks_for_no_group_is_told_which_there_are(api: Api) -> None:
    refused = await api("GET", "usage/report?group_by=day,users")
    assert refused.message == (
        "group_by: must be one or more of user, key, gateway, model, node, day, hour, with commas and no blanks"
    )


async def test_an_export_without_rows_is_still_a_document(api: Api) -> None:
    assert await api.done("GET", "usage/export?to=2025-01-01") == []
    assert (await text(api, "/admin/v1/usage/export?format=csv&to=2025-01-01"))[1] == ",".join(FIELDS) + "\r\n"
    assert (await api("HEAD", "usage/export")).headers["Content-Type"] == "application/json"


async def test_an_export_that_cannot_begin_is_an_error_and_not_half_a_document(api: Api) -> None:
    missing = await api("GET", "usage/export?user=never")
    assert (missing.status, missing.document["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("asked", ["export", "export?format=csv", "report?format=csv&group_by=hour,user,model,key"])
async def test_readers_that_stop_reading_hold_no_connection(api: Api, asked: str) -> None:
    many = f"many_{len(asked)}"
    await api.user(many)
    async with api.gateway.database.connection() as one:
        await one.execute(MANY, many, 10_000)
        await one.execute(SUMS, many, 25_000)
    host, port = api.gateway.url.removeprefix("http://").split(":")
    readers = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        head = f"GET /admin/v1/usage/{asked} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.root}\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        readers.append(writer)

    async def free() -> bool:
        async with api.gateway.database.connection() as one:
            return not await one.fetchval(STREAMING)

    assert await eventually(free)
    for writer in readers:
        assert not writer.is_closing()
        writer.close()


async def test_commands_tell_of_another_machine(api: Api, rows: list[UsageRecord], tmp_path: Path) -> None:
    there = Commands(at_server(api.gateway.url, api.root, tmp_path / "state"))
    (line,) = await there.told("usage", "report", "--user", "rep", "--end-date", "2026-03-01")
    assert (line["user"], line["model"], line["requests"]) == ("rep", "m0", 1)
    assert await there.told("usage", "show", "rep", "--gateway", "ollama") == await api.done(
        "GET", "usage?user=rep&gateway=ollama"
    )
    assert "there is no user 'never'" in await there.refused("usage", "show", "never")
    assert [line["model"] for line in await there.told("usage", "summary", "rep", "--days", "36500")] == [
        "m0", "m1", "m2"
    ]  # fmt: skip
    listed = await there.told("usage", "list", "rep", "--days", "36500", "--model", "m1")
    assert listed == (await api.done("GET", "usage/export?user=rep"))[1:2]
    target = tmp_path / "usage.csv"
    await there.said("usage", "export", "rep", "csv", "--output", str(target))
    assert [line["model"] for line in table(target.read_text())] == ["m0", "m1", "m2"]


async def test_the_client_reads_what_the_server_tells(api: Api, rows: list[UsageRecord]) -> None:
    async with AsyncParallamaClient(base_url=api.gateway.url, api_key=api.root) as client:
        lines = await client.admin.report_usage(["day", "user"], user="rep", limit=2)
        assert [(line.day, line.user) for line in lines] == [("2026-03-01", "rep"), ("2026-03-02", "rep")]
        assert all(isinstance(line, ReportLine) for line in lines)
        exported = await client.admin.export_usage(user="rep", since=made_at(rows[1].id), until=made_at(rows[1].id))
        assert [(row.id, row.model) for row in exported] == [(rows[1].id, "m1")]
        assert (await client.admin.get_my_usage()).gateways == {}
