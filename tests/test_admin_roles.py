"""Roles, permissions and assignments over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop


def _later(seconds: float = 3600) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def test_a_role_is_made_read_changed_and_deleted(api: Api) -> None:
    made = await api("POST", "roles", {"name": "writer", "parent": "basic", "permissions": ["view_metrics"]})
    assert made.status == 201
    assert (made.document["permissions"], made.document["seeded"]) == (["view_metrics"], False)
    assert made.document["inherited"] == ["basic_rate_limits", "use_ollama"]
    changed = await api.done("PATCH", "roles/writer", {"name": "author", "parent": None, "description": "Writes."})
    assert (changed["parent"], changed["inherited"], changed["permissions"]) == (None, [], ["view_metrics"])
    assert await api.done("GET", "roles/author") == changed
    assert (await api("DELETE", "roles/author")).status == 204
    gone = await api("GET", "roles/author")
    assert (gone.status, gone.message) == (404, "there is no role 'author'")


async def test_permissions_are_added_and_removed(api: Api) -> None:
    await api.done("POST", "roles", {"name": "tuned", "permissions": ["view_metrics", "use_ollama"]})
    changed = await api.done(
        "PATCH", "roles/tuned", {"add_permissions": ["use_openai"], "remove_permissions": ["view_metrics"]}
    )
    assert changed["permissions"] == ["use_ollama", "use_openai"]
    assert (await api.done("PATCH", "roles/tuned", {"permissions": []}))["permissions"] == []


async def test_the_permissions_that_there_are_are_listed(api: Api) -> None:
    known = (await api.done("GET", "permissions"))["permissions"]
    assert known == sorted(known)
    assert {"manage_users", "manage_roles", "use_ollama", "use_*"} <= set(known)


async def test_a_list_is_paged_without_gaps(api: Api) -> None:
    names = [f"page-{number}" for number in range(4)]
    for name in names:
        await api.done("POST", "roles", {"name": name})
    found = [role["name"] for role in await api.everything("roles", 2)]
    assert found == sorted(found)
    assert {"admin", "basic", "premium", *names} <= set(found)
    assert len(found) == len(set(found))


async def test_who_changes_an_older_version_is_told(api: Api) -> None:
    await api.done("POST", "roles", {"name": "versioned"})
    read = await api("GET", "roles/versioned")
    assert read.headers["ETag"] == f'"{read.document["version"]}"'
    assert (await api("PATCH", "roles/versioned", {"description": "a"}, version=1)).status == 200
    assert (await api("PATCH", "roles/versioned", {"description": "b"}, version=1)).status == 412
    assert (await api("DELETE", "roles/versioned", version=1)).status == 412
    assert (await api("DELETE", "roles/versioned", version=2)).status == 204


@pytest.mark.parametrize("body", [{}, {"name": "Big"}, {"name": "x\0"}, {"name": "new", "parent": "none"},
                                  {"name": "new", "permissions": ["fly"]}, {"name": "new", "permissions": "use_ollama"},
                                  {"name": "new", "colour": "red"}, {"name": "new", "description": "\n"}])  # fmt: skip
async def test_a_role_that_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    refused = await api("POST", "roles", body)
    assert (refused.status, refused.document["error"]["code"]) == (422, "invalid")


async def test_what_stands_in_the_way_is_named(api: Api) -> None:
    await api.done("POST", "roles", {"name": "upper"})
    await api.done("POST", "roles", {"name": "lower", "parent": "upper"})
    for method, path, body in (
        ("POST", "roles", {"name": "upper"}),
        ("PATCH", "roles/upper", {"parent": "lower"}),
        ("PATCH", "roles/upper", {"name": "lower"}),
        ("DELETE", "roles/upper", None),
        ("PATCH", "roles/admin", {"description": "mine"}),
        ("PATCH", "roles/basic", {"name": "simple"}),
        ("DELETE", "roles/premium", None),
    ):
        refused = await api(method, path, body)
        assert (refused.status, refused.document["error"]["code"]) == (409, "conflict"), path


async def test_a_role_in_use_is_deleted_with_cascade_only(api: Api) -> None:
    await api.done("POST", "roles", {"name": "worn"})
    await api.done("POST", "roles", {"name": "child", "parent": "worn"})
    await api.user("wearer", role="worn")
    assert (await api.done("GET", "roles/worn"))["users"] == 1
    assert (await api("DELETE", "roles/worn")).status == 409
    assert (await api("DELETE", "roles/worn?cascade=true")).status == 204
    assert (await api.done("GET", "roles/child"))["parent"] is None
    assert (await api.done("GET", "users/wearer"))["role"] is None


async def test_a_change_of_a_role_counts_for_the_next_request(api: Api) -> None:
    await api.done("POST", "roles", {"name": "seer"})
    key = await api.user("sam", role="seer")
    assert (await api("GET", "users", key=key)).status == 403
    await api.done("PATCH", "roles/seer", {"add_permissions": ["manage_users"]})

    async def let_in() -> bool:
        return (await api("GET", "users", key=key)).status == 200

    await eventually(let_in)


async def test_nobody_hands_on_more_than_they_hold(api: Api) -> None:
    await api.done("POST", "roles", {"name": "steward", "permissions": ["manage_roles", "use_ollama"]})
    key = await api.user("stew", role="steward")
    await api.user("friend")
    assert (await api("POST", "roles", {"name": "lesser", "permissions": ["use_ollama"]}, key=key)).status == 201
    for method, path, body in (
        ("POST", "roles", {"name": "more", "permissions": ["manage_users"]}),
        ("POST", "roles", {"name": "more", "parent": "admin"}),
        ("PATCH", "roles/lesser", {"add_permissions": ["use_*"]}),
        ("PATCH", "roles/premium", {"permissions": []}),
        ("DELETE", "roles/admin", None),
        ("POST", "users/friend/roles", {"role": "premium"}),
        ("POST", "users/stew/roles", {"role": "admin"}),
    ):
        refused = await api(method, path, body, key=key)
        assert refused.status == 403, (path, refused.document)
    assert (await api("GET", "users", key=key)).message == "you need the permission manage_users"


async def test_a_role_is_assigned_for_a_time_and_taken_away(api: Api) -> None:
    await api.user("tess")
    ends = _later()
    made = await api("POST", "users/tess/roles", {"role": "premium", "expires_at": ends})
    assert (made.status, made.document["assigned_by"], made.document["main"]) == (201, "root", False)
    assert datetime.fromisoformat(made.document["expires_at"]) == datetime.fromisoformat(ends)
    where = f"users/tess/roles/{made.document['id']}"
    assert await api.done("GET", where) == made.document
    assert (await api.done("PATCH", where, {"expires_at": None}))["expires_at"] is None
    assert (await api.done("GET", "users/tess"))["roles"] == ["basic", "premium"]
    assert (await api("DELETE", where)).status == 204
    ended = await api.done("GET", where)
    assert ended["ended_by"] == "root"
    assert (await api("DELETE", where)).status == 409
    assert (await api.done("GET", "users/tess"))["roles"] == ["basic"]


async def test_the_history_of_roles_is_paged_without_gaps(api: Api) -> None:
    await api.user("hugo")
    made = []
    for _ in range(4):
        assigned = await api.done("POST", "users/hugo/roles", {"role": "premium"})
        await api.done("DELETE", f"users/hugo/roles/{assigned['id']}")
        made.append(assigned["id"])
    history = await api.everything("users/hugo/roles?ended=true", 2)
    assert [held["id"] for held in history][1:] == made
    assert [held["role"] for held in await api.everything("users/hugo/roles", 2)] == ["basic"]


@pytest.mark.parametrize("body", [{}, {"role": "none"}, {"role": "premium", "expires_at": "2020-01-01T00:00:00Z"},
                                  {"role": "premium", "expires_at": "tomorrow"}, {"role": "x\0"}])  # fmt: skip
async def test_an_assignment_that_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    assert (await api("POST", "users/root/roles", body)).status == 422


async def test_a_role_is_not_given_twice(api: Api) -> None:
    await api.user("dora")
    again = await api("POST", "users/dora/roles", {"role": "basic"})
    assert again.status == 409
    assert "basic" in again.message
    (main,) = (await api.done("GET", "users/dora/roles"))["items"]
    assert (await api("PATCH", f"users/dora/roles/{main['id']}", {"expires_at": _later()})).status == 409


async def test_an_assignment_is_found_below_its_own_user_only(api: Api) -> None:
    await api.user("owen")
    (held,) = (await api.done("GET", "users/owen/roles"))["items"]
    for where in (
        f"users/root/roles/{held['id']}",
        f"users/owen/roles/{uuid4()}",
        "users/owen/roles/x",
        "users/no/roles/x",
    ):
        for method, body in (("GET", None), ("PATCH", {"expires_at": None}), ("DELETE", None)):
            assert (await api(method, where, body)).status == 404, where
    assert (await api.done("GET", "users/owen"))["roles"] == ["basic"]


@pytest.mark.parametrize("name", ["none", "%00", "%ff", "A", "x" * 300])
async def test_a_path_to_no_role_is_a_404(api: Api, name: str) -> None:
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        assert (await api(method, f"roles/{name}", body)).status == 404


async def test_nobody_gives_for_longer_than_they_have(api: Api) -> None:
    await api.done("POST", "roles", {"name": "deputy", "permissions": ["manage_users", "manage_roles"]})
    key, soon, later = await api.user("stand-in"), "2199-01-01T00:00:00Z", "2199-06-01T00:00:00Z"
    await api.done("POST", "users/stand-in/roles", {"role": "deputy", "expires_at": soon})
    await api.user("other")
    await api.user("second")
    given = await api.done("POST", "users/second/roles", {"role": "deputy", "expires_at": soon})
    for method, path, body in (
        ("PATCH", "users/second", {"role": "deputy"}),
        ("PATCH", f"users/second/roles/{given['id']}", {"expires_at": None}),
        ("PATCH", f"users/second/roles/{given['id']}", {"expires_at": later}),
        ("POST", "users/other/roles", {"role": "deputy"}),
        ("POST", "users", {"username": "accomplice", "role": "deputy"}),
        ("PATCH", "roles/deputy", {"description": "for ever"}),
    ):
        answer = await api(method, path, body, key=key)
        assert answer.status == 403
        assert answer.message.endswith("you hold manage_roles until 2199-01-01T00:00:00Z")
    await api.done("POST", "users/other/roles", {"role": "deputy", "expires_at": soon}, key=key)
    await api.done("POST", "users", {"username": "newcomer"}, key=key)  # of a role that the deputy has for good


async def test_an_admin_for_a_while_makes_no_admin_for_good(api: Api) -> None:
    key = await api.user("holiday")
    await api.done("POST", "users/holiday/roles", {"role": "admin", "expires_at": "2199-01-01T00:00:00Z"})
    for method, path, body in (
        ("PATCH", "users/holiday", {"admin": True}),
        ("PATCH", "users/holiday", {"role": "premium"}),
        ("POST", "users", {"username": "fellow", "admin": True}),
    ):
        assert (await api(method, path, body, key=key)).status == 403
    await api.done("POST", "users", {"username": "guest"}, key=key)
