"""Logging in over HTTP, the sessions that come of it, and the settings of how callers may come in."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop

_WORDS = "correct horse battery"


async def _logged_in(api: Api, name: str) -> dict[str, Any]:
    await api.user(name, password=_WORDS)
    tokens: dict[str, Any] = await api.done("POST", "/auth/login", {"username": name, "password": _WORDS}, key="")
    return tokens


async def _is_refused(api: Api, key: str) -> bool:
    return (await api("GET", "/me", key=key)).status == 401


async def test_who_registers_is_basic_and_can_refresh(api: Api) -> None:
    made = await api("POST", "/auth/register", {"username": "reg", "password": _WORDS}, key="")
    assert made.status == 201
    assert set(made.document) == {"user_id", "username", "role", "refresh_token"}
    assert (made.document["username"], made.document["role"]) == ("reg", "basic")
    assert made.document["refresh_token"].startswith("rt_")
    tokens = await api.done("POST", "/auth/token", {"refresh_token": made.document["refresh_token"]}, key="")
    assert (await api.done("GET", "/me", key=tokens["access_token"]))["username"] == "reg"


async def test_a_name_that_is_taken_and_a_weak_password_are_refused(api: Api) -> None:
    taken = await api("POST", "/auth/register", {"username": "ROOT", "password": _WORDS}, key="")
    assert taken.status == 409
    weak = await api("POST", "/auth/register", {"username": "weak", "password": "short"}, key="")
    assert (weak.status, "short" in weak.message) == (422, False)


@pytest.mark.parametrize(("name", "password"), [("username", "password"), ("account", "passwd")])
async def test_a_login_gives_tokens_whatever_its_fields_are_called(api: Api, name: str, password: str) -> None:
    user = f"log-{name}"
    await api.user(user, password=_WORDS)
    answer = await api("POST", "/auth/login", {name: user.upper(), password: _WORDS}, key="")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    tokens = answer.document
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 1800)
    assert (await api.done("GET", "/me", key=tokens["access_token"]))["username"] == user
    assert (await api.done("GET", f"users/{user}"))["last_login_at"] is not None


@pytest.mark.parametrize("body", [{}, {"username": "root"}, {"password": "x"}, {"username": 7, "password": "x"},
                                  {"username": "root", "password": ""}, {"username": ["root"], "password": "x"},
                                  {"username": "root", "account": "root", "password": "x"}])  # fmt: skip
async def test_a_login_that_lacks_something_is_told_what(api: Api, body: dict[str, object]) -> None:
    refused = await api("POST", "/auth/login", body, key="")
    assert (refused.status, refused.document["error"]["code"]) == (400, "missing_parameter")
    assert ("username or account" in refused.message) != ("password or passwd" in refused.message)


@pytest.mark.parametrize("path", ["/auth/register", "/auth/token", "/auth/logout"])
async def test_what_is_not_said_is_named(api: Api, path: str) -> None:
    assert (await api("POST", path, {}, key="")).document["error"]["code"] == "missing_parameter"


async def test_a_wrong_login_says_not_whether_there_is_such_a_user(api: Api) -> None:
    await api.user("known", password=_WORDS)
    await api.user("keyed")
    refusals = [
        await api("POST", "/auth/login", {"username": name, "password": "wrong"}, key="")
        for name in ("known", "unknown", "keyed", "\0", "x" * 1000)
    ]
    assert {refused.status for refused in refusals} == {401}
    assert len({refused.message for refused in refusals}) == 1


async def test_a_refresh_token_is_good_once(api: Api) -> None:
    first = await _logged_in(api, "once")
    body = {"refresh_token": first["refresh_token"]}
    second = await api.done("POST", "/auth/token", body, key="")
    assert set(second) == set(first)
    again = await api("POST", "/auth/token", body, key="")
    assert (again.status, again.document["error"]["code"]) == (401, "already_rotated")
    assert (await api("POST", "/auth/token", {"refresh_token": second["refresh_token"]}, key="")).status == 200


async def test_a_refresh_token_is_tried_five_times_a_minute(api: Api) -> None:
    body = {"refresh_token": (await _logged_in(api, "eager"))["refresh_token"]}
    statuses = [(await api("POST", "/auth/token", body, key="")).status for _ in range(6)]
    assert statuses == [200, 401, 401, 401, 401, 429]
    assert "Retry-After" in (await api("POST", "/auth/token", body, key="")).headers


async def test_a_logout_ends_the_session(api: Api) -> None:
    tokens = await _logged_in(api, "out")
    body = {"refresh_token": tokens["refresh_token"]}
    assert (await api("POST", "/auth/logout", body, key="")).status == 204
    assert (await api("POST", "/auth/token", body, key="")).status == 401
    await eventually(lambda: _is_refused(api, tokens["access_token"]))
    assert (await api("POST", "/auth/logout", {"refresh_token": "rt_unknown"}, key="")).status == 204


async def test_sessions_are_listed_and_ended(api: Api) -> None:
    tokens = await _logged_in(api, "ses")
    (session,) = (await api.done("GET", "users/ses/sessions"))["items"]
    assert (session["username"], session["address"], session["revoked_at"]) == ("ses", "127.0.0.1", None)
    assert (await api("DELETE", f"users/root/sessions/{session['id']}")).status == 404
    assert (await api("DELETE", f"users/ses/sessions/{uuid4()}")).status == 404
    assert (await api("DELETE", "users/ses/sessions/x")).status == 404
    assert (await api("DELETE", f"users/ses/sessions/{session['id']}")).status == 204
    await eventually(lambda: _is_refused(api, tokens["access_token"]))
    assert (await api.done("GET", "users/ses/sessions"))["items"] == []
    (ended,) = (await api.done("GET", "users/ses/sessions?ended=true"))["items"]
    assert ended["revoked_for"] == "admin"


async def test_sessions_are_paged_without_gaps(api: Api) -> None:
    await api.user("many", password=_WORDS)
    for _ in range(3):
        await api.done("POST", "/auth/login", {"username": "many", "password": _WORDS}, key="")
    found = await api.everything("users/many/sessions", 2)
    assert len({session["id"] for session in found}) == 3
    assert await api.done("POST", "users/many/sessions/revoke") == {"revoked": 3}
    assert await api.done("POST", "users/many/sessions/revoke") == {"revoked": 0}


async def test_access_tokens_end_while_the_sessions_stay(api: Api) -> None:
    tokens = await _logged_in(api, "gen")
    assert await api.done("POST", "users/gen/sessions/rotate") == {"rotated": 1}
    await eventually(lambda: _is_refused(api, tokens["access_token"]))
    assert (await api("POST", "/auth/token", {"refresh_token": tokens["refresh_token"]}, key="")).status == 200


async def test_sessions_of_who_may_more_are_not_ended(api: Api) -> None:
    await api.done("POST", "roles", {"name": "clerk", "permissions": ["manage_users"]})
    key = await api.user("clark", role="clerk")
    assert (await api("POST", "users/root/sessions/revoke", key=key)).status == 403
    assert (await api("GET", "users/nobody/sessions", key=key)).status == 404


async def test_another_password_ends_the_sessions(api: Api) -> None:
    tokens = await _logged_in(api, "reset")
    await api.done("PATCH", "users/reset", {"password": "another good secret"})
    await eventually(lambda: _is_refused(api, tokens["access_token"]))
    assert (await api("POST", "/auth/login", {"username": "reset", "password": _WORDS}, key="")).status == 401


async def test_how_callers_come_in_is_read_and_changed(api: Api) -> None:
    before = await api.done("GET", "auth")
    assert before == {"header_name": None, "allow_unauthenticated": False, "version": 0}
    assert (await api("GET", "/me", key="")).status == 401
    changed = await api("PATCH", "auth", {"header_name": "X-Team-Key", "allow_unauthenticated": True})
    assert changed.document == {"header_name": "x-team-key", "allow_unauthenticated": True, "version": 1}
    assert changed.headers["ETag"] == '"1"'

    async def by_header() -> bool:
        async with api.gateway.http.get(f"{api.gateway.url}/me", headers={"X-Team-Key": api.root}) as answer:
            return bool((await answer.json()).get("username") == "root")

    await eventually(by_header)
    assert (await api.done("GET", "/me", key=""))["username"] == "anonymous"
    assert (await api("PATCH", "auth", {"header_name": None}, version=0)).status == 412
    ended = await api.done("PATCH", "auth", {"header_name": None, "allow_unauthenticated": False})
    assert ended == {"header_name": None, "allow_unauthenticated": False, "version": 2}
    await eventually(lambda: _is_refused(api, ""))


@pytest.mark.parametrize("body", [{"header_name": "a b"}, {"header_name": "accept"}, {"header_name": ""},
                                  {"allow_unauthenticated": None}, {"allow_unauthenticated": 1}, {"x": 1}])  # fmt: skip
async def test_ways_in_that_cannot_be_are_refused(api: Api, body: dict[str, object]) -> None:
    assert (await api("PATCH", "auth", body)).status == 422


async def test_who_manages_users_alone_does_not_change_the_ways_in(api: Api) -> None:
    await api.done("POST", "roles", {"name": "half", "permissions": ["manage_users"]})
    refused = await api("GET", "auth", key=await api.user("hal", role="half"))
    assert (refused.status, refused.message) == (403, "you need the permission manage_models")
