"""Users over HTTP."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop


async def test_a_user_is_made_read_changed_and_deleted(api: Api) -> None:
    made = await api("POST", "users", {"username": "carol"})
    assert (made.status, made.document["role"], made.document["admin"]) == (201, "basic", False)
    assert UUID(made.document["id"])
    changed = await api.done("PATCH", "users/carol", {"username": "caroline", "role": "premium", "active": False})
    assert (changed["id"], changed["role"], changed["active"]) == (made.document["id"], "premium", False)
    assert await api.done("GET", f"users/{changed['id']}") == changed == await api.done("GET", "users/CAROLINE")
    assert (await api("DELETE", "users/caroline")).status == 204
    gone = await api("GET", "users/caroline")
    assert (gone.status, gone.message) == (404, "there is no user 'caroline'")


async def test_what_a_change_does_not_name_stays(api: Api) -> None:
    before = await api.done("POST", "users", {"username": "stays", "role": "premium", "password": "four good words"})
    after = await api.done("PATCH", "users/stays", {"active": False})
    assert after == before | {"active": False, "version": before["version"] + 1}


async def test_a_list_is_paged_without_gaps(api: Api) -> None:
    names = [f"Page-{number}" for number in range(5)]
    for name in names:
        await api.done("POST", "users", {"username": name, "role": "premium"})
    found = [user["username"] for user in await api.everything("users?role=premium", 2)]
    assert [name for name in found if name in names] == names
    assert len(found) == len(set(found))


async def test_a_list_shows_those_asked_for(api: Api) -> None:
    await api.user("dormant")
    await api.done("PATCH", "users/dormant", {"active": False})
    listed = {user["username"] for user in await api.everything("users?active=false", 100)}
    assert "dormant" in listed
    assert "root" not in listed


_CURSORS = ["%00", "WzFd", "WyJcdTAwMDAiXQ"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "role=none", "active=perhaps", "colour=red",
                                   "limit=1&limit=2", *(f"cursor={cursor}" for cursor in _CURSORS)])  # fmt: skip
async def test_a_list_that_cannot_be_is_refused(api: Api, query: str) -> None:
    assert (await api("GET", f"users?{query}")).status == 422


async def test_who_changes_an_older_version_is_told(api: Api) -> None:
    await api.user("twice")
    read = await api("GET", "users/twice")
    assert read.headers["ETag"] == f'"{read.document["version"]}"'
    first = await api("PATCH", "users/twice", {"role": "premium"}, version=read.document["version"])
    assert first.status == 200
    late = await api("PATCH", "users/twice", {"active": False}, version=read.document["version"])
    assert (late.status, late.document["error"]["code"]) == (412, "outdated")
    assert (await api("DELETE", "users/twice", version=read.document["version"])).status == 412
    assert (await api("DELETE", "users/twice", version=first.document["version"])).status == 204


async def test_a_password_is_set_and_taken_away_and_never_shown(api: Api) -> None:
    made = await api.done("POST", "users", {"username": "wordy", "password": "correct horse battery"})
    assert made["has_password"] is True
    assert not [name for name in made if name.startswith("password")]
    kept = await api.done("PATCH", "users/wordy", {"role": "premium"})
    assert kept["has_password"] is True
    taken = await api.done("PATCH", "users/wordy", {"password": None, "username": "wordless"})
    assert (taken["username"], taken["has_password"]) == ("wordless", False)


async def test_a_change_with_a_password_heeds_the_version_once(api: Api) -> None:
    made = await api.done("POST", "users", {"username": "both"})
    change = {"active": False, "password": "correct horse battery"}
    assert (await api("PATCH", "users/both", change, version=made["version"])).status == 200
    assert (await api("PATCH", "users/both", change, version=made["version"])).status == 412


@pytest.mark.parametrize("body", [{}, {"username": ""}, {"username": "a b"}, {"username": "x\0y"}, {"username": 7},
                                  {"username": "new", "colour": "red"}, {"username": "new", "role": "none"},
                                  {"username": "new", "admin": "yes"}, {"username": "new", "password": "short"},
                                  {"username": str(uuid4())}])  # fmt: skip
async def test_a_user_who_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    refused = await api("POST", "users", body)
    assert (refused.status, refused.document["error"]["code"]) == (422, "invalid")


@pytest.mark.parametrize("body", [{"username": None}, {"role": None}, {"admin": None}, {"active": None}, {"id": "x"}])
async def test_a_change_that_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    assert (await api("PATCH", "users/root", body)).status == 422


async def test_a_name_is_taken_whatever_its_case(api: Api) -> None:
    await api.user("taken")
    again = await api("POST", "users", {"username": "TAKEN"})
    assert again.status == 409
    assert "TAKEN" in again.message


async def test_the_last_admin_stays_one(api: Api) -> None:
    for change in ({"admin": False}, {"active": False}):
        refused = await api("PATCH", "users/root", change)
        assert refused.status == 409
        assert "make another admin first" in refused.message
    assert (await api("DELETE", "users/root")).status == 409


async def test_nobody_makes_or_changes_who_may_more(api: Api) -> None:
    await api.done(
        "POST", "roles", {"name": "clerk", "permissions": ["manage_users", "use_ollama", "basic_rate_limits"]}
    )
    clerk = await api.user("clark", role="clerk")
    assert (await api("POST", "users", {"username": "small"}, key=clerk)).status == 201
    for refused in (
        await api("POST", "users", {"username": "big", "role": "premium"}, key=clerk),
        await api("POST", "users", {"username": "big", "admin": True}, key=clerk),
        await api("PATCH", "users/root", {"password": "correct horse battery"}, key=clerk),
        await api("PATCH", "users/small", {"role": "admin"}, key=clerk),
        await api("DELETE", "users/root", key=clerk),
        await api("POST", "users/root/keys", {}, key=clerk),
        await api("POST", "users/root/keys/revoke", key=clerk),
    ):
        assert refused.status == 403, refused.document


async def test_who_lacks_the_permission_is_told_which(api: Api) -> None:
    key = await api.user("nosy")
    refused = await api("GET", "users", key=key)
    assert (refused.status, refused.message) == (403, "you need the permission manage_users")
    assert (await api("GET", "users", key="")).status == 401


async def test_a_user_who_is_switched_off_is_refused_with_every_key(api: Api) -> None:
    key = await api.user("leaver")
    assert (await api("GET", "/me", key=key)).status == 200
    await api.done("PATCH", "users/leaver", {"active": False})

    async def refused() -> bool:
        return (await api("GET", "/me", key=key)).status == 401

    await eventually(refused)


@pytest.mark.parametrize("name", ["nobody", "%00", "%ff", "a%2Fb", "x" * 300, "00000000-0000-0000-0000-000000000000"])
async def test_a_path_to_nobody_is_a_404(api: Api, name: str) -> None:
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        assert (await api(method, f"users/{name}", body)).status == 404
