"""The audit trail over HTTP: who changed what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop

__all__ = ["api"]
pytestmark = in_one_loop


async def _latest(api: Api, query: str) -> dict[str, Any]:
    entry: dict[str, Any] = (await api.done("GET", f"audit?limit=1&{query}"))["items"][0]
    return entry


async def test_a_change_is_told_with_who_made_it_and_how_it_was_before(api: Api) -> None:
    await api.user("ada")
    changed = await api("PATCH", "users/ada", {"active": False})
    entry = await _latest(api, "username=ada")
    assert (entry["actor"], entry["via"], entry["action"]) == ("root", "api", "user.change")
    assert (entry["target"], entry["name"], entry["username"]) == (changed.document["id"], "ada", "ada")
    assert (entry["before"], entry["after"]) == ({"active": True}, {"active": False})
    assert entry["address"] == "127.0.0.1"
    root = await api.done("GET", "users/root")
    assert entry["actor_id"] == root["id"]


async def test_a_change_is_told_with_the_id_of_its_request(api: Api) -> None:
    made = await api("POST", "users", {"username": "ida"})
    assert (await _latest(api, "username=ida&action=user.create"))["request_id"] == made.headers["x-request-id"]


async def test_no_secret_is_told(api: Api) -> None:
    made = await api.done("POST", "users", {"username": "sia", "password": "correct horse battery"})
    key = await api.done("POST", "users/sia/keys", {})
    await api.done("PATCH", "users/sia", {"password": "another good secret"})
    entry = await _latest(api, f"target={made['id']}")
    assert entry["after"] == {"password": "********"}
    told = str(await api.everything("audit?username=sia", 100))
    assert not [secret for secret in ("correct horse", "another good", "argon2", key["key"]) if secret in told]


async def test_a_trail_is_paged_without_gaps(api: Api) -> None:
    await api.user("pat")
    for active in (False, True, False, True):
        await api.done("PATCH", "users/pat", {"active": active})
    entries = await api.everything("audit?username=pat", 3)
    assert [entry["id"] for entry in entries] == sorted((entry["id"] for entry in entries), reverse=True)
    assert [entry["action"] for entry in entries] == ["user.change"] * 4 + [
        "key.create",
        "assignment.create",
        "user.create",
    ]


async def test_a_trail_shows_what_is_asked_for(api: Api) -> None:
    await api.done("POST", "roles", {"name": "deputy", "permissions": ["manage_users", "basic_rate_limits", "use_*"]})
    key = await api.user("del", role="deputy")
    await api.done("POST", "users", {"username": "new"}, key=key)
    by_deputy = await api.everything("audit?actor=del", 100)
    assert {entry["action"] for entry in by_deputy} == {"user.create", "assignment.create"}
    assert {entry["action"] for entry in await api.everything("audit?action=role", 100)} <= {
        "role.create",
        "role.change",
    }
    assert await api.everything("audit?action=user.create&username=new", 100) == [
        entry for entry in by_deputy if entry["action"] == "user.create"
    ]


async def test_a_trail_shows_a_span_of_time(api: Api) -> None:
    await api.user("tim")
    at = datetime.fromisoformat((await _latest(api, "username=tim"))["at"])
    just_after = (at + timedelta(microseconds=1)).astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert await api.everything(f"audit?username=tim&since={just_after}", 10) == []
    assert len(await api.everything(f"audit?username=tim&until={just_after}", 10)) == 3


@pytest.mark.parametrize("query", ["limit=0", "cursor=WyJhIl0", "since=yesterday", "until=2027-01-01T00:00:00",
                                   "actor=%00", "colour=red"])  # fmt: skip
async def test_a_trail_that_cannot_be_is_refused(api: Api, query: str) -> None:
    assert (await api("GET", f"audit?{query}")).status == 422


@pytest.mark.parametrize("cursor", ["WzE4NDQ2NzQ0MDczNzA5NTUxNjE1XQ", "Wy01XQ"])
async def test_a_cursor_beyond_all_ids_is_no_error(api: Api, cursor: str) -> None:
    assert (await api("GET", f"audit?cursor={cursor}")).status == 200


async def test_the_trail_is_for_who_manages_users(api: Api) -> None:
    refused = await api("GET", "audit", key=await api.user("nosy"))
    assert (refused.status, refused.message) == (403, "you need the permission manage_users")
