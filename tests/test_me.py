"""What callers see and change of themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop

_WORDS, _NEW_WORDS = "correct horse battery", "another good secret"


async def _login(api: Api, name: str, password: str = _WORDS) -> str:
    body = {"username": name, "password": password}
    return str((await api.done("POST", "/auth/login", body, key=""))["access_token"])


async def test_everybody_learns_who_they_are(api: Api) -> None:
    key = await api.user("bob", password=_WORDS)
    me = await api.done("GET", "/me", key=key)
    assert set(me) == {"user_id", "username", "roles", "permissions"}
    assert (me["username"], me["roles"]) == ("bob", ["basic"])
    assert me["permissions"] == ["basic_rate_limits", "use_ollama"]
    assert me["user_id"] == (await api.done("GET", "users/bob"))["id"]
    assert await api.done("GET", "/me", key=await _login(api, "bob")) == me


async def test_an_admin_learns_that_they_may_everything(api: Api) -> None:
    held = (await api.done("GET", "/me"))["permissions"]
    assert held == (await api.done("GET", "permissions"))["permissions"]
    assert "use_*" in held


async def test_roles_of_a_hierarchy_are_all_told(api: Api) -> None:
    await api.done("POST", "roles", {"name": "lead", "parent": "premium", "permissions": ["view_metrics"]})
    me = await api.done("GET", "/me", key=await api.user("lea", role="lead"))
    assert me["roles"] == ["lead", "premium"]
    assert {"view_metrics", "use_openai"} <= set(me["permissions"])


@pytest.mark.parametrize("path", ["/me", "/me/keys"])
async def test_nobody_is_told_nothing(api: Api, path: str) -> None:
    assert (await api("GET", path, key="")).status == 401


async def test_own_keys_are_made_read_changed_and_deleted(api: Api) -> None:
    key = await api.user("own")
    made = await api("POST", "/me/keys", {"description": "phone", "models": ["qwen*"]}, key=key)
    assert made.status == 201
    assert made.document["username"] == "own"
    where = f"/me/keys/{made.document['id']}"
    changed = await api.done("PATCH", where, {"enabled": False}, key=key)
    assert (changed["enabled"], changed["models"], changed["description"]) == (False, ["qwen*"], "phone")
    assert await api.done("GET", where, key=key) == changed
    assert (await api("PATCH", where, {"enabled": True}, key=key, version=changed["version"] - 1)).status == 412
    rotated = await api.done("POST", f"{where}/rotate", {"grace_s": 0}, key=key)
    assert rotated["key"] != made.document["key"]
    assert (await api.done("POST", f"{where}/revoke", key=key))["revoked_at"] is not None
    assert (await api("DELETE", where, key=key)).status == 204
    assert [one["description"] for one in (await api.done("GET", "/me/keys", key=key))["items"]] == [""]


async def test_own_keys_are_paged_without_gaps(api: Api) -> None:
    key = await api.user("owner")
    made = [(await api.done("POST", "/me/keys", {}, key=key))["id"] for _ in range(3)]
    first = await api.done("GET", "/me/keys?limit=2", key=key)
    rest = await api.done("GET", f"/me/keys?limit=2&cursor={first['next_cursor']}", key=key)
    assert [one["id"] for one in first["items"] + rest["items"]][1:] == made
    assert rest["next_cursor"] is None


async def test_keys_of_others_are_not_there(api: Api) -> None:
    await api.user("victim")
    (theirs,) = (await api.done("GET", "users/victim/keys"))["items"]
    key = await api.user("thief")
    where = f"/me/keys/{theirs['id']}"
    for method, path, body in (
        ("GET", where, None),
        ("PATCH", where, {"enabled": False}),
        ("DELETE", where, None),
        ("POST", f"{where}/rotate", {}),
        ("POST", f"{where}/revoke", None),
    ):
        assert (await api(method, path, body, key=key)).status == 404
    assert (await api.done("GET", f"users/victim/keys/{theirs['id']}")) == theirs


@pytest.mark.parametrize("limits", [{"models": ["qwen*"]}, {"gateways": ["ollama"]}, {"networks": ["127.0.0.0/8"]},
                                    {"priority_ceiling": "low"}, {"expires_in_days": 1}], ids=str)  # fmt: skip
async def test_a_limited_key_never_makes_a_wider_one(api: Api, limits: dict[str, Any]) -> None:
    name = f"lim-{next(iter(limits))}"
    await api.user(name, password=_WORDS)
    key = await api.done("POST", f"users/{name}/keys", limits)
    where = f"/me/keys/{key['id']}"
    for method, path, body in (
        ("POST", "/me/keys", {}),
        ("PATCH", where, {next(iter(limits)): None} if "expires_in_days" not in limits else {"expires_at": None}),
        ("DELETE", where, None),
        ("POST", f"{where}/rotate", {}),
        ("POST", f"{where}/revoke", None),
        ("POST", "/me/password", {"current": _WORDS, "new": _NEW_WORDS}),
    ):
        refused = await api(method, path, body, key=key["key"])
        assert (refused.status, "limited" in refused.message) == (403, True), path
    assert (await api("GET", "/me", key=key["key"])).status == 200


async def test_a_password_is_changed_by_who_knows_it(api: Api) -> None:
    await api.user("pam", password=_WORDS)
    token = await _login(api, "pam")
    wrong = await api("POST", "/me/password", {"current": "wrong", "new": _NEW_WORDS}, key=token)
    assert wrong.status == 403
    weak = await api("POST", "/me/password", {"current": _WORDS, "new": "short"}, key=token)
    assert weak.status == 422
    changed = await api("POST", "/me/password", {"current": _WORDS, "new": _NEW_WORDS}, key=token)
    assert changed.status == 204

    async def ended() -> bool:
        return (await api("GET", "/me", key=token)).status == 401

    await eventually(ended)
    await _login(api, "pam", _NEW_WORDS)


async def test_who_has_no_password_changes_none(api: Api) -> None:
    key = await api.user("none")
    assert (await api("POST", "/me/password", {"current": "any", "new": _NEW_WORDS}, key=key)).status == 403


async def test_a_password_is_not_guessed_here(api: Api) -> None:
    key = await api.user("guessed", password=_WORDS)
    body = {"current": "wrong", "new": _NEW_WORDS}

    async def status() -> int:
        return (await api("POST", "/me/password", body, key=key)).status

    assert [await status() for _ in range(4)] == [403] * 4
    # at once: the wait is a second, which a slow machine takes for one of them
    assert sorted(await asyncio.gather(status(), status())) == [403, 429]


async def test_an_anonymous_caller_has_nothing_to_change(api: Api) -> None:
    await api.done("PATCH", "auth", {"allow_unauthenticated": True})

    async def let_in() -> bool:
        return (await api("GET", "/me", key="")).status == 200

    await eventually(let_in)
    for path, body in (("/me/keys", {}), ("/me/password", {"current": "x", "new": _NEW_WORDS})):
        assert (await api("POST", path, body, key="")).status == 403
    await api.done("PATCH", "auth", {"allow_unauthenticated": False})
