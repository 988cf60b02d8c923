"""Every route says who is let in, and only they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop
from aiohttp import web
from aiohttp.web_urldispatcher import PrefixedSubAppResource

from parallama.admin.guards import Guard, needs, needs_any

__all__ = ["api"]
pytestmark = in_one_loop

OPEN = {"/", "/ollama", "/ollama/", "/healthz", "/readyz", "/auth/register", "/auth/login", "/auth/token",
        "/auth/logout", "/admin/v1/docs", "/admin/v1/docs/viewer.js", "/admin/v1/docs/viewer.css"}  # fmt: skip
"""What asks nobody who they are."""

GIVES_NOTHING = {
    *(f"{method} /admin/v1/gateways/{{gateway}}" for method in ("PATCH", "DELETE")),
    *(f"DELETE /admin/v1/{one}" for one in ("roles/{role}", "users/{name}", "users/{name}/roles/{id}")),
    *(f"DELETE /admin/v1/users/{{name}}/{one}" for one in ("keys/{id}", "sessions/{id}")),
    *(f"POST /admin/v1/users/{{name}}/{one}" for one in ("keys/revoke", "keys/{id}/revoke")),
    *(f"POST /admin/v1/users/{{name}}/sessions/{one}" for one in ("revoke", "rotate")),
}
"""What changes something, but gives nobody a credential or a permission."""

LESS = [{"networks": ["127.0.0.0/8"]}, {"priority_ceiling": "high"}, {"expires_in_days": 1}, {}]
"""What makes a key less than its user; {}: its secret was replaced."""


def owned(app: web.Application) -> Iterator[web.AbstractRoute]:
    """The routes that no gateway owns."""
    for resource in app.router.resources():
        if not isinstance(resource, PrefixedSubAppResource):
            yield from resource


def of_gateways(app: web.Application) -> Iterator[web.AbstractRoute]:
    for resource in app.router.resources():
        if isinstance(resource, PrefixedSubAppResource):
            yield from resource


def path_of(route: web.AbstractRoute) -> str:
    assert route.resource is not None
    return route.resource.canonical


def guard_of(route: web.AbstractRoute) -> Guard:
    guard = getattr(route.handler, "guard", None)
    assert isinstance(guard, Guard)
    return guard


def told(route: web.AbstractRoute) -> str:
    return f"{route.method} {path_of(route)}"


async def lesser_key(api: Api, limits: dict[str, Any], user: str = "root") -> str:
    """A key of an admin that is not all that they are."""
    key = await api.done("POST", f"users/{user}/keys", limits)
    if not limits:
        await api.done("POST", f"users/{user}/keys/{key['id']}/rotate", {})
    return str(key["key"])


async def refused(api: Api, route: web.AbstractRoute, key: str) -> int:
    """What the route answers who has this key, or none; variables are filled in with anything."""
    path = re.sub(r"\{[^}]*\}", "x", path_of(route))
    headers = {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})
    method = "GET" if route.method == "*" else route.method
    async with api.gateway.http.request(method, api.gateway.url + path, headers=headers) as answer:
        return answer.status


async def test_every_route_has_a_guard(api: Api) -> None:
    found = {(route.method, path_of(route)): getattr(route.handler, "guard", None) for route in owned(api.gateway.app)}
    assert len(found) > 60
    assert [place for place, guard in found.items() if not isinstance(guard, Guard)] == []


async def test_what_is_open_to_everybody_is_known(api: Api) -> None:
    found = {path_of(route) for route in owned(api.gateway.app) if route.handler.guard.public}  # type: ignore[attr-defined]
    assert found == OPEN


async def test_no_other_route_answers_strangers(api: Api) -> None:
    guarded = [route for route in owned(api.gateway.app) if path_of(route) not in OPEN]
    answers = {f"{route.method} {path_of(route)}": await refused(api, route, "") for route in guarded}
    assert set(answers.values()) == {401}, answers


async def test_no_route_that_needs_a_permission_answers_who_has_none(api: Api) -> None:
    await api.done("POST", "roles", {"name": "nothing"})
    key = await api.user("nobody", role="nothing")
    guarded = [route for route in owned(api.gateway.app) if route.handler.guard.permissions]  # type: ignore[attr-defined]
    answers = {f"{route.method} {path_of(route)}": await refused(api, route, key) for route in guarded}
    assert set(answers.values()) == {403}, answers


async def test_no_route_of_a_gateway_answers_strangers(api: Api) -> None:
    routes = list(of_gateways(api.gateway.app))
    answers = {f"{route.method} {path_of(route)}": await refused(api, route, "") for route in routes}
    assert len(routes) > 40
    assert set(answers.values()) == {401}, answers


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_state_is_for_those_who_may_view_metrics(api: Api, path: str) -> None:
    (guard,) = {route.handler.guard for route in owned(api.gateway.app) if path_of(route) == path}  # type: ignore[attr-defined]
    assert guard == needs("view_metrics")


async def test_every_change_says_whether_it_may_give_a_credential_or_a_permission(api: Api) -> None:
    changes = {route for route in owned(api.gateway.app) if route.method not in ("GET", "HEAD")}
    asked = {route for route in changes if guard_of(route).needs_full(route.method)}
    assert len(asked) > 15
    assert {told(route) for route in changes - asked if not guard_of(route).public} == GIVES_NOTHING
    assert {told(route) for route in owned(api.gateway.app) if guard_of(route).needs_full(route.method)} == {
        told(route) for route in asked
    }, "reading never does"


async def test_a_permission_that_nobody_has_judged_gives_something() -> None:
    for guard in (needs("manage_all"), needs("manage_models", "manage_users"), needs_any("view_metrics", "x"), Guard()):
        assert guard.needs_full("POST")
        assert not guard.needs_full("GET")
    assert not needs("manage_models").needs_full("DELETE")


@pytest.mark.parametrize("limits", LESS, ids=str)
async def test_a_key_that_is_less_than_its_admin_gives_nobody_anything(api: Api, limits: dict[str, Any]) -> None:
    key = await lesser_key(api, limits)
    routes = [route for route in owned(api.gateway.app) if guard_of(route).needs_full(route.method)]
    answers = {told(route): await refused(api, route, key) for route in routes}
    assert set(answers.values()) == {403}, answers


@pytest.mark.parametrize("limits", LESS, ids=str)
async def test_a_key_that_is_less_than_its_admin_reads_and_changes_gateways(api: Api, limits: dict[str, Any]) -> None:
    key = await lesser_key(api, limits)
    routes = [route for route in owned(api.gateway.app) if route.method == "GET" and "{" not in path_of(route)]
    answers = {told(route): await refused(api, route, key) for route in routes}
    assert set(answers.values()) == {200}, answers
    assert (await api("PATCH", "gateways/openai", {"default_model": "small"}, key=key)).status == 200
    assert (await api("DELETE", "gateways/openai", key=key)).status == 204


@pytest.mark.parametrize("limits", LESS, ids=str)
async def test_a_key_that_is_less_than_its_admin_takes_away(api: Api, limits: dict[str, Any]) -> None:
    key, name = await lesser_key(api, limits), f"gone-{next(iter(limits), 'rotated').replace('_', '-')}"
    await api.user(name)
    assert (await api.done("POST", f"users/{name}/keys/revoke", key=key)) == {"revoked": 1}
    assert (await api("DELETE", f"users/{name}", key=key)).status == 204


async def test_who_may_everything_with_a_key_that_ends_makes_nothing_that_does_not(api: Api) -> None:
    await api.done("POST", "users", {"username": "other"})
    made = await api.done("POST", "users/root/keys", {"expires_in_days": 1})
    where = f"users/root/keys/{made['id']}"
    for method, path, body in (
        ("POST", "users/root/keys", {}),
        ("PATCH", where, {"expires_at": None}),
        ("POST", f"{where}/rotate", {}),
        ("POST", "users", {"username": "new", "admin": True, "password": "correct horse battery"}),
        ("PATCH", "users/other", {"admin": True}),
        ("PATCH", "users/other", {"password": "correct horse battery"}),
        ("POST", "users/other/roles", {"role": "premium"}),
        ("POST", "roles", {"name": "wide", "permissions": ["manage_users"]}),
        ("PATCH", "roles/basic", {"add_permissions": ["manage_users"]}),
        ("PATCH", "auth", {"allow_unauthenticated": True}),
    ):
        answer = await api(method, path, body, key=made["key"])
        assert (answer.status, "this key expires" in answer.message) == (403, True), path
    assert (await api.done("GET", where))["version"] == made["version"]
    assert (await api("GET", "users/new")).status == 404
    assert not (await api.done("GET", "users/other"))["admin"]


async def test_a_login_is_all_that_its_user_is(api: Api) -> None:
    words = {"username": "boss", "password": "correct horse battery"}
    await api.done("POST", "users", {**words, "admin": True})
    token = (await api.done("POST", "/auth/login", words, key=""))["access_token"]
    assert (await api("POST", "users/boss/keys", {}, key=token)).status == 201
