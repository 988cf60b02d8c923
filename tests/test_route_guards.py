"""Every route says who is let in, and only they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from admin_api import Api, api, in_one_loop
from aiohttp import web
from aiohttp.web_urldispatcher import PrefixedSubAppResource

from parallama.admin.guards import Guard, needs

__all__ = ["api"]
pytestmark = in_one_loop

OPEN = {"/", "/ollama", "/ollama/", "/healthz", "/readyz", "/auth/register", "/auth/login", "/auth/token",
        "/auth/logout", "/admin/v1/docs", "/admin/v1/docs/viewer.js", "/admin/v1/docs/viewer.css"}  # fmt: skip
"""What asks nobody who they are."""


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
